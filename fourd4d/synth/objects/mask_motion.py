"""Whether a mask moves as the picture in it does: dense flow between neighbouring looks.

A mask that follows a thing is carried from one look to the next by the picture's own motion, and
its centre goes where its pixels go, and it grows as they spread. A mask that flickers, swallows a
neighbour, or is cut by the picture's edge does not; how far it strays from its pixels says how far
to trust it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_CALM = 3  # Looks either way over which a mask's flicker evens out.
_CALMER = 1.4  # How many times less than its area a thing's side must flicker to tell its size.


def backward_flow(grey: UInt8[np.ndarray, "M H W"]) -> Float[np.ndarray, "M-1 H W 2"]:
    """From each pixel of a look to its place in the look before, pixels (x, y)."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    out = [solver.calc(after, before, None)  # type: ignore[call-overload]
           for before, after in zip(grey, grey[1:])]
    return np.array(out, np.float32).reshape(len(grey) - 1, *grey.shape[1:], 2)


def warp(mask: Bool[np.ndarray, "H W"], step: Float[np.ndarray, "H W 2"], way: int = 1
         ) -> Bool[np.ndarray, "H W"]:
    """A mask brought to the next look (``way`` 1) or to the one before (-1).

    Args:
      step: the backward flow of the later of the two looks.
    """
    height, width = mask.shape
    if way > 0:
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return cv2.remap(mask.astype(np.uint8), x + step[..., 0], y + step[..., 1],
                         cv2.INTER_NEAREST) > 0
    ys, xs = np.nonzero(mask)
    came = np.round(np.stack([xs, ys], 1) + step[ys, xs]).astype(int)
    came = came[((came >= 0) & (came < (width, height))).all(1)]
    out = np.zeros(mask.shape, np.uint8)
    out[came[:, 1], came[:, 0]] = 1
    return cv2.morphologyEx(out, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0


def object_flow(grey: UInt8[np.ndarray, "M H W"], masks: Bool[np.ndarray, "M H W"],
                flow: Float[np.ndarray, "M-1 H W 2"]) -> Float[np.ndarray, "M-1 H W 2"]:
    """The backward flow, in a thing's masks looked for anew around the way of their centres.

    Flow over the whole picture falls short where a thing is smooth, or goes farther than its size
    between two looks. What is found anew stands where it makes the two looks more alike.
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    height, width = masks.shape[1:]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    middle = centres(masks)
    out = flow.copy()
    for before in np.flatnonzero(np.isfinite(middle[:-1, 0] + middle[1:, 0])):
        now = before + 1
        way = middle[now] - middle[before]
        area = _around(masks[now])
        matrix = np.array([[1, 0, way[0]], [0, 1, way[1]]])
        shifted = cv2.warpAffine(grey[before], matrix, (width, height),
                                 borderMode=cv2.BORDER_REPLICATE)
        one, other = (np.ascontiguousarray(g[area]) for g in (grey[now], shifted))
        found = solver.calc(one, other, None) - way.astype(np.float32)  # type: ignore
        inside = masks[now][area]
        errors = [np.abs(cv2.remap(grey[before], x[area] + step[..., 0], y[area] + step[..., 1],
                                   cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[inside]
                         - grey[now][area][inside].astype(np.float32)).mean()
                  for step in (found, flow[before][area])]
        if errors[0] <= errors[1]:
            out[before][area][inside] = found[inside]
    return out


def _around(mask: np.ndarray, least: int = 48) -> tuple[slice, slice]:
    """The mask's box and what is about it, as slices of rows and columns."""
    out = []
    for axis in (1, 0):
        line = np.flatnonzero(mask.any(axis))
        first, last = int(line[0]), int(line[-1])
        pad = max((last + 1 - first) // 4, (least - (last + 1 - first)) // 2, 8)
        out.append(slice(max(first - pad, 0), min(last + 1 + pad, mask.shape[1 - axis])))
    return out[0], out[1]


def centres(masks: Bool[np.ndarray, "M H W"]) -> Float[np.ndarray, "M 2"]:
    """Centres (x, y) of masks, pixels; NaN where they are empty."""
    out = np.full((len(masks), 2), np.nan)
    for m in np.flatnonzero(masks.any((1, 2))):
        out[m] = np.mean(np.nonzero(masks[m])[::-1], axis=1)
    return out


def touches_border(masks: Bool[np.ndarray, "M H W"]) -> Bool[np.ndarray, "M"]:
    """Whether the picture's edge cuts a mask."""
    return np.asarray(masks[:, [0, -1]].any((1, 2)) | masks[:, :, [0, -1]].any((1, 2)))


def warped_iou(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"]
               ) -> Float[np.ndarray, "M-1"]:
    """Overlap (IoU) of each mask with the one before it, brought there by the flow; NaN where one
    of them is empty."""
    out = np.full(len(masks) - 1, np.nan)
    for m in np.flatnonzero(masks[:-1].any((1, 2)) & masks[1:].any((1, 2))):
        came = warp(masks[m], flow[m])
        out[m] = (came & masks[m + 1]).sum() / (came | masks[m + 1]).sum()
    return out


def drift(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"]
          ) -> Float[np.ndarray, "M 2"]:
    """How far the mask's centre is from where its pixels' motion puts it, pixels (x, y); NaN where
    empty.

    The pixels' way is summed over the looks in which the mask is seen and held where it is not, and
    is laid over the centre's way such that most looks agree.
    """
    return _apart(masks, centres(masks), lambda before, now: -np.median(
        flow[before][masks[now]], axis=0))


def split_flicker(apart: Float[np.ndarray, "M K"]) -> tuple[np.ndarray, np.ndarray]:
    """What a mask strays from its pixels: from look to look, and over ``_CALM`` looks either way.

    Of the first the pixels know better; in the second their own small errors add up.
    """
    seen = np.flatnonzero(np.isfinite(apart[:, 0]))
    drift = np.full(apart.shape, np.nan)
    for m in seen:
        drift[m] = np.median(apart[seen[np.abs(seen - m) <= _CALM]], axis=0)
    return apart - drift, drift


def sizes(masks: Bool[np.ndarray, "M H W"]
          ) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Size of the thing in each frame, pixels, and the share by which it may be too large.

    The size is the root of its area, or its width or height where these flicker much less, as of
    who walks; sides that the picture's edge cuts do not count. A thing of which a part comes into
    view grows along one side: its area then changes by half as much, and gives that away.
    """
    count, height, width = masks.shape
    logs = np.full((3, count), np.nan)
    for m, mask in enumerate(masks):
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(xs):
            cut = xs[0] == 0 or xs[-1] == width - 1, ys[0] == 0 or ys[-1] == height - 1
            sides = (0.0 if any(cut) else mask.sum(), 0.0 if cut[0] else len(xs) ** 2,
                     0.0 if cut[1] else len(ys) ** 2)
            logs[:, m] = [np.log(side) / 2 if side else np.nan for side in sides]
    seen, whole = masks.any((1, 2)), np.isfinite(logs[0])
    if not whole.any():
        return np.sqrt(masks.sum((1, 2))), np.where(seen, np.inf, np.nan)
    rough = [_roughness(line[seen]) for line in logs]
    best = int(np.argmin(np.array(rough) * [1.0, _CALMER, _CALMER]))
    # The usual ratio of one extent to another is known.
    logs += np.nanmedian(logs[best][whole] - logs[:, whole], axis=1)[:, None]
    out = logs[best]
    for line in (*logs, np.log(np.maximum(masks.sum((1, 2)), 1)) / 2):
        out = np.where(np.isfinite(out), out, line)
    other = logs[0] if best else logs[1:][np.argmin(rough[1:])]
    off = np.where(seen & whole, 2 * (out - other), np.where(seen, np.inf, np.nan))
    return np.where(seen, np.exp(out), 0.0), off


def _roughness(values: np.ndarray) -> float:
    """Median size of the second differences of logs; infinite where there are few."""
    bends = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])
    if np.isfinite(bends).sum() < 3:
        return np.inf
    return float(np.nanmedian(bends) + np.exp(-np.nanmedian(values)))  # A pixel is the least.


def scale_error(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"],
                sizes: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
    """How much larger the mask is than its pixels' spread makes it, a share; negative if smaller.

    NaN where it is empty, infinite where the picture's edge cuts it: its size is not seen there.

    A thing that comes nearer spreads the picture in it. A mask that grows as more of a thing comes
    into view, or loses a part of it, does not.

    Args:
      sizes: of the masks, any length.
    """
    if not masks.any():
        return np.full(len(masks), np.nan)
    with np.errstate(divide="ignore"):  # Of empty masks, which are not looked at.
        measured = np.log(sizes)[:, None]
    apart = _apart(masks, measured, lambda before, now: _spread(masks[now], flow[before]))[:, 0]
    return np.where(touches_border(masks), np.inf, np.expm1(apart))


def _apart(masks: np.ndarray, measured: np.ndarray, step: Callable[[int, int], Any]) -> np.ndarray:
    """How far measures (M, K) of masks are from what ``step`` makes of them, looks laid together.

    Steps are summed over the looks in which the mask is seen; of one across looks in which it is
    not, nothing is known.
    """
    seen = np.flatnonzero(masks.any((1, 2)))
    apart = np.full(measured.shape, np.nan)
    if not len(seen):
        return apart
    apart[seen[0]] = 0
    for before, now in zip(seen, seen[1:]):
        apart[now] = apart[before]
        if now == before + 1:
            apart[now] += measured[now] - measured[before] - step(int(before), int(now))
    return apart - np.nanmedian(apart, axis=0)


def _spread(mask: np.ndarray, step: np.ndarray) -> float:
    """Log of the scale by which the flow back to the look before spread the mask's pixels.

    The median over pairs of pixels far apart, so a limb that swings does not count.
    """
    # At its edge flow mixes with what lies behind.
    edge = max(1, round(0.15 * float(np.sqrt(mask.sum()))))
    inner = cv2.erode(mask.astype(np.uint8), np.ones((2 * edge + 1,) * 2, np.uint8))
    ys, xs = np.nonzero(inner if inner.sum() >= 16 else mask)
    place = np.stack([xs, ys], 1).astype(float)
    came = place + step[ys, xs]
    order = np.argsort(place @ np.array([1.0, 0.61]))
    half = len(order) // 2
    if half < 4:
        return 0.0
    ratios = []
    for index in (order, np.argsort(place @ np.array([-0.61, 1.0]))):
        one, other = index[:half], index[-half:]
        now = np.linalg.norm(place[one] - place[other], axis=1)
        then = np.linalg.norm(came[one] - came[other], axis=1)
        ratios.append(np.log(np.maximum(now, 1e-3) / np.maximum(then, 1e-3)))
    return float(np.median(np.concatenate(ratios)))
