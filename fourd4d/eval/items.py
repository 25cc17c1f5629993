"""Benchmark items, and the append-only log that makes an evaluation resumable."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.journal import Journal, Layout, read
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
      video: items of one name are asked together; empty where that is not known.
    """

    number: int
    key: str
    kind: str
    options: int
    problem: str = ""
    video: str = ""


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
            item = Item(number, sample.id, sample.kind, len(sample.options), video=sample.video
                        or os.path.dirname((*sample.frames, "")[0]))
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
    """The items of shard ``index``: videos are dealt in turn, each to the shard with fewest items.

    Items without a video are each dealt alone.
    """
    if not 0 <= index < count:
        raise InputError("shard", f"{index} of {count}", "Use 0 … shards - 1")
    dealt: list[list[Item]] = [[] for _ in range(count)]
    for group in by_video(items):
        min(dealt, key=len).extend(group)
    return sorted(dealt[index], key=lambda item: item.number)


def by_video(items: Sequence[Item]) -> list[list[Item]]:
    """The items of each video together, in order of the videos' first items."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.video or item.number, []).append(item)
    return list(groups.values())


def item_seed(key: str, seed: int) -> int:
    """31 bits from the item's key and the run's seed; neither order nor batch plays a part."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def run_seed(seed: int, run: int) -> int:
    """The seed of a run of several, from the seed that was asked for, which run 0 has itself.

    Hashed, so that neighbouring seeds share no run: neither ``seed + run`` nor the like.
    """
    if not run:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}\nrun {run}".encode()).digest()[:8], "big") >> 1


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


_LAYOUT: Final = Layout(
    "an evaluation log", row=lambda record: (record["key"], record["status"]) and record,
    header="evaluation", run="evaluation", place="out directory", remedy="Delete the log")


class ItemLog:
    """A journal: a header line that says what is evaluated, then one record per item.

    Records are appended as items finish. One process at a time may hold a log.

    Args:
      path: the file, or None for a log in memory.
      header: JSON value that must be the same when the log is resumed.
      retry_failed: forget the items that could not be run, so that they are tried again.

    Raises:
      InputError: the log belongs to another evaluation, is damaged, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str] | None, header: Mapping[str, Any],
                 retry_failed: bool = False):
        self.records: dict[str, Record] = {}
        self._journal = None
        if path is None:
            return
        self._journal = Journal(path, _LAYOUT, header, sync=True)
        if retry_failed:
            self._journal.keep_only(lambda record: record["status"] != "failed")
        self.records = _by_key(self._journal.rows)

    def add(self, records: Iterable[Record]) -> None:
        """Appends records and has them on disk when it returns."""
        records = list(records)
        if self._journal is not None:
            self._journal.append(*records)
        self.records |= _by_key(records)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> ItemLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, dict[str, Record]]:
    """Header and records of a log that another process may be writing; changes nothing."""
    header, records = read(path, _LAYOUT)
    return header, _by_key(records)


def _by_key(records: Iterable[Record]) -> dict[str, Record]:
    return {record["key"]: record for record in records}
