"""Splits the making of a dataset into shards, each made by one worker and stored as one file.

A shard is a range of scenes, a few video files or a range of JSONL rows. Its samples go to
``<folder>/<split>-<i>-of-<n>.array_record`` (the records that training reads), under a temporary
name until it is complete. A shard whose file exists is read instead of made again, so the same
command resumes a broken run. What a shard holds depends on the seed and its items only. Folders
may be anywhere that ``etils.epath`` writes to.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from etils import epath

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.records import Record
from fourd4d.synth.dataset import build
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.dataset.encode import EncodedSample
from fourd4d.synth.dataset.manifest import Entry
from fourd4d.synth.dataset.pack import pack_sample
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec

HEAD: Final = "bundles.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of a split.

    Attributes:
      split: ``train``, ``test``, …
      number, total: index of this shard among those of its split, and their number.
      items: what it is made of, as its maker takes it.
    """

    split: str
    number: int
    total: int
    items: Sequence[Any]

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.split}-{self.number:05d}-of-{self.total:05d}{records.SUFFIX}"


Maker = Callable[[Shard], Iterator[bytes]]
"""Makes the records of a shard; must be picklable for a cluster."""

def cut(split: str, items: Sequence[Any], size: int) -> list[Shard]:
    """Split items into shards of at most ``size``, in order."""
    if size < 1:
        raise InputError("bundle", f"{size} items", "Give 1 or more")
    total = -(-len(items) // size)
    return [Shard(split, n, total, items[n * size : (n + 1) * size]) for n in range(total)]


def claim(folder: str | epath.PathLike, head: Mapping[str, Any]) -> None:
    """Mark a folder as holding the shards of one configuration.

    Raises InputError where it holds those of another.
    """
    path = epath.Path(folder) / HEAD
    text = json.dumps(dict(head), indent=1, sort_keys=True)
    if path.exists():
        if path.read_text() != text:
            raise InputError(path, "this folder holds bundles of another configuration",
                             "Choose another folder, or delete this one")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read_or_make(shard: Shard, folder: str | epath.PathLike, maker: Maker) -> Iterator[Record]:
    """Yield the records of a shard, whose file is made first where it is missing."""
    path = epath.Path(folder) / shard.file_name
    with tempfile.TemporaryDirectory() as here:
        local = Path(here) / shard.file_name
        if path.exists():
            epath.Path(path).copy(local)
        else:
            records.write_shard(local, maker(shard))
            partial = path.parent / f".{path.name}.{uuid.uuid4().hex}"
            path.parent.mkdir(parents=True, exist_ok=True)
            epath.Path(local).copy(partial)
            partial.replace(path)
        yield from records.read_shards([local])


def video_maker(shard: Shard, spec: DatasetSpec, clips: Callable[[str, str], Iterable[Any]],
                failures: str) -> Iterator[bytes]:
    """Yield the records of a shard of (number, name, path) of video files.

    Files that give no sample are listed in the folder ``failures``: a file for each shard, a JSON
    line for each video.
    """
    rejected: list[Entry] = []
    for number, name, path in shard.items:
        found: list[EncodedSample] = []
        job = VideoJob(name, functools.partial(clips, path, name))
        entry = build.process_job(job, number, spec, found.append)
        if entry.status == "done":
            yield from (one.record() for one in found)
        else:
            rejected.append(entry)
    if rejected:
        path = epath.Path(failures) / f"{shard.file_name}.failures.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"video_id": e.video_id, "status": e.status,
                                            "reason": e.reason}) + "\n" for e in rejected))


def scene_maker(shard: Shard, spec: DatasetSpec, scenes: SceneSpec) -> Iterator[bytes]:
    """Records of a bundle of numbers of simulated clips, which follow on one another."""
    clips = simulate_clips(scenes, spec.seed, shard.items[0], len(shard.items))
    for number, clip in zip(shard.items, clips, strict=True):
        for one in build.samples_of(clip, spec, number * len(spec.question_types)).samples:
            yield one.record()


def jsonl_maker(shard: Shard, path: str, root: str) -> Iterator[bytes]:
    """Yield the records of a shard of (offset, line) of rows of a JSONL file."""
    with open(path, "rb") as file:
        for offset, line in shard.items:
            file.seek(offset)
            sample = jsonl.parse_line(file.readline(), f"{path}:{line}")
            yield pack_sample(root, sample)


def example(record: Record) -> dict[str, Any]:
    """Return a record as the features of a TFDS example; images as files in memory."""
    sample = record.sample
    return {
        "id": sample.id, "video_id": sample.video_id, "type": sample.kind,
        "question": sample.question, "options": list(sample.options), "answer": sample.answer,
        "response": sample.response, "timestamps": list(sample.timestamps),
        "overlay_timestamps": list(sample.overlay_timestamps),
        "provenance": json.dumps(dict(sample.provenance)),
        "frames": [io.BytesIO(data) for data in record.frames],
        "overlays": [io.BytesIO(data) for data in record.overlays],
    }


def examples(shard: Shard, folder: str, maker: Maker) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys and examples of a shard."""
    for record in read_or_make(shard, folder, maker):
        yield record.sample.id, example(record)


def features(shape: tuple[int | None, int | None, int] = (None, None, 3)) -> Any:
    """Return the TFDS features of an example; ``shape`` is that of its images."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=shape)
    return tfds.features.FeaturesDict({
        **{name: tfds.features.Text() for name in (
            "id", "video_id", "type", "question", "answer", "response", "provenance")},
        "options": tfds.features.Sequence(tfds.features.Text()),
        "timestamps": tfds.features.Sequence(tfds.features.Scalar(np.float64)),
        "overlay_timestamps": tfds.features.Sequence(tfds.features.Scalar(np.float64)),
        "frames": tfds.features.Sequence(image), "overlays": tfds.features.Sequence(image),
    })


def generated(parts: Sequence[Shard], folder: str, maker: Maker, with_beam: bool) -> Any:
    """Return what a TFDS builder takes its examples from: a Beam transform, or an iterator."""
    make = functools.partial(examples, folder=folder, maker=maker)
    if not with_beam:
        return (pair for part in parts for pair in make(part))
    import apache_beam as beam

    return beam.Create(list(parts)) | beam.Reshuffle() | beam.FlatMap(make)


def folder_of(builder: Any) -> str:
    """Return a TFDS builder's folder of shards: ``<data_dir>/bundles/<dataset>/<config>``."""
    root = epath.Path(builder._data_dir_root) / "bundles" / builder.name
    return str(root / builder.builder_config.name)
