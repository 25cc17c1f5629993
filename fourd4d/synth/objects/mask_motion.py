"""Compares how masks move with how their pixels do: dense optical flow between keyframes.

The flow warps a good mask onto the next one, moves its centre as far and spreads its pixels as
much. A mask that flickers, swallows a neighbour, or is cut by the border of the frame drifts from
its pixels; the drift says how far to trust it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_SMOOTHING_RADIUS = 3  # Keyframes either way over which a mask's flicker averages out.
_SIDE_ADVANTAGE = 1.4  # A side measures size where it flickers this much less than the area.


def backward_flow(grey: UInt8[np.ndarray, "M H W"]) -> Float[np.ndarray, "M-1 H W 2"]:
    """Return the flow from each keyframe back to the one before, pixels (x, y)."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    out = [solver.calc(after, before, None)  # type: ignore[call-overload]
           for before, after in zip(grey, grey[1:])]
    return np.array(out, np.float32).reshape(len(grey) - 1, *grey.shape[1:], 2)


def warp(mask: Bool[np.ndarray, "H W"], step: Float[np.ndarray, "H W 2"], direction: int = 1
         ) -> Bool[np.ndarray, "H W"]:
    """Warp a mask to the next keyframe (``direction`` 1) or to the one before (-1).

    Args:
      step: the backward flow of the later of the two keyframes, pixels.
    """
    height, width = mask.shape
    if direction > 0:
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return cv2.remap(mask.astype(np.uint8), x + step[..., 0], y + step[..., 1],
                         cv2.INTER_NEAREST) > 0
    ys, xs = np.nonzero(mask)
    warped = np.round(np.stack([xs, ys], 1) + step[ys, xs]).astype(int)
    warped = warped[((warped >= 0) & (warped < (width, height))).all(1)]
    out = np.zeros(mask.shape, np.uint8)
    out[warped[:, 1], warped[:, 0]] = 1
    return cv2.morphologyEx(out, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0


def object_flow(grey: UInt8[np.ndarray, "M H W"], masks: Bool[np.ndarray, "M H W"],
                flow: Float[np.ndarray, "M-1 H W 2"]) -> Float[np.ndarray, "M-1 H W 2"]:
    """Return the backward flow, estimated anew in an object's masks from their displacement.

    Flow of the whole frame falls short where an object is smooth, or moves by more than its size
    between two keyframes. The new flow is kept where it aligns the two keyframes better.
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    height, width = masks.shape[1:]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    middle = centres(masks)
    out = flow.copy()
    for before in np.flatnonzero(np.isfinite(middle[:-1, 0] + middle[1:, 0])):
        now = before + 1
        displacement = middle[now] - middle[before]
        area = _padded_box(masks[now])
        matrix = np.array([[1, 0, displacement[0]], [0, 1, displacement[1]]])
        shifted = cv2.warpAffine(grey[before], matrix, (width, height),
                                 borderMode=cv2.BORDER_REPLICATE)
        one, other = (np.ascontiguousarray(g[area]) for g in (grey[now], shifted))
        found = solver.calc(one, other, None) - displacement.astype(np.float32)  # type: ignore
        inside = masks[now][area]
        errors = [np.abs(cv2.remap(grey[before], x[area] + step[..., 0], y[area] + step[..., 1],
                                   cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[inside]
                         - grey[now][area][inside].astype(np.float32)).mean()
                  for step in (found, flow[before][area])]
        if errors[0] <= errors[1]:
            out[before][area][inside] = found[inside]
    return out


def _padded_box(mask: np.ndarray, least: int = 48) -> tuple[slice, slice]:
    """Return the mask's box and a margin around it, as slices of rows and columns."""
    out = []
    for axis in (1, 0):
        line = np.flatnonzero(mask.any(axis))
        first, last = int(line[0]), int(line[-1])
        pad = max((last + 1 - first) // 4, (least - (last + 1 - first)) // 2, 8)
        out.append(slice(max(first - pad, 0), min(last + 1 + pad, mask.shape[1 - axis])))
    return out[0], out[1]


def centres(masks: Bool[np.ndarray, "M H W"]) -> Float[np.ndarray, "M 2"]:
    """Return the centres (x, y) of masks, pixels; NaN where they are empty."""
    out = np.full((len(masks), 2), np.nan)
    for m in np.flatnonzero(masks.any((1, 2))):
        out[m] = np.mean(np.nonzero(masks[m])[::-1], axis=1)
    return out


def touches_border(masks: Bool[np.ndarray, "M H W"]) -> Bool[np.ndarray, "M"]:
    """Return whether each mask touches the border of the frame."""
    return np.asarray(masks[:, [0, -1]].any((1, 2)) | masks[:, :, [0, -1]].any((1, 2)))


def warped_iou(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"]
               ) -> Float[np.ndarray, "M-1"]:
    """Return the IoU of each mask with the one before it, warped by the flow.

    NaN where one of them is empty.
    """
    out = np.full(len(masks) - 1, np.nan)
    for m in np.flatnonzero(masks[:-1].any((1, 2)) & masks[1:].any((1, 2))):
        warped = warp(masks[m], flow[m])
        out[m] = (warped & masks[m + 1]).sum() / (warped | masks[m + 1]).sum()
    return out


def drift(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"]
          ) -> Float[np.ndarray, "M 2"]:
    """Return how far each mask's centre is from where its pixels' motion puts it, pixels (x, y).

    NaN where the mask is empty. The pixels' displacement is summed over keyframes with a mask,
    held where there is none, and offset by the median difference from the centre's.
    """
    return _deviation(masks, centres(masks), lambda before, now: -np.median(
        flow[before][masks[now]], axis=0))


def split_flicker(deviation: Float[np.ndarray, "M K"]) -> tuple[np.ndarray, np.ndarray]:
    """Split deviations into flicker and drift, both (M, K).

    Drift is the median over ``_SMOOTHING_RADIUS`` keyframes either way. The flow measures flicker
    better than the mask does; in drift the small errors of the flow add up.
    """
    seen = np.flatnonzero(np.isfinite(deviation[:, 0]))
    drift = np.full(deviation.shape, np.nan)
    for m in seen:
        drift[m] = np.median(deviation[seen[np.abs(seen - m) <= _SMOOTHING_RADIUS]], axis=0)
    return deviation - drift, drift


def sizes(masks: Bool[np.ndarray, "M H W"]
          ) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Return an object's size in each keyframe, pixels, and the share by which it may be too large.

    The size is the root of its area, or its width or height where these flicker much less, as a
    walking person's height does. Sides cut by the border do not count. An object of which more
    comes into view grows along one side only: the ratio of its sides to its area shows that.
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
    best = int(np.argmin(np.array(rough) * [1.0, _SIDE_ADVANTAGE, _SIDE_ADVANTAGE]))
    # The median ratio of one extent to another is known.
    logs += np.nanmedian(logs[best][whole] - logs[:, whole], axis=1)[:, None]
    out = logs[best]
    for line in (*logs, np.log(np.maximum(masks.sum((1, 2)), 1)) / 2):
        out = np.where(np.isfinite(out), out, line)
    other = logs[0] if best else logs[1:][np.argmin(rough[1:])]
    off = np.where(seen & whole, 2 * (out - other), np.where(seen, np.inf, np.nan))
    return np.where(seen, np.exp(out), 0.0), off


def _roughness(values: np.ndarray) -> float:
    """Return the median absolute second difference of logs; infinite where there are few."""
    bends = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])
    if np.isfinite(bends).sum() < 3:
        return np.inf
    return float(np.nanmedian(bends) + np.exp(-np.nanmedian(values)))  # At least one pixel.


