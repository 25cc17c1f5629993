"""Random access to samples on disk: JSONL files and ArrayRecord shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.records import SUFFIX, Record, decode_sample, find_shards
from fourd4d.core.sample import Sample


@dataclasses.dataclass(frozen=True)
class Row:
    """A sample and where its images are: below ``root``, or inside ``record``.

    Attributes:
      where: file and line (or record), for errors.
    """

    sample: Sample
    where: str
    root: Path | None = None
    record: Record | None = None


@runtime_checkable
class Source(Protocol):
    """Rows by number. Instances are picklable and safe to read from many threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


class JsonlSource:
    """Rows of a JSONL file of either published layout; image paths are below ``root``.

    Every row is parsed and checked once at the start, so that a malformed line stops a run before
    its first step; afterwards rows are read from disk by offset.

    Args:
      keep_bad: keep rows that are malformed; only reading such a row raises.

    Raises InputError naming file and line.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None,
                 keep_bad: bool = False):
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        rows = jsonl.lines_of(self.path) if keep_bad else jsonl.scan(self.path)
        table = [(offset, line) for offset, line, _ in rows]
        if not table:
            raise InputError(self.path, "the file has no rows", "Give a file with samples")
        self._table = np.array(table, np.int64)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        where, text = self._line(index)
        return Row(jsonl.parse_line(text, where), where, root=self.root)

    def fingerprint(self) -> str:
        """Tells files of other content apart, wherever they lie."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return f"{len(self)} rows {digest}"

    def glimpse(self, index: int) -> tuple[str, dict[str, Any]]:
        """Where a row is that may be malformed, and what it says of itself."""
        where, text = self._line(index)
        return where, jsonl.glimpse(text)

    def _line(self, index: int) -> tuple[str, bytes]:
        offset, line = (int(x) for x in self._table[index])
        where = f"{self.path}:{line}"
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return where, file.readline()
        except OSError as error:
            raise InputError(where, f"cannot be read ({error.strerror})",
                             "Keep the file in place while it is in use") from error

    def __repr__(self) -> str:
        return f"JsonlSource({str(self.path)!r}, {len(self)} rows)"


class RecordSource:
    """Rows of ArrayRecord shards written by ``core.records.write_shards``, images included."""

    def __init__(self, path: str | os.PathLike[str], name: str = ""):
        self.paths = [os.fspath(p) for p in find_shards(path, name)]
        counts = []
        for shard in self.paths:
            try:
                reader = _open(shard)
                counts.append(reader.num_records())
                reader.close()
            except Exception as error:  # The binding raises bare RuntimeErrors.
                raise InputError(shard, f"no readable ArrayRecord file ({error})",
                                 "Write the dataset again") from error
        self._ends = np.cumsum(counts)
        if not self._ends[-1]:
            raise InputError(path, "the shards hold no records", "Give a dataset with samples")
        self._local = threading.local()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (int(self._ends[shard - 1]) if shard else 0)
        where = f"{self.paths[shard]}:{number}"
        readers = self._local.__dict__.setdefault("readers", {})  # A reader serves one thread.
        if shard not in readers:
            readers[shard] = _open(self.paths[shard])
        try:
            data = readers[shard].read([number])[0]
        except RuntimeError as error:
            raise InputError(where, f"unreadable ({error})", "Write the dataset again") from error
        record = decode_sample(data, where)
        return Row(record.sample, where, record=record)

    def fingerprint(self) -> str:
        """Tells datasets of other sizes apart, wherever they lie."""
        sizes = [[os.path.basename(path), os.path.getsize(path)] for path in self.paths]
        return f"{len(self)} rows {hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]}"

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_local"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"RecordSource({len(self.paths)} shards, {len(self)} rows)"


class ListSource:
    """Samples already in memory; image paths are below ``root``."""

    def __init__(self, samples: Sequence[Sample], root: str | os.PathLike[str],
                 name: str = "samples"):
        self.samples, self.root, self.name = tuple(samples), Path(root), name

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Row:
        return Row(self.samples[index], f"{self.name}:{index}", root=self.root)

    def __repr__(self) -> str:
        return f"ListSource({self.name!r}, {len(self)} rows)"


def open_source(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None,
                keep_bad: bool = False) -> JsonlSource | RecordSource:
    """The source at ``path``: a ``.jsonl`` file, or a shard or directory of ArrayRecord files.

    Args:
      root: where the image paths of a JSONL file start; by default the file's own directory.
      keep_bad: as of ``JsonlSource``.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file or directory",
                         "Give a .jsonl file or a dataset directory")
    if path.is_dir() or SUFFIX in path.name:
        return RecordSource(path)
    return JsonlSource(path, root, keep_bad)


def samples(source: Source) -> Iterator[Sample]:
    """All samples, in order."""
    for index in range(len(source)):
        yield source[index].sample


def _open(path: str):
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path)
