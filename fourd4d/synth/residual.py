"""What does not move with the camera: evidence of motion, pixel by pixel.

Every frame is compared with others that are brought onto it by the camera's motion. A pixel of the
static scene agrees with most of them, a pixel of a moving thing with few. Differences forgive one
pixel of misplacement. Where the camera travels, a pixel's depth is searched around the one that
tracked points nearby suggest (a plane sweep), and only a pixel that no such depth explains counts.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from fourd4d.synth.features import CameraMotion


@dataclasses.dataclass(frozen=True)
class ResidualSpec:
    """Numbers of the comparison.

    Attributes:
      partners: frames that each frame is compared with.
      agree: share of the partners that a static pixel may disagree with.
      reach: seconds; partners of a travelling camera lie within it.
      sweep: factors on the suggested inverse depth that are tried beside 1.
      threshold: least difference that counts, 8-bit levels.
      noise: the same in units of the picture's own spread of differences.
    """

    partners: int = 9
    agree: float = 0.55
    reach: float = 1.2
    sweep: tuple[float, ...] = (0.5, 0.75, 0.9, 1.15, 1.4, 1.9)
    threshold: float = 14.0
    noise: float = 6.0


def evidence(
    frames: UInt8[np.ndarray, "T H W 3"],
    times: Float[np.ndarray, "T"],
    chosen: Int[np.ndarray, "M"],
    motion: CameraMotion,
    spec: ResidualSpec | None = None,
) -> tuple[Float[np.ndarray, "M H W"], UInt8[np.ndarray, "M H W 3"]]:
    """Evidence at the chosen frames, and what most other frames show in each pixel's place.

    Above 1 a pixel moves by itself; 0 where nothing is known.
    """
    spec = spec or ResidualSpec()
    soft = [cv2.GaussianBlur(f, (0, 0), 0.8) for f in frames[chosen]]
    kernel = np.ones((3, 3), np.uint8)
    high, low = [cv2.dilate(f, kernel) for f in soft], [cv2.erode(f, kernel) for f in soft]
    height, width = frames.shape[1:3]
    travels = motion.kind == "moving"
    factors = (1.0, *(spec.sweep if travels else ()))
    out = np.zeros((len(chosen), height, width), np.float32)
    usual = frames[chosen].copy()
    for m, t in enumerate(chosen):
        partners = _partners(m, times[chosen], spec, travels)
        layers: dict[float, list[np.ndarray]] = {factor: [] for factor in factors}
        pictures = []
        depth = (inverse_depth_map(motion, int(t)).astype(np.float32) if travels
                 else 1 / motion.depth(int(t)))
        for n in partners:
            if motion.kind == "still":
                pictures.append(soft[n])
                layers[1.0].append(_difference(soft[m], high[n], low[n]))
                continue
            warp = motion.warp(int(t), int(chosen[n]))
            for factor in factors:
                x, y = warp(depth * factor)
                up, down = (cv2.remap(f[n], x, y, cv2.INTER_LINEAR) for f in (high, low))
                difference = _difference(soft[m], up, down)
                outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
                difference[outside] = -1
                layers[factor].append(difference)
                if factor == 1.0:
                    pictures.append(cv2.remap(soft[n], x, y, cv2.INTER_LINEAR))
        usual[m] = _usual(np.stack(pictures), np.stack(layers[1.0]) >= 0, frames[t])
        best = None
        for factor in factors:
            value = _share(np.stack(layers[factor]), spec.agree)
            if travels:
                value = cv2.blur(value, (5, 5))
            best = value if best is None else np.minimum(best, value)
        assert best is not None
        known = best[best >= 0]
        spread = float(np.median(known)) if len(known) else 0.0
        limit = max(spec.threshold, spec.noise * spread)
        out[m] = np.maximum(best, 0) / limit
    return out, usual


def _usual(pictures: np.ndarray, seen: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Channel-wise median of the partners that see a pixel."""
    number = seen.sum(0)
    ordered = np.sort(np.where(seen[..., None], pictures, 255), 0)
    pick = np.maximum(number - 1, 0) // 2
    value = np.take_along_axis(ordered, pick[None, ..., None], 0)[0]
    return np.where((number >= 2)[..., None], value, otherwise).astype(np.uint8)


def _partners(m: int, times: np.ndarray, spec: ResidualSpec, near: bool) -> np.ndarray:
    """Frames to compare with: evenly over the clip, or over what is near in time."""
    others = np.flatnonzero(np.arange(len(times)) != m)
    if near:
        close = others[np.abs(times[others] - times[m]) <= spec.reach]
        others = close if len(close) >= 2 else others
    # Neighbours too close in time show the same thing in the same place.
    far = others[np.abs(times[others] - times[m]) >= 0.3]
    others = far if len(far) >= 2 else others
    return others[np.unique(np.linspace(0, len(others) - 1, spec.partners).round().astype(int))]


def _difference(frame: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How far a pixel is outside the range of its counterpart's neighbourhood."""
    red, green, blue = cv2.split(cv2.max(cv2.subtract(frame, up), cv2.subtract(down, frame)))
    return cv2.max(cv2.max(red, green), blue).astype(np.int16)


def _share(layers: np.ndarray, agree: float) -> np.ndarray:
    """The difference that all but a share of the partners exceed; -1 where fewer than 2 see it."""
    seen = layers >= 0
    number = seen.sum(0)
    layers = np.sort(np.where(seen, layers, np.int16(256)), 0)
    pick = np.clip(np.floor((1 - agree) * number).astype(int), 0, np.maximum(number - 1, 0))
    value = np.take_along_axis(layers, pick[None], 0)[0]
    return np.where(number >= 2, value, -1).astype(np.float32)


def inverse_depth_map(motion: CameraMotion, t: int) -> Float[np.ndarray, "H W"]:
    """Inverse depth in a frame, spread from the static points seen there to their surroundings."""
    height, width = motion.size
    s = motion.solution
    middle = np.array([width - 1, height - 1]) / 2
    point = np.flatnonzero(motion.static & motion.tracks.seen[:, t])
    if len(point) < 4:
        return np.full((height, width), 1 / motion.depth(t))
    first = motion.tracks.first[point]
    ray = np.concatenate([(motion.tracks.xy[point, first] - middle) / s.focal,
                          np.ones((len(point), 1))], 1)
    base = np.einsum("nij,nj->ni", s.rotation[first], ray)
    base += s.inverse_depth[point, None] * (s.centre[first] - s.centre[t])
    ahead = np.maximum(base @ s.rotation[t][:, 2], 0.05)
    value = np.clip(s.inverse_depth[point] / ahead, 0.0, 20.0)
    cell = 8
    rows, columns = np.meshgrid(np.arange(cell / 2, height, cell), np.arange(cell / 2, width, cell),
                                indexing="ij")
    xy = motion.tracks.xy[point, t]
    distance = (rows[..., None] - xy[:, 1]) ** 2 + (columns[..., None] - xy[:, 0]) ** 2
    near = np.argsort(distance, -1)[..., :6]
    weight = 1 / (np.take_along_axis(distance, near, -1) + cell**2)
    coarse = (weight * value[near]).sum(-1) / weight.sum(-1)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
