"""A row's images and video, decoded: what the processor takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.data.source import Row
from fourd4d.processing.media import Image, Video, decode_image, read_image
from fourd4d.processing.video import pick_frames, read_video

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
) -> tuple[Media, Overlays]:
    """The sample's video (or still image) and overlays, read from files below ``root``.

    Frame images keep their timestamps; more than ``protocol.max_frames`` are thinned out evenly
    over time. Video files are sampled at ``protocol.fps``. A single frame without a timestamp is a
    still image.

    Args:
      assumed_fps: frames a second of frame lists without timestamps, which are an error otherwise.
      with_overlays: False leaves the overlays unread.
      where: names the sample in errors; by default its id.

    Raises:
      InputError: missing, unreadable or unequal images; paths that leave ``root``; no timestamps.
    """
    where = where or f"sample {sample.id!r}"

    def read(path: str) -> UInt8[np.ndarray, "H W 3"]:
        file = jsonl.inside(root, path, where)
        if not file.is_file():
            raise InputError(where, f"{path!r} is missing below {Path(root).resolve()}",
                             "Check the data root, or delete the row")
        try:
            return read_image(file).pixels
        except InputError as error:
            raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error

    overlays = [read(path) for path in sample.overlays] if with_overlays else []
    if not sample.frames:
        file = jsonl.inside(root, sample.video, where)
        try:
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
) -> tuple[Media, Overlays]:
    """As ``load_media``, from the images inside a record."""
    sample = record.sample
    where = where or f"sample {sample.id!r}"

    def decode(image: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
        return decode_image(image, f"{where}, image {name!r}").pixels

    overlays = [decode(x, name) for x, name in zip(record.overlays, sample.overlays, strict=True)
                ] if with_overlays else []
    media = _assemble(sample, lambda i: decode(record.frames[i], sample.frames[i]), protocol,
                      assumed_fps, where)
    return media, overlays


def row_media(row: Row, protocol: ProtocolSpec, *, assumed_fps: float | None = None,
              with_overlays: bool = True) -> tuple[Media, Overlays]:
    """The media of a row of any source."""
    if row.record is not None:
        return decode_media(row.record, protocol, assumed_fps=assumed_fps,
                            with_overlays=with_overlays, where=row.where)
    return load_media(row.sample, row.root or Path("."), protocol, assumed_fps=assumed_fps,
                      with_overlays=with_overlays, where=row.where)


def _times(sample: Sample, assumed_fps: float | None, where: object) -> Sequence[float]:
    if sample.timestamps:
        return sample.timestamps
    if assumed_fps is None:
        raise InputError(where, f"{len(sample.frames)} frames without timestamps",
                         "Add 'timestamps' (seconds) to the row, or state assumed_fps")
    return [i / assumed_fps for i in range(len(sample.frames))]


def _assemble(sample: Sample, get: Callable[[int], np.ndarray], protocol: ProtocolSpec,
              assumed_fps: float | None, where: object) -> Media:
    if len(sample.frames) == 1 and not sample.timestamps:
        return (Image(get(0)),)
    timestamps = np.asarray(_times(sample, assumed_fps, where), np.float64)
    chosen = pick_frames(timestamps, None, protocol.max_frames, start=timestamps[0])
    frames = [get(i) for i in chosen]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise InputError(where, f"frames of different sizes {sorted(sizes)}",
                         "All frames of a video must have one size")
    return (Video(np.stack(frames), timestamps[chosen]),)
