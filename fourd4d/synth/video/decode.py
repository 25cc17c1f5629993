"""Frames of a video file at a bounded rate and size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from av.stream import Disposition

from fourd4d.core.errors import InputError
from fourd4d.processing.color import to_rgb


def iter_frames(path: Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """Upright RGB frames, at most so many a second, with their seconds from the first."""
    try:
        with av.open(os.fspath(path)) as container:
            stream = next(s for s in container.streams.video
                          if not s.disposition & Disposition.attached_pic)
            stream.thread_type = "AUTO"
            start, due, last = None, -np.inf, -np.inf
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    continue
                moment = float(frame.pts * frame.time_base)
                start = moment if start is None else start
                moment -= start
                if moment < due - 1e-3 or moment <= last:
                    continue
                due, last = max(due + 1 / fps, moment + 0.5 / fps), moment
                yield moment, np.ascontiguousarray(
                    np.rot90(to_rgb(frame), round(frame.rotation / 90)))
    except av.error.FFmpegError as error:
        raise InputError(path, f"it cannot be decoded ({error.strerror})",
                         "Fetch it again, or convert it") from error


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = tuple(max(16, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
