"""A row's images and video, decoded: what the processor takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.core.storage import is_remote, local_file
from fourd4d.data.image_cache import ImageCache
from fourd4d.data.source import Row
from fourd4d.processing.media import Image, MediumShape, Video, decode_image, image_size
from fourd4d.processing.video import pick_frames, read_video

_SAME_TIME = 1e-3  # Seconds.
Media = tuple[Video | Image, ...]
Overlays = list[UInt8[np.ndarray, "H W 3"]]


def load_media(
    sample: Sample,
    root: str | Path,
    protocol: ProtocolSpec,
    *,
    assumed_fps: float | None = None,
    with_overlays: bool = True,
    where: object = None,
    cache: ImageCache | None = None,
) -> tuple[Media, Overlays]:
    """The sample's video (or still image) and overlays, read from files below ``root``.

    Frame images keep their timestamps; more than ``protocol.max_frames`` are thinned out evenly
    over time. Video files are sampled at ``protocol.fps``. A single frame without a timestamp is a
    still image.

    Args:
      assumed_fps: frames a second of frame lists without timestamps, which are an error otherwise.
      with_overlays: False leaves the overlays unread.
      where: names the sample in errors; by default its id.
      cache: asked first for images, and given what is decoded.

    Raises:
      InputError: missing, unreadable or unequal images; paths that leave ``root``; no timestamps.
    """
    where = where or f"sample {sample.id!r}"
    cache = cache or ImageCache(0)

    # Without annotations: checkers of types would wrap these anew, in every thread, for each row.
    def read(path):
        return cache.get(f"{root}\0{path}", lambda: fetch(path))

    def fetch(path):
        return decode_image(_file(root, path, where), f"{where}: {path}").pixels

    overlays = [read(path) for path in sample.overlays] if with_overlays else []
    if not sample.frames:
        file = jsonl.inside(root, sample.video, where)
        try:
            with local_file(file) as file:
                return (read_video(file, protocol.fps, protocol.max_frames),), overlays
        except InputError as error:
            raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error
    frames = sample.frames
    return _assemble(sample, lambda i: read(frames[i]), protocol, assumed_fps, where), overlays


def decode_media(
    record: Record,
    protocol: ProtocolSpec,
    *,
    assumed_fps: float | None = None,
    with_overlays: bool = True,
    where: object = None,
    cache: ImageCache | None = None,
) -> tuple[Media, Overlays]:
    """As ``load_media``, from the images inside a record."""
    sample = record.sample
    where = where or f"sample {sample.id!r}"

    cache = cache or ImageCache(0)

    def decode(image, name):  # As ``read`` above.
        place = f"{where}, image {name!r}"
        return cache.get(place, lambda: decode_image(image, place).pixels)

    overlays = [decode(x, name) for x, name in zip(record.overlays, sample.overlays, strict=True)
                ] if with_overlays else []
    media = _assemble(sample, lambda i: decode(record.frames[i], sample.frames[i]), protocol,
                      assumed_fps, where)
    return media, overlays


def row_media(row: Row, protocol: ProtocolSpec, *, assumed_fps: float | None = None,
              with_overlays: bool = True,
              cache: ImageCache | None = None) -> tuple[Media, Overlays]:
    """The media of a row of any source."""
    if row.record is not None:
        return decode_media(row.record, protocol, assumed_fps=assumed_fps,
                            with_overlays=with_overlays, where=row.where, cache=cache)
    return load_media(row.sample, row.root or Path("."), protocol, assumed_fps=assumed_fps,
                      with_overlays=with_overlays, where=row.where, cache=cache)


def plain_frames(row: Row, *, cache: ImageCache | None = None) -> Overlays:
    """The frames that a row's overlays were painted on, found by their timestamps.

    Raises:
      InputError: overlays or frames without timestamps, or an overlay of a time without a frame.
    """
    sample = row.sample
    remedy = "Leave protocol.target out, or synthesize the data with timestamps"
    if not sample.timestamps or len(sample.overlay_timestamps) != len(sample.overlays):
        raise InputError(row.where, f"sample {sample.id!r}: frames and overlays need timestamps "
                         "for the target 'difference'", remedy)
    times = np.asarray(sample.timestamps)
    found = []
    for time in sample.overlay_timestamps:
        number = int(np.argmin(np.abs(times - time)))
        if abs(times[number] - time) > _SAME_TIME:
            raise InputError(row.where, f"sample {sample.id!r}: an overlay of {time:g} s, the "
                             f"nearest frame is of {times[number]:g} s", remedy)
        found.append(_image(row, sample.frames[number], number, cache))
    return found


def overlay_masks(row: Row, *, cache: ImageCache | None = None) -> list[Bool[np.ndarray, "H W"]]:
    """The masks behind a row's overlays. Raises InputError where they do not travel with it."""
    sample = row.sample
    if row.record is not None or len(sample.masks) != len(sample.overlays):
        raise InputError(row.where, f"sample {sample.id!r}: no masks for the region 'mask'",
                         "Leave protocol.region out, or read a dift.jsonl with 'masks'")
    return [_image(row, path, None, cache)[..., 0] > 127 for path in sample.masks]


