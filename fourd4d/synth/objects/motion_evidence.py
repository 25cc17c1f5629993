"""What does not move with the camera: evidence of motion, pixel by pixel.

Every frame is compared with others that are brought onto it by the camera's motion. A pixel of the
static scene agrees with most of them, a pixel of a moving thing with few. Differences forgive one
pixel of misplacement. Where the camera travels, a pixel's depth is searched around the one that
tracked points nearby suggest (a plane sweep), and only a pixel that no such depth explains counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from fourd4d.synth.camera.motion import CameraMotion, Warp, inverse_depth_map

_AROUND: Final = 5, 5  # Pixels over which a depth must explain what is seen.
_Ranges = Sequence[tuple[np.ndarray, np.ndarray]]  # Highest and lowest values about each pixel.
_Places = Sequence[tuple[np.ndarray, np.ndarray]] | None  # x and y; None keeps every place.


@dataclasses.dataclass(frozen=True)
class MotionEvidenceSpec:
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
    sweep: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.15, 1.4, 1.9)
    threshold: float = 14.0
    noise: float = 6.0


def motion_evidence(
    frames: UInt8[np.ndarray, "T H W 3"],
    times: Float[np.ndarray, "T"],
    chosen: Int[np.ndarray, "M"],
    motion: CameraMotion,
    spec: MotionEvidenceSpec | None = None,
) -> tuple[Float[np.ndarray, "M H W"], UInt8[np.ndarray, "M H W 3"]]:
    """Evidence at the chosen frames, and what most other frames show in each pixel's place.

    Above 1 a pixel moves by itself; 0 where nothing is known.
    """
    spec = spec or MotionEvidenceSpec()
    soft = [cv2.GaussianBlur(f, (0, 0), 0.8) for f in frames[chosen]]
    kernel = np.ones((3, 3), np.uint8)
    ranges = [(cv2.dilate(f, kernel), cv2.erode(f, kernel)) for f in soft]
    height, width = frames.shape[1:3]
    travels = motion.kind == "moving"
    out = np.zeros((len(chosen), height, width), np.float32)
    usual = frames[chosen].copy()
    for m, t in enumerate(chosen):
        partners = _partners(m, times[chosen], spec, travels)
        near = [ranges[n] for n in partners]
        warps = [motion.warp(int(t), int(chosen[n])) for n in partners]
        depth = (inverse_depth_map(motion, int(t)) if travels
                 else np.full((height, width), 1 / motion.depth(int(t)))).astype(np.float32)
        places = None if motion.kind == "still" else [warp(depth) for warp in warps]
        hidden = _outside(places, len(partners), (height, width))
        usual[m] = _usual(_brought([soft[n] for n in partners], places), hidden, frames[t])
        value = _unexplained(soft[m], near, places, hidden, spec.agree)
        if travels:
            value = _swept(cv2.blur(value, _AROUND), soft[m], near, warps, depth, spec)
        known = value[value >= 0]
        spread = float(np.median(known)) if len(known) else 0.0
        limit = max(spec.threshold, spec.noise * spread)
        out[m] = np.maximum(value, 0) / limit
    return out, usual


def _swept(value: np.ndarray, frame: np.ndarray, near: _Ranges, warps: Sequence[Warp],
           depth: np.ndarray, spec: MotionEvidenceSpec) -> np.ndarray:
    """The least difference over all depths that are tried.

    Pixels that a depth explains are not tried at others. What counts as explained is so little that
    it neither is evidence nor, by its spread, changes what is.
    """
    value = value.copy()
    for factor in sorted(spec.sweep, key=lambda f: abs(f - 1)):
        open_ = value > spec.threshold / spec.noise
        around = np.flatnonzero(cv2.dilate(open_.astype(np.uint8), np.ones(_AROUND, np.uint8)))
        if not len(around):
            break
        # As a picture of some width, since OpenCV bounds the sides of what it maps.
        pixels = np.resize(around, (-(-len(around) // value.shape[1]), value.shape[1]))
        where = np.unravel_index(pixels, value.shape)
        places = [warp(depth[where] * factor, where) for warp in warps]
        tried = np.zeros_like(value)
        tried[where] = _unexplained(frame[where], near, places,
                                    _outside(places, len(near), value.shape), spec.agree)
        np.copyto(value, np.minimum(value, cv2.blur(tried, _AROUND)), where=open_)
    return value


def _brought(pictures: Sequence[np.ndarray], places: _Places) -> np.ndarray:
    """Each picture as seen at its places."""
    if places is None:
        return np.stack(pictures)
    return np.stack([cv2.remap(picture, x, y, cv2.INTER_LINEAR)
                     for picture, (x, y) in zip(pictures, places, strict=True)])


def _outside(places: _Places, count: int, size: tuple[int, int]) -> np.ndarray:
    """Which places are out of a picture of ``size`` (height, width)."""
    if places is None:
        return np.zeros((count, *size), bool)
    height, width = size
    return np.stack([(x < 0) | (x > width - 1) | (y < 0) | (y > height - 1) for x, y in places])


def _unexplained(frame: np.ndarray, near: _Ranges, places: _Places, hidden: np.ndarray,
                 agree: float) -> np.ndarray:
    """The difference that all but a share of the partners exceed; -1 where fewer than 2 see it."""
    high, low = (_brought(pictures, places) for pictures in zip(*near, strict=True))
    layers = np.stack([_difference(frame, up, down) for up, down in zip(high, low, strict=True)])
    layers[hidden] = 255
    number = len(hidden) - hidden.sum(0)
    pick = np.clip(np.floor((1 - agree) * number).astype(int), 0, np.maximum(number - 1, 0))
    return np.where(number >= 2, _ranked(layers, pick), np.float32(-1))


def _usual(pictures: np.ndarray, hidden: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Channel-wise median of the partners that see a pixel."""
    number = len(hidden) - hidden.sum(0)
    pictures[hidden] = 255
    value = _ranked(pictures, np.maximum(number - 1, 0) // 2)
    value[number < 2] = otherwise[number < 2]
    return value


def _ranked(values: UInt8[np.ndarray, "K H W *C"], rank: np.ndarray) -> np.ndarray:
    """In each pixel, the value of that rank among K; the values are reordered.

    Planes are compared whole, pair by pair, which sorts few planes far faster than pixel by pixel.
    """
    for turn in range(len(values)):
        one, other = values[turn % 2 : -1 : 2], values[turn % 2 + 1 :: 2]
        less = np.minimum(one, other)
        np.maximum(one, other, out=other)
        one[:] = less
    most = int(rank.max())
    out = values[most].copy()
    rows, columns = np.nonzero(rank < most)
    out[rows, columns] = values[rank[rows, columns], rows, columns]
    return out


def _partners(m: int, times: np.ndarray, spec: MotionEvidenceSpec, near: bool) -> np.ndarray:
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
    return cv2.max(cv2.max(red, green), blue)
