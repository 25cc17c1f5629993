"""Benchmark items, and the append-only log that makes an evaluation resumable."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.files import full_disk_told, parse_json, replacing
from fourd4d.data.source import JsonlSource, Source

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Item:
    """A question's place in its source, and what every tally needs of it.

    Attributes:
      number: its index in the source.
      key: the sample's id.
      kind: question type.
      options: how many options it has; 0 where that is not known.
      problem: why it cannot be asked; empty where it can.
    """

    number: int
    key: str
    kind: str
    options: int
    problem: str = ""


def read_items(source: Source, limit: int = 0) -> list[Item]:
    """The first ``limit`` items of the source (all by default).

    A row that cannot be asked (malformed, without options, with another's id) is an item with a
    ``problem``: it stays in the denominator.

    Raises:
      InputError: not one row can be asked; the message is the first one's.
    """
    items: list[Item] = []
    seen: dict[str, str] = {}
    for number in range(min(limit or len(source), len(source))):
        try:
            row = source[number]
            sample = row.sample
            item = Item(number, sample.id, sample.kind, len(sample.options))
            if not sample.options:
                raise InputError(row.where, f"item {sample.id!r} has no options",
                                 "Evaluate multiple-choice questions")
            if sample.id in seen:
                raise InputError(row.where, f"id {sample.id!r} stands at {seen[sample.id]} too",
                                 "Make ids unique")
            seen[sample.id] = row.where
        except Exception as error:  # Whatever lies in one row.
            item = _unreadable(source, number, f"reading: {one_line(error)}")
        items.append(item)
    if items and all(item.problem for item in items):
        raise InputError(items[0].problem.removeprefix("reading: "), "no row of the data can be "
                         "asked", "Give multiple-choice questions")
    keys = collections.Counter(item.key for item in items)
    return [dataclasses.replace(item, key=f"{item.key} (row {item.number + 1})")
            if item.problem and keys[item.key] > 1 else item for item in items]


def _unreadable(source: Source, number: int, problem: str) -> Item:
    about = {}
    with contextlib.suppress(Exception):  # The problem says so already.
        about = source.glimpse(number)[1] if isinstance(source, JsonlSource) else {}
    key, kind = about.get("id"), about.get("type")
    return Item(number, key if isinstance(key, str) and key else f"row {number + 1}",
                kind if isinstance(kind, str) else "", jsonl.option_count(about), problem)


def shard(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Every ``count``-th item from ``index`` on."""
    if not 0 <= index < count:
        raise InputError("shard", f"{index} of {count}", "Use 0 … shards - 1")
    return list(items[index::count])


def item_seed(key: str, seed: int) -> int:
    """31 bits from the item's key and the run's seed; neither order nor batch plays a part."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """``count`` items, in turns from each question type and in file order within it.

    Chosen before anything is answered, so a page shows neither the best nor the worst.
    """
    queues: dict[str, list[Item]] = {}
    for item in items:
        queues.setdefault(item.kind, []).append(item)
    rank = {item.key: (turn, item.number)
            for queue in queues.values() for turn, item in enumerate(queue)}
    return sorted(items, key=lambda item: rank[item.key])[:count]


class ItemLog:
    """A JSONL file: a header line that says what is evaluated, then one record per item.

    Records are appended as items finish. A line that a kill left half-written is cut off when the
    log is opened again. One process at a time may hold a log.

    Args:
      path: the file, or None for a log in memory.
      header: JSON value that must be the same when the log is resumed.
      retry_failed: forget the items that could not be run, so that they are tried again.

    Raises:
      InputError: the log belongs to another evaluation, is damaged, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str] | None, header: Mapping[str, Any],
                 retry_failed: bool = False):
        self.path = None if path is None else Path(path)
        self.records: dict[str, Record] = {}
        self._file = None
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(self.path)
        try:
            self._resume(dict(header), retry_failed)
        except BaseException:
            self.close()
            raise

    def _resume(self, header: dict[str, Any], retry_failed: bool) -> None:
        assert self._file is not None and self.path is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        found, self.records = _parse(self.path, data[:whole])
        if found is None:
            self._write(header)
            return
        header = json.loads(json.dumps(header))
        if found != header:
            other = sorted(k for k in {*found, *header} if found.get(k) != header.get(k))
            raise InputError(self.path, f"the log belongs to another evaluation ({other} differ)",
                             "Choose another out directory, or delete the log")
        failed = [k for k, record in self.records.items() if record["status"] == "failed"]
        if retry_failed and failed:
            for key in failed:
                del self.records[key]
            with replacing(self.path) as temporary:  # A kill leaves the old log or the new one.
                temporary.write_bytes(_lines(header, *self.records.values()))
            self._file.close()
            self._file = _locked(self.path)

    def add(self, records: Iterable[Record]) -> None:
        """Appends records and has them on disk when it returns."""
        records = list(records)
        if self._file is not None:
            self._write(*records)
        self.records.update((record["key"], record) for record in records)

    def _write(self, *rows: Mapping[str, Any]) -> None:
        assert self._file is not None
        lines = _lines(*rows)
        before = self._file.seek(0, os.SEEK_END)
        with full_disk_told(self.path):
            try:
                while lines:
                    lines = lines[self._file.write(lines) :]
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(before)  # What follows must not go on in half a line.
                raise

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with full_disk_told(self.path):
                file.close()

    def __enter__(self) -> ItemLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(path: Path) -> io.FileIO:
    file = path.open("a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(path, "another process writes this log",
                         "Wait for it, or choose another out directory") from error
    return file


def _lines(*rows: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_log(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, dict[str, Record]]:
    """Header and records of a log that another process may be writing; changes nothing."""
    data = Path(path).read_bytes()
    return _parse(Path(path), data[: data.rfind(b"\n") + 1])


def _parse(path: Path, data: bytes) -> tuple[dict[str, Any] | None, dict[str, Record]]:
    header, records = None, {}
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = parse_json(line, path)
            if number == 1:
                header = row["evaluation"] and row
            else:
                records[row["key"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}", "this is no line of an evaluation log",
                             "Delete the log, or choose another out directory") from error
    return header, records