def scale_error(masks: Bool[np.ndarray, "M H W"], flow: Float[np.ndarray, "M-1 H W 2"],
                sizes: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
    """Return how much larger each mask is than the spread of its pixels makes it, a share.

    Negative where it is smaller, NaN where it is empty, infinite where it touches the border, which
    hides its size. An object that comes nearer spreads its pixels; a mask that grows as more of an
    object comes into view, or that loses a part of it, does not.

    Args:
      sizes: of the masks, in any unit of length.
    """
    if not masks.any():
        return np.full(len(masks), np.nan)
    with np.errstate(divide="ignore"):  # Of empty masks, which do not count.
        measured = np.log(sizes)[:, None]
    deviation = _deviation(masks, measured,
                           lambda before, now: _log_scale(masks[now], flow[before]))
    return np.where(touches_border(masks), np.inf, np.expm1(deviation[:, 0]))


def _deviation(masks: np.ndarray, measured: np.ndarray, step: Callable[[int, int], Any]
               ) -> np.ndarray:
    """Return how far measures (M, K) of masks are from the sum of their steps, median 0.

    Steps across keyframes without a mask are unknown: the deviation is held there.
    """
    seen = np.flatnonzero(masks.any((1, 2)))
    deviation = np.full(measured.shape, np.nan)
    if not len(seen):
        return deviation
    deviation[seen[0]] = 0
    for before, now in zip(seen, seen[1:]):
        deviation[now] = deviation[before]
        if now == before + 1:
            deviation[now] += measured[now] - measured[before] - step(int(before), int(now))
    return deviation - np.nanmedian(deviation, axis=0)


def _log_scale(mask: np.ndarray, step: np.ndarray) -> float:
    """Return the log of the scale by which a mask's pixels spread since the keyframe before.

    The median over pairs of pixels far apart, so that a swinging limb does not count.
    """
    # At the edge, flow mixes with the background's.
    edge = max(1, round(0.15 * float(np.sqrt(mask.sum()))))
    inner = cv2.erode(mask.astype(np.uint8), np.ones((2 * edge + 1,) * 2, np.uint8))
    ys, xs = np.nonzero(inner if inner.sum() >= 16 else mask)
    position = np.stack([xs, ys], 1).astype(float)
    warped = position + step[ys, xs]
    order = np.argsort(position @ np.array([1.0, 0.61]))
    half = len(order) // 2
    if half < 4:
        return 0.0
    ratios = []
    for index in (order, np.argsort(position @ np.array([-0.61, 1.0]))):
        one, other = index[:half], index[-half:]
        now = np.linalg.norm(position[one] - position[other], axis=1)
        then = np.linalg.norm(warped[one] - warped[other], axis=1)
        ratios.append(np.log(np.maximum(now, 1e-3) / np.maximum(then, 1e-3)))
    return float(np.median(np.concatenate(ratios)))
