"""Random access to samples on disk: JSONL files and ArrayRecord shards."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.records import SUFFIX, Record, decode_sample, find_shards
from fourd4d.core.sample import Sample
from fourd4d.core.storage import as_path, local_copy

_BLOCK: Final = 1 << 16  # Bytes of a shard that are looked at in one place,
_BLOCKS: Final = 64  # and at how many places.


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


def row_name(source: Source, index: int) -> str:
    """File and line of a row, without reading it."""
    name: Callable[[int], str] | None = getattr(source, "where", None)
    return name(index) if name is not None else f"{source!r}:{index}"


class JsonlSource:
    """Rows of a JSONL file of either published layout; image paths are below ``root``.

    Every row is parsed and checked once at the start; afterwards rows are read from disk by offset.

    Args:
      keep_bad: a malformed row keeps its place, and only reading it raises; else the first one
        raises at the start.

    Raises InputError naming file and line.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None,
                 keep_bad: bool = False):
        self.path = as_path(path)
        self.root = as_path(root) if root is not None else self.path.parent
        self._bad: dict[int, InputError] = {}
        table = []
        for offset, line, found in jsonl.scan_all(self.path):
            if isinstance(found, InputError):
                if not keep_bad:
                    raise found
                self._bad[len(table)] = found
            table.append((offset, line))
        if not table:
            raise InputError(self.path, "the file has no rows", "Give a file with samples")
        self._table = np.array(table, np.int64)
        self._file = local_copy(self.path)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        if bad := self._bad.get(index):  # A fresh one: raising adds to its traceback.
            raise InputError(bad.where, bad.what, bad.remedy)
        where, text = self._line(index)
        return Row(jsonl.parse_line(text, where), where, root=self.root)

    def where(self, index: int) -> str:
        """File and line of a row."""
        return f"{self.path}:{int(self._table[index][1])}"

    def fingerprint(self) -> str:
        """Tells files of other content apart, wherever they lie."""
        with self._file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return f"{len(self)} rows {digest}"

    def glimpse(self, index: int) -> tuple[str, dict[str, Any]]:
        """Where a row is that may be malformed, and what it says of itself."""
        where, text = self._line(index)
        return where, jsonl.glimpse(text)

    def _line(self, index: int) -> tuple[str, bytes]:
        offset, where = int(self._table[index][0]), self.where(index)
        try:
            with self._file.open("rb") as file:
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
        self._files = [os.fspath(local_copy(p)) for p in self.paths]
        counts = []
        for shard, file in zip(self.paths, self._files, strict=True):
            try:
                reader = _open(file)
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

    def _place(self, index: int) -> tuple[int, int]:
        """(number of the shard, number of the record in it)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def where(self, index: int) -> str:
        """Shard and record of a row."""
        shard, number = self._place(index)
        return f"{self.paths[shard]}:{number}"

    def __getitem__(self, index: int) -> Row:
        shard, number = self._place(index)
        where = self.where(index)
        readers = self._local.__dict__.setdefault("readers", {})  # A reader serves one thread.
        if shard not in readers:
            readers[shard] = _open(self._files[shard])
        try:
            data = readers[shard].read([number])[0]
        except RuntimeError as error:
            raise InputError(where, f"unreadable ({error})", "Write the dataset again") from error
        record = decode_sample(data, where)
        return Row(record.sample, where, record=record)

    def fingerprint(self) -> str:
        """Tells shards of other content apart, wherever they lie: by their sizes, and by blocks
        spread over each.
        """
        digest = hashlib.sha256()
        for path in self._files:
            size = os.path.getsize(path)
            digest.update(size.to_bytes(8, "little"))
            starts = np.linspace(0, max(size - _BLOCK, 0), min(_BLOCKS, -(-size // _BLOCK) or 1))
            with open(path, "rb") as file:
                for start in starts.astype(np.int64).tolist():
                    file.seek(start)
                    digest.update(file.read(_BLOCK))
        return f"{len(self)} rows {digest.hexdigest()[:16]}"

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
        self.samples, self.root, self.name = tuple(samples), as_path(root), name

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Row:
        return Row(self.samples[index], self.where(index), root=self.root)

    def where(self, index: int) -> str:
        """Name and number of a row."""
        return f"{self.name}:{index}"

    def __repr__(self) -> str:
        return f"ListSource({self.name!r}, {len(self)} rows)"


def open_source(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None,
                keep_bad: bool = False) -> JsonlSource | RecordSource:
    """The source at ``path``: a ``.jsonl`` file, or a shard or directory of ArrayRecord files.

    Args:
      root: where the image paths of a JSONL file start; by default the file's own directory.
      keep_bad: as of ``JsonlSource``.
    """
    path = as_path(path)
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
