"""Frames of a video file at a bounded rate and size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fourd4d.processing.video import iter_video


def iter_frames(path: Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield upright RGB frames, at most ``fps`` a second, with their seconds from the first.

    Raises InputError as ``iter_video`` does.
    """
    due, last = -np.inf, -np.inf
    for moment, pixels in iter_video(path):
        if moment < due - 1e-3 or moment <= last:
            continue
        due, last = max(due + 1 / fps, moment + 0.5 / fps), moment
        yield moment, pixels()


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = tuple(max(16, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
