"""Images and videos in memory, and reading them from files with their true times."""

from __future__ import annotations

import bisect
import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import av
import av.error
import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Float, UInt8

from fourd4d.core.errors import InputError
from fourd4d.processing import color
from fourd4d.processing.vision import resize

FrameSize = Callable[[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Image:
    """One still picture, RGB."""

    pixels: UInt8[np.ndarray, "H W 3"]
    kind: ClassVar[Literal["image"]] = "image"

    def __post_init__(self) -> None:
        _check_pixels(self.pixels, 3, "image")

    @property
    def frames(self) -> UInt8[np.ndarray, "1 H W 3"]:
        return self.pixels[None]


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames, RGB, and the second at which each is shown.

    Raises InputError unless times are finite, rise, and number as many as the frames.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    timestamps: Float[np.ndarray, "T"]
    kind: ClassVar[Literal["video"]] = "video"

    def __post_init__(self) -> None:
        _check_pixels(self.frames, 4, "video")
        times = np.asarray(self.timestamps, np.float64)
        object.__setattr__(self, "timestamps", times)
        if times.shape != (len(self.frames),):
            raise InputError("video", f"{len(self.frames)} frames, {times.size} timestamps",
                             "Give one timestamp per frame")
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError("video", "timestamps do not rise", "Sort the frames by time")


def _check_pixels(pixels: np.ndarray, dims: int, where: str) -> None:
    shape = getattr(pixels, "shape", ())
    if getattr(pixels, "dtype", None) != np.uint8 or len(shape) != dims or shape[-1] != 3:
        raise InputError(where, f"pixels are {getattr(pixels, 'dtype', type(pixels).__name__)} of "
                         f"shape {shape}", "Give uint8 RGB with the channel last")
    if 0 in shape:
        raise InputError(where, f"no pixels (shape {shape})", "Give at least one frame")


def read_image(path: str | os.PathLike[str]) -> Image:
    """The picture in a file, upright (EXIF orientation applied), as RGB.

    Raises:
      InputError: missing, empty, or no image.
    """
    path = _existing(path)
    return decode_image(path.read_bytes(), path)


def decode_image(data: bytes, where: object = "image") -> Image:
    """As ``read_image``, from the bytes of a file; ``where`` names them in errors."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            upright = PIL.ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16") or upright.mode == "I":
                levels = np.asarray(upright).astype(np.float64) / 257
                return Image(np.repeat(np.clip(levels.round(), 0, 255).astype(np.uint8)[..., None],
                                       3, axis=-1))
            return Image(np.asarray(upright.convert("RGB")))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(where, f"no readable image ({error})",
                         "Give a whole image file") from error


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "Check the path")
    if path.stat().st_size == 0:
        raise InputError(path, "the file is empty", "Fetch it again")
    return path


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
    Memory holds those frames and one number per packet. Times count from the first frame.

    Args:
      fps: frames wanted a second; None takes all.
      max_frames: most frames; more are thinned out evenly over the whole window. None: no limit.
      start, end: take only this window, seconds from the first frame.
      frame_size: (height, width) to (height, width): shrinks each frame as it is decoded.

    Raises:
      InputError: missing, empty, no video, truncated, undecodable, or nothing in the window.
    """
    path = _existing(path)
    if max_frames is not None and max_frames < 1 or fps is not None and not fps > 0:
        raise InputError("read_video", f"fps={fps}, max_frames={max_frames}",
                         "Both must be positive")
    try:
        with av.open(os.fspath(path)) as container:
            return _read(container, path, fps, max_frames, start, end, frame_size)
    except av.error.FFmpegError as error:
        raise InputError(path, f"not a whole video ({error.strerror})",
                         "Fetch it again, or convert it") from error


def _stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        raise InputError(path, "no video stream", "Give a file with pictures")
    return streams[0]


@dataclasses.dataclass(frozen=True)
class _Index:
    """What the packets tell: presentation times of all frames and of keyframes, in time base."""

    pts: list[int]
    keys: list[int]


def _index(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> _Index:
    pts: list[int] = []
    keys: list[int] = []
    packets = unstamped = end = 0
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        packets += 1
        if packet.is_discard:
            continue
        if packet.pts is None:
            unstamped += 1
            continue
        pts.append(packet.pts)
        end = max(end, packet.pts + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not packets:
        raise InputError(path, "the video stream holds no frame", "Give a longer video")
    if stream.frames and packets < stream.frames or _ends_early(stream, pts, end):
        raise InputError(path, f"truncated: {packets} frames found, the header promises "
                         f"{stream.frames or 'more'}", "Fetch it again")
    if unstamped:
        return _Index([], [])
    return _Index(sorted(set(pts)), sorted(keys))


def _ends_early(stream: av.VideoStream, pts: list[int], end: int) -> bool:
    if not stream.duration or not pts or stream.time_base is None:
        return False
    promised = stream.duration + (stream.start_time or 0)
    return (promised - end) * stream.time_base > max(1.0, 0.05 * stream.duration * stream.time_base)


def _read(
    container: av.container.InputContainer, path: Path, fps: float | None, max_frames: int | None,
    start: float, end: float | None, frame_size: FrameSize | None,
) -> Video:
    stream = _stream(container, path)
    stream.thread_type = "AUTO"
    index = _index(container, stream, path)
    base = float(stream.time_base or 0)
    if not index.pts or not base:
        raise InputError(path, "its frames carry no times", "Remux it into MP4 or Matroska")
    times = (np.asarray(index.pts, np.float64) - index.pts[0]) * base
    wanted = pick_frames(times, fps, max_frames, start, end)
    if not wanted:
        raise InputError(path, f"no frame between {start} s and {end} s of {times[-1]:.3f} s",
                         "Choose a window inside the video")
    pictures, taken = [], []
    for frame in _decode(container, stream, index, [index.pts[i] for i in wanted]):
        pixels = color.to_rgb(frame)
        turns = round(frame.rotation / 90)
        pixels = np.rot90(pixels, turns) if turns % 4 else pixels
        if frame_size is not None:
            pixels = resize(pixels, frame_size(pixels.shape[0], pixels.shape[1]))
        pictures.append(np.ascontiguousarray(pixels))
        taken.append((frame.pts - index.pts[0]) * base)
    if not pictures:
        raise InputError(path, "no frame can be decoded", "Fetch it again, or convert it")
    if len({p.shape for p in pictures}) > 1:
        raise InputError(path, "the frame size changes on the way", "Re-encode it at one size")
    return Video(np.stack(pictures), np.asarray(taken))


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, index: _Index,
    wanted: list[int],
) -> Iterator[av.VideoFrame]:
    """Frames shown at the wanted times; where one is lost, the next that can be decoded."""
    container.seek(index.pts[0], stream=stream, backward=True, any_frame=False)
    frames = container.decode(stream)
    position, last = index.pts[0], None
    for target in wanted:
        if last is not None and last >= target:
            continue
        at = bisect.bisect_right(index.keys, target) - 1
        if at >= 0 and index.keys[at] > position:
            container.seek(index.keys[at], stream=stream, backward=True, any_frame=False)
            frames = container.decode(stream)
        for frame in frames:
            if frame.pts is None:
                continue
            position = max(position, frame.pts)
            if frame.pts >= target:
                last = frame.pts
                yield frame
                break
