"""Videos from files: exact times, frames picked by time, only what is wanted decoded."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

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
    Memory holds those frames and two numbers per packet. Times count from the first frame, and go
    on where recordings joined end to end start anew.

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
        raise _unreadable(path, error) from error


def iter_video(path: str | os.PathLike[str]
               ) -> Iterator[tuple[float, Callable[[], UInt8[np.ndarray, "H W 3"]]]]:
    """Yield each frame of a video file in order: seconds from the first, and how to get its pixels.

    Pixels are upright RGB, made only when asked for. Raises InputError as ``read_video`` does.
    """
    path = existing_file(path)
    try:
        index = _index(path)
        with _opened(path) as container:
            stream = _stream(container, path)
            stream.thread_type = "AUTO"
            base = stream.time_base or Fraction(1)
            start = None
            for pts, frame in _in_order(container, stream, index):
                moment = float(pts * base)
                start = moment if start is None else start
                yield moment - start, functools.partial(_upright, frame, path)
    except av.error.FFmpegError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: av.error.FFmpegError) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(path, "it may not be read", "Check its permissions")
    return InputError(path, f"it is not a whole video ({error.strerror})",
                      "Fetch it again, or convert it")


def _opened(path: Path) -> InputContainer:
    # A relative name with a colon would be taken for a protocol.
    return av.open(os.path.abspath(path))


@dataclasses.dataclass(frozen=True)
class _Index:
    """What the packets tell, in units of ``base`` seconds.

    Attributes:
      pts: presentation times of the frames shown, rising; without gaps where times start anew.
      keys: those of keyframes.
      offsets: what is added to the times of each recording of a file of several.
      seekable: whether frames may be reached from the keyframe before them.
      counted: whether frames take their times in the order in which they are decoded, since the
        file holds only the order of its packets (AVI).
    """

    pts: list[int]
    keys: list[int]
    base: float
    offsets: tuple[int, ...] = (0,)
    seekable: bool = True
    counted: bool = False

    @property
    def times(self) -> Float[np.ndarray, "N"]:
        return (np.asarray(self.pts, np.float64) - self.pts[0]) * self.base


def _stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise InputError(path, "no video stream", "Give a file with moving pictures")


def _index(path: Path) -> _Index:
    with _opened(path) as container:
        stream = _stream(container, path)
        streamed = bool(set(container.format.name.split(",")) & _STREAMED)
        joints = _Joints(float(stream.time_base or 1), streamed)
        pts: list[int] = []
        keys: list[int] = []
        packets, end, begin = 0, 0.0, 0.0
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                begin = min(begin, float(packet.pts * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            packets += 1
            if packet.is_discard:
                continue
            if packet.pts is None or not stream.time_base:
                raise InputError(path, "its frames carry no times",
                                 "Remux it into MP4 or Matroska")
            time = joints.packet(packet)
            pts.append(time)
            if packet.is_keyframe:
                keys.append(time)
        promised, end = (container.duration or 0) / av.time_base, end - begin
        ends_early = promised - end > max(1.0, 0.05 * promised)
        # AVI counts frames that repeat the one before, and are not stored.
        lacking = packets < stream.frames and (
            not promised or promised - end > 0.5 * promised / stream.frames)
        if packets and not streamed and (lacking or ends_early):
            raise InputError(path, f"truncated: it ends at {end:.2f} s of {promised:.2f} s",
                             "Fetch it again")
        if not pts or stream.time_base is None:
            raise InputError(path, "the video stream holds no frame", "Give a longer video")
        joined = len(joints.offsets) > 1
        reordered = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
        # A palette comes with the first packet alone.
        palette = stream.codec_context.pix_fmt == "pal8"
        return _Index(sorted(set(pts)), sorted(keys), float(stream.time_base),
                      tuple(joints.offsets), not (joined or reordered or palette), reordered)


# Formats in which recordings may be joined end to end, each with times of its own; they promise no
# duration.
_STREAMED: Final = {"mpegts", "mpeg", "mpegvideo", "flv"}
_JUMP: Final = 10.0  # Seconds; as players take a longer gap in such a format for a new recording.


class _Joints:
    """Times that go on where those of a joined recording start anew.

    Attributes:
      offsets: what is added to the times of each recording.
    """

    def __init__(self, base: float, streamed: bool):
        self.offsets = [0]
        self._base, self._streamed = base, streamed
        self._last: int | None = None
        self._end = 0

    def packet(self, packet: av.Packet) -> int:
        """The packet's presentation time. Decoding times rise within a recording."""
        assert packet.pts is not None
        at = packet.dts if packet.dts is not None else packet.pts
        if self._last is not None:
            gap = (at - self._last) * self._base
            back = -1e-6 if packet.dts is not None else -1.0
            if self._streamed and (gap < back or gap > _JUMP):
                self.offsets.append(self._end - packet.pts)
        self._last = at
        time = packet.pts + self.offsets[-1]
        self._end = max(self._end, time + (packet.duration or 1))
        return time


def _in_order(container: InputContainer, stream: VideoStream, index: _Index
              ) -> Iterator[tuple[int, VideoFrame]]:
    """All frames as they are decoded, with their times in the index."""
    part, last = 0, None
    for number, (pts, frame) in enumerate(_timed(container.decode(stream))):
        if index.counted:
            if number < len(index.pts):
                yield index.pts[number], frame
            continue
        if last is not None and part + 1 < len(index.offsets):
            gap = (pts - last) * index.base
            if gap < 0 or gap > _JUMP:
                part += 1
        last = pts
        yield pts + index.offsets[part], frame


def _read(path: Path, index: _Index, wanted: list[int], frame_size: FrameSize | None) -> Video:
    pictures: list[np.ndarray] = []
    times = []
    with _opened(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        for pts, frame in _decode(container, stream, index, wanted):
            pictures.append(_picture(frame, frame_size, path))
            times.append((pts - index.pts[0]) * index.base)
    if not pictures:
        raise InputError(path, "no frame can be decoded", "Fetch it again, or convert it")
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(path, "the frame size changes on the way", "Re-encode it at one size")
    return Video(np.stack(pictures), np.asarray(times))


def _upright(frame: VideoFrame, path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as a player shows it: turned and mirrored by its display matrix."""
    pixels = to_rgb(frame, path)
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is not None:
        # x' = a x + c y, y' = b x + d y (ISO/IEC 14496-12, 8.5.2); only right angles are turned.
        a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(found), np.int32)[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def _picture(frame: VideoFrame, frame_size: FrameSize | None, path: Path
             ) -> UInt8[np.ndarray, "H W 3"]:
    pixels = _upright(frame, path)
    if frame_size is not None:
        pixels = resize(pixels, frame_size(pixels.shape[0], pixels.shape[1]))
    return np.ascontiguousarray(pixels)


def _timed(frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
    return ((frame.pts, frame) for frame in frames if frame.pts is not None)


def _decode(container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int]
            ) -> Iterator[tuple[int, VideoFrame]]:
    """Frames shown at the wanted times; where one is lost, the next that can be decoded."""
    frames = _in_order(container, stream, index)
    position = index.pts[0]
    for target in wanted:
        if position > target:
            continue
        key = bisect.bisect_right(index.keys, target) - 1
        if index.seekable and key >= 0 and index.keys[key] > position:
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