def _image(row: Row, path: str, number: int | None, cache: ImageCache | None
           ) -> UInt8[np.ndarray, "H W 3"]:
    """One image of a row: frame ``number``, inside a record or as a file."""
    cache, place = cache or ImageCache(0), f"{row.where}: {path}"
    if row.record is not None and number is not None:
        data = row.record.frames[number]
        return cache.get(f"{row.where}, image {path!r}", lambda: decode_image(data, place).pixels)
    root = row.root or Path(".")
    return cache.get(f"{root}\0{path}",
                     lambda: decode_image(_file(root, path, row.where), place).pixels)


def row_shapes(row: Row, protocol: ProtocolSpec, *, assumed_fps: float | None = None,
               with_overlays: bool = True) -> tuple[list[MediumShape], list[tuple[int, int]]]:
    """Shapes of what ``row_media`` would give, from the images' headers.

    A video file is decoded: how many frames it gives is known only then.
    """
    sample, record, root = row.sample, row.record, row.root or Path(".")

    def size(path, blobs, number):
        data = blobs[number] if record is not None else _file(root, path, row.where)
        return image_size(data, f"{row.where}: {path}")

    overlays = [size(path, record.overlays if record else (), i)
                for i, path in enumerate(sample.overlays)] if with_overlays else []
    if not sample.frames:
        (video,), _ = row_media(row, protocol, with_overlays=False)
        height, width = video.frames.shape[1:3]
        times = tuple(video.timestamps) if isinstance(video, Video) else ()
        return [MediumShape("video", len(video.frames), height, width, times)], overlays
    first = size(sample.frames[0], record.frames if record else (), 0)
    if _is_still(sample):
        return [MediumShape("image", 1, *first)], overlays
    chosen, times = _choose(sample, protocol, assumed_fps, row.where)
    return [MediumShape("video", len(chosen), *first, tuple(times))], overlays


def _file(root: str | Path, path: str, where: object) -> bytes:
    file = jsonl.inside(root, path, where)
    try:
        return file.read_bytes()
    except OSError as error:
        what = ("is missing" if isinstance(error, FileNotFoundError)
                else f"cannot be read ({error.strerror})")
        below = root if is_remote(root) else Path(root).resolve()
        raise InputError(where, f"{path!r} {what} below {below}",
                         "Check the data root, or delete the row") from error


def _is_still(sample: Sample) -> bool:
    return len(sample.frames) == 1 and not sample.timestamps


def _choose(sample: Sample, protocol: ProtocolSpec, assumed_fps: float | None,
            where: object) -> tuple[list[int], Float[np.ndarray, "T"]]:
    timestamps = np.asarray(_times(sample, assumed_fps, where), np.float64)
    chosen = pick_frames(timestamps, None, protocol.max_frames, start=timestamps[0])
    return chosen, timestamps[chosen]


def _times(sample: Sample, assumed_fps: float | None, where: object) -> Sequence[float]:
    if sample.timestamps:
        return sample.timestamps
    if assumed_fps is None:
        raise InputError(where, f"{len(sample.frames)} frames without timestamps",
                         "Add 'timestamps' (seconds) to the row, or state assumed_fps")
    return [i / assumed_fps for i in range(len(sample.frames))]


def _assemble(sample: Sample, get: Callable[[int], np.ndarray], protocol: ProtocolSpec,
              assumed_fps: float | None, where: object) -> Media:
    if _is_still(sample):
        return (Image(get(0)),)
    chosen, timestamps = _choose(sample, protocol, assumed_fps, where)
    frames = [get(i) for i in chosen]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise InputError(where, f"frames of different sizes {sorted(sizes)}",
                         "All frames of a video must have one size")
    return (Video(np.stack(frames), timestamps),)
