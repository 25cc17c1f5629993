"""The binary record of one sample with its images, and ArrayRecord shards of them.

A record holds everything that training needs, so a dataset is a few large files instead of
thousands of small ones. Layout, little-endian::

    b"4DR1" | uint32 length of the header | header (JSON, UTF-8) | image files, end to end

The header is ``{"sample": {field: value}, "frames": [bytes of each], "overlays": [bytes of
each]}``; the images are PNG or JPEG files as they would lie on disk.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told, parse_json, replacing
from fourd4d.core.sample import Sample, check
from fourd4d.core.storage import as_path, local_only

MAGIC = b"4DR1"
SUFFIX = ".array_record"
_HEAD = struct.Struct("<4sI")
_FIELDS = {field.name: field for field in dataclasses.fields(Sample)}


@dataclasses.dataclass(frozen=True)
class Record:
    """A sample and the image files it names, still encoded.

    Attributes:
      frames: one PNG or JPEG file per ``sample.frames``.
      overlays: one per ``sample.overlays``.
    """

    sample: Sample
    frames: tuple[bytes, ...]
    overlays: tuple[bytes, ...]


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """Every field; unlike the published rows, nothing is dropped."""
    return dataclasses.asdict(sample)


def sample_from_json(value: dict[str, Any], where: object) -> Sample:
    """Inverse of ``sample_to_json``. Raises InputError on unknown fields and broken invariants."""
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown or "id" not in value or "question" not in value:
        raise InputError(where, f"unknown fields {unknown}" if unknown else "no id or question",
                         "The record must come from this package's writer")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    sample = Sample(**fields)
    check(sample, where)
    return sample


def encode_sample(sample: Sample, frames: Sequence[bytes], overlays: Sequence[bytes]) -> bytes:
    """One record. Raises InputError when images and the sample's lists differ in number."""
    for name, images, paths in (("frames", frames, sample.frames),
                                ("overlays", overlays, sample.overlays)):
        if len(images) != len(paths):
            raise InputError(f"sample {sample.id!r}", f"{len(images)} encoded {name}, "
                             f"{len(paths)} named", "Encode every image that the sample names")
    header = json.dumps(
        {"sample": sample_to_json(sample), "frames": [len(x) for x in frames],
         "overlays": [len(x) for x in overlays]}, ensure_ascii=False).encode()
    return b"".join([_HEAD.pack(MAGIC, len(header)), header, *frames, *overlays])


def decode_sample(record: bytes, where: object = "record") -> Record:
    """Inverse of ``encode_sample``. Raises InputError on foreign or cut records."""
    remedy = "Write the dataset again"
    if len(record) < _HEAD.size or record[:4] != MAGIC:
        raise InputError(where, "no record of this package (wrong first bytes)", remedy)
    _, size = _HEAD.unpack_from(record)
    start = _HEAD.size + size
    try:
        header = parse_json(record[_HEAD.size : start], "JSON")
        value, frames, overlays = header["sample"], header["frames"], header["overlays"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(where, f"unreadable header ({error})", remedy) from error
    if start + sum(frames) + sum(overlays) != len(record):
        raise InputError(where, "the record is cut short or too long", remedy)
    blobs = []
    for size in (*frames, *overlays):
        blobs.append(bytes(record[start : start + size]))
        start += size
    return Record(sample_from_json(value, where), tuple(blobs[: len(frames)]),
                  tuple(blobs[len(frames) :]))


def write_shards(directory: str | os.PathLike[str], name: str, records: Iterable[bytes],
                 shards: int = 1) -> list[Path]:
    """Deals records to ``<name>-<i>-of-<n>.array_record``; returns the paths.

    Shards are written under temporary names and renamed when all are complete. A reader finds the
    records in shard order; record j lies in shard j % n.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    if shards < 1:
        raise InputError("shards", f"{shards} is not a number of files", "Give 1 or more")
    directory = local_only(directory, "shards that are written")
    directory.mkdir(parents=True, exist_ok=True)
    final = [directory / f"{name}-{i:05d}-of-{shards:05d}{SUFFIX}" for i in range(shards)]
    temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in final]
    # One record a group: training reads single records at random.
    writers = [ArrayRecordWriter(os.fspath(path), "group_size:1") for path in temporary]
    try:
        with full_disk_told(directory):
            try:
                for number, record in enumerate(records):
                    writers[number % shards].write(record)
            finally:
                for writer in writers:
                    writer.close()
        for source, target in zip(temporary, final, strict=True):
            os.replace(source, target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return final


def write_shard(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Writes all records to one file, which appears when it is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with replacing(path) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1")
        try:
            for record in records:
                writer.write(record)
        finally:
            writer.close()


def find_shards(path: str | os.PathLike[str], name: str = "") -> list[Path]:
    """The shard files at ``path`` (a shard or a directory), sorted; ``name`` selects a prefix.

    Raises InputError when there are none, or when some of a set are missing.
    """
    path = as_path(path)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob(f"{name}*{SUFFIX}*") if not p.name.startswith("."))
    if not found:
        raise InputError(path, f"no {name or '*'}{SUFFIX} file here", "Give a dataset's directory")
    totals: dict[tuple[str, int], int] = {}
    for shard in found:
        parts = shard.name.replace(SUFFIX, "").rsplit("-", 3)
        if len(parts) == 4 and parts[2] == "of" and parts[3].isdigit():
            key = (parts[0], int(parts[3]))
            totals[key] = totals.get(key, 0) + 1
    for (prefix, total), count in totals.items():
        if count != total:
            raise InputError(path, f"{count} of {total} shards of {prefix!r}",
                             "Copy the missing shards or write the dataset again")
    return found


def read_shards(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Record]:
    """All records of the shards, in order."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path in paths:
        reader = ArrayRecordReader(os.fspath(path))
        try:
            for number in range(reader.num_records()):
                yield decode_sample(reader.read([number])[0], f"{path}:{number}")
        finally:
            reader.close()
