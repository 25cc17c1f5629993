"""Videos from files: exact times, frames picked by time, only what is wanted decoded."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from fourd4d.core.errors import InputError
from fourd4d.processing.color import to_rgb
from fourd4d.processing.media import Video, existing_file
from fourd4d.processing.patches import resize

FrameSize = Callable[[int, int], tuple[int, int]]


def pick_frames(
    times: Float[np.ndarray, "N"], fps: float | None, max_frames: int | None,
    start: float = 0.0, end: float | None = None,
) -> list[int]:
    """Which frames to take: those nearest to evenly spaced moments, each frame once.

    Args:
      times: when each frame is shown, rising, seconds.
      fps: moments a second; None asks for every frame.
      max_frames: if fps gives more, this many moments evenly over the whole window instead.
      start, end: the window, seconds, both included.
    """
    last = times[-1] if end is None else min(end, times[-1])
    first = int(np.searchsorted(times, start - 1e-6))
    stop = int(np.searchsorted(times, last + 1e-6))
    inside = times[first:stop]
    if not len(inside):
        return []
    if fps is None:
        moments = inside
    else:
        count = int(np.floor((inside[-1] - inside[0]) * fps + 1e-6)) + 1
        moments = inside[0] + np.arange(count) / fps
    if max_frames is not None and len(moments) > max_frames:
        moments = np.linspace(inside[0], inside[-1], max_frames)
    right = np.clip(np.searchsorted(inside, moments), 1, max(len(inside) - 1, 1))
    right = np.minimum(right, len(inside) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(moments - inside[left] <= inside[right] - moments, left, right)
    return [first + int(i) for i in np.unique(nearest)]


def read_video(
    path: str | os.PathLike[str],
    fps: float | None = 1.0,
    max_frames: int | None = 50,
    *,
    start: float = 0.0,
    end: float | None = None,
    frame_size: FrameSize | None = None,
) -> Video:
    """Frames of a video file, upright, evenly spaced in time, with their true times.

    The file's packets are listed first, without decoding, so that time is known exactly whatever
    the frame rate does; then only the frames wanted are decoded, from the keyframe before each.
    Memory holds those frames and two numbers per packet. Times count from the first frame.

    Args:
      fps: frames wanted a second; None takes all.
      max_frames: most frames; more are thinned out evenly over the whole window. None: no limit.
      start, end: take only this window, seconds from the first frame.
      frame_size: (height, width) to (height, width): resizes each frame as it is decoded.

    Raises:
      InputError: missing, empty, no video, truncated, undecodable, or nothing in the window.
    """
    path = existing_file(path)
    if (max_frames is not None and max_frames < 1) or (fps is not None and not fps > 0):
        raise InputError("read_video", f"fps={fps}, max_frames={max_frames}",
                         "Both must be positive")
    try:
        index = _index(path)
        wanted = pick_frames(index.times, fps, max_frames, start, end)
        if not wanted:
            raise InputError(
                path, f"no frame between {start} s and {end} s of {index.times[-1]:.3f} s",
                "Choose a window inside the video")
        return _read(path, index, [index.pts[i] for i in wanted], frame_size)
    except av.error.FFmpegError as error:
        raise InputError(path, f"no whole video ({error.strerror})",
                         "Fetch it again, or convert it") from error


@dataclasses.dataclass(frozen=True)
class _Index:
    """What the packets tell, in units of ``base`` seconds.

    Attributes:
      pts: presentation times of the frames shown, rising.
      keys: those of keyframes.
    """

    pts: list[int]
    keys: list[int]
    base: float

    @property
    def times(self) -> Float[np.ndarray, "N"]:
        return (np.asarray(self.pts, np.float64) - self.pts[0]) * self.base


def _stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise InputError(path, "no video stream", "Give a file with moving pictures")


def _index(path: Path) -> _Index:
    with av.open(os.fspath(path)) as container:
        stream = _stream(container, path)
        pts: list[int] = []
        keys: list[int] = []
        packets, end = 0, 0.0
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            packets += 1
            if packet.is_discard:
                continue
            if packet.pts is None or not stream.time_base:
                raise InputError(path, "its frames carry no times",
                                 "Remux it into MP4 or Matroska")
            pts.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        promised = (container.duration or 0) / av.time_base
        ends_early = promised - end > max(1.0, 0.05 * promised)
        # AVI counts frames that repeat the one before, and are not stored.
        lacking = packets < stream.frames and (
            not promised or promised - end > 0.5 * promised / stream.frames)
        if packets and (lacking or ends_early):
            raise InputError(path, f"truncated: it ends at {end:.2f} s of {promised:.2f} s",
                             "Fetch it again")
        if not pts or stream.time_base is None:
            raise InputError(path, "the video stream holds no frame", "Give a longer video")
        return _Index(sorted(set(pts)), sorted(keys), float(stream.time_base))


def _read(path: Path, index: _Index, wanted: list[int], frame_size: FrameSize | None) -> Video:
    pictures: list[np.ndarray] = []
    times = []
    with av.open(os.fspath(path)) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        for pts, frame in _decode(container, stream, index, wanted):
            pictures.append(_picture(frame, frame_size))
            times.append((pts - index.pts[0]) * index.base)
    if not pictures:
        raise InputError(path, "no frame can be decoded", "Fetch it again, or convert it")
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(path, "the frame size changes on the way", "Re-encode it at one size")
    return Video(np.stack(pictures), np.asarray(times))


def _picture(frame: VideoFrame, frame_size: FrameSize | None) -> UInt8[np.ndarray, "H W 3"]:
    pixels = np.rot90(to_rgb(frame), round(frame.rotation / 90))
    if frame_size is not None:
        pixels = resize(pixels, frame_size(pixels.shape[0], pixels.shape[1]))
    return np.ascontiguousarray(pixels)


def _timed(frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
    return ((frame.pts, frame) for frame in frames if frame.pts is not None)


def _decode(container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int]
            ) -> Iterator[tuple[int, VideoFrame]]:
    """Frames shown at the wanted times; where one is lost, the next that can be decoded."""
    frames = _timed(container.decode(stream))
    position = index.pts[0]
    for target in wanted:
        if position > target:
            continue
        key = bisect.bisect_right(index.keys, target) - 1
        if key >= 0 and index.keys[key] > position:
            frames = _seek(container, stream, index, key, target)
        for pts, frame in frames:
            position = max(position, pts + 1)
            if pts >= target:
                yield pts, frame
                break


def _seek(container: InputContainer, stream: VideoStream, index: _Index, key: int, target: int
          ) -> Iterator[tuple[int, VideoFrame]]:
    """Frames from a keyframe at or before the target; formats that seek late get earlier ones."""
    back = 0
    while True:
        at = max(key - back, 0)
        container.seek(index.keys[at], stream=stream, backward=True)
        frames = _timed(container.decode(stream))
        first = next(frames, None)
        if first is not None and (first[0] <= target or at == 0):
            return itertools.chain([first], frames)
        if at == 0:
            return frames
        back = 2 * back + 1
