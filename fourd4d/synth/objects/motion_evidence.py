"""Measures motion evidence: how badly the camera's motion explains each pixel.

Every frame is compared with others that are warped onto it by the camera's motion. A pixel of the
static scene agrees with most of them, a pixel of a moving object with few. Differences allow for
one pixel of misalignment. Where the camera translates, depths around the one that nearby tracked
points suggest are tried (a plane sweep), and only a pixel that none of them explains counts.
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
_Positions = Sequence[tuple[np.ndarray, np.ndarray]] | None  # x and y; None keeps every place.


@dataclasses.dataclass(frozen=True)
class MotionEvidenceSpec:
    """Thresholds of the comparison.

    Attributes:
      partners: number of frames that each frame is compared with.
      agree: share of the partners that a static pixel may disagree with.
      reach: maximum seconds to a partner, where the camera translates.
      sweep: factors on the suggested inverse depth that are tried beside 1.
      threshold: minimum difference that counts, 8-bit levels.
      noise: the same in units of the frame's median difference.
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
    """Return motion evidence at the chosen frames, and the background: the median over partners.

    Evidence is above 1 where a pixel moves by itself, and 0 where nothing is known.
    """
    spec = spec or MotionEvidenceSpec()
    soft = [cv2.GaussianBlur(f, (0, 0), 0.8) for f in frames[chosen]]
    kernel = np.ones((3, 3), np.uint8)
    ranges = [(cv2.dilate(f, kernel), cv2.erode(f, kernel)) for f in soft]
    height, width = frames.shape[1:3]
    translates = motion.kind == "moving"
    out = np.zeros((len(chosen), height, width), np.float32)
    background = frames[chosen].copy()
    for m, t in enumerate(chosen):
        partners = _partners(m, times[chosen], spec, translates)
        near = [ranges[n] for n in partners]
        warps = [motion.warp(int(t), int(chosen[n])) for n in partners]
        depth = (inverse_depth_map(motion, int(t)) if translates
                 else np.full((height, width), 1 / motion.depth(int(t)))).astype(np.float32)
        positions = None if motion.kind == "still" else [warp(depth) for warp in warps]
        hidden = _outside(positions, len(partners), (height, width))
        background[m] = _background(_resample([soft[n] for n in partners], positions), hidden,
                                    frames[t])
        value = _unexplained(soft[m], near, positions, hidden, spec.agree)
        if translates:
            value = _swept(cv2.blur(value, _AROUND), soft[m], near, warps, depth, spec)
        known = value[value >= 0]
        spread = float(np.median(known)) if len(known) else 0.0
        limit = max(spec.threshold, spec.noise * spread)
        out[m] = np.maximum(value, 0) / limit
    return out, background


def _swept(value: np.ndarray, frame: np.ndarray, near: _Ranges, warps: Sequence[Warp],
           depth: np.ndarray, spec: MotionEvidenceSpec) -> np.ndarray:
    """Return the minimum difference over all depths that are tried.

    Pixels that one depth explains are not tried at others: below this difference they are not
    evidence, and do not change the noise level of the frame.
    """
    value = value.copy()
    for factor in sorted(spec.sweep, key=lambda f: abs(f - 1)):
        open_ = value > spec.threshold / spec.noise
        around = np.flatnonzero(cv2.dilate(open_.astype(np.uint8), np.ones(_AROUND, np.uint8)))
        if not len(around):
            break
        # As a two-dimensional image: OpenCV limits the sides of what it remaps.
        pixels = np.resize(around, (-(-len(around) // value.shape[1]), value.shape[1]))
        where = np.unravel_index(pixels, value.shape)
        positions = [warp(depth[where] * factor, where) for warp in warps]
        tried = np.zeros_like(value)
        tried[where] = _unexplained(frame[where], near, positions,
                                    _outside(positions, len(near), value.shape), spec.agree)
        np.copyto(value, np.minimum(value, cv2.blur(tried, _AROUND)), where=open_)
    return value


def _resample(images: Sequence[np.ndarray], positions: _Positions) -> np.ndarray:
    """Sample each image at its positions."""
    if positions is None:
        return np.stack(images)
    return np.stack([cv2.remap(picture, x, y, cv2.INTER_LINEAR)
                     for picture, (x, y) in zip(images, positions, strict=True)])


def _outside(positions: _Positions, count: int, size: tuple[int, int]) -> np.ndarray:
    """Return which positions are outside an image of ``size`` (height, width)."""
    if positions is None:
        return np.zeros((count, *size), bool)
    height, width = size
    return np.stack([(x < 0) | (x > width - 1) | (y < 0) | (y > height - 1) for x, y in positions])


def _unexplained(frame: np.ndarray, near: _Ranges, positions: _Positions, hidden: np.ndarray,
                 agree: float) -> np.ndarray:
    """Return quantile ``1 - agree`` of the differences; -1 where fewer than 2 partners see it."""
    high, low = (_resample(images, positions) for images in zip(*near, strict=True))
    layers = np.stack([_difference(frame, up, down) for up, down in zip(high, low, strict=True)])
    layers[hidden] = 255
    number = len(hidden) - hidden.sum(0)
    pick = np.clip(np.floor((1 - agree) * number).astype(int), 0, np.maximum(number - 1, 0))
    return np.where(number >= 2, _ranked(layers, pick), np.float32(-1))


def _background(images: np.ndarray, hidden: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the channel-wise median of the partners that see a pixel."""
    number = len(hidden) - hidden.sum(0)
    images[hidden] = 255
    value = _ranked(images, np.maximum(number - 1, 0) // 2)
    value[number < 2] = otherwise[number < 2]
    return value


def _ranked(values: UInt8[np.ndarray, "K H W *C"], rank: np.ndarray) -> np.ndarray:
    """Return, for each pixel, the value of that rank among K; ``values`` are reordered.

    An odd-even sort of whole planes: for few planes far faster than sorting pixel by pixel.
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
    """Return the frames to compare with: evenly over the clip, or over what is near in time."""
    others = np.flatnonzero(np.arange(len(times)) != m)
    if near:
        close = others[np.abs(times[others] - times[m]) <= spec.reach]
        others = close if len(close) >= 2 else others
    # Neighbours too close in time show an object in the same position.
    far = others[np.abs(times[others] - times[m]) >= 0.3]
    others = far if len(far) >= 2 else others
    return others[np.unique(np.linspace(0, len(others) - 1, spec.partners).round().astype(int))]


def _difference(frame: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return how far a pixel is outside the range of its counterpart's neighbourhood, levels."""
    red, green, blue = cv2.split(cv2.max(cv2.subtract(frame, up), cv2.subtract(down, frame)))
    return cv2.max(cv2.max(red, green), blue)
