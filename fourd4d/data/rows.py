"""The stream of rows that pipelines cut batches from: order, shares, reading ahead, bad rows.

The position in it counts rows, so it holds whatever the number of reading processes.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from typing import Any, TypeAlias

import grain
import numpy as np
from absl import flags

from fourd4d.core.errors import InputError
from fourd4d.data.bad_rows import BadRow, Tally
from fourd4d.data.source import Row, Source

Sources: TypeAlias = Source | Sequence[tuple[Source, float]]
"""One source, or several with weights."""
_LATER = 1 << 31
_SHARED = 1 << 16  # Bytes from which an array goes from process to process by shared memory.


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the data this process reads: share ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError("Shard", f"index {self.index} of {self.count}",
                             "Indices run from 0 to count - 1")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the work of reading is spread; no effect on what is read.

    Attributes:
      workers: processes; 0 reads in this one.
      threads: threads of each process; 0 reads when asked.
      buffer: batches held ready by each process.
      cache_mb: megabytes of decoded images that each process keeps for the next epoch.
    """

    workers: int = 0
    threads: int = 2
    buffer: int = 2
    cache_mb: int = 256


class Shuffled(grain.MapDataset):
    """The elements of ``parent`` in an order of its own in each epoch.

    Grain's ``shuffle`` draws epoch e of seed s with s + e, so neighbouring seeds share epochs. Here
    the first epoch is Grain's; in a later one a second shuffle comes after it, with a seed that
    differs from epoch to epoch: no two pairs of seed and epoch are drawn alike.

    Args:
      neighbours: draw later epochs as ``shuffle`` does; runs that began so go on so.
    """

    def __init__(self, parent: grain.MapDataset, seed: int, neighbours: bool = False):
        super().__init__(parent)
        self._seed, self._neighbours = seed % 2**32, neighbours

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, len(self))
        return _epoch(self._parent, self._seed, epoch, self._neighbours)[place]


def later_seed(seed: int, epoch: int) -> int:
    """The seed of the second shuffle of an epoch after the first; its top bit is set."""
    start = hashlib.blake2b(str(seed).encode(), digest_size=4).digest()
    return _LATER | (int.from_bytes(start, "little") + epoch) % _LATER


@functools.lru_cache(maxsize=64)
def _epoch(parent: grain.MapDataset, seed: int, epoch: int, neighbours: bool) -> grain.MapDataset:
    if neighbours:
        return parent.shuffle(seed=(seed + epoch) % 2**32)
    first = parent.shuffle(seed=seed)
    return first.shuffle(seed=later_seed(seed, epoch)) if epoch else first


@dataclasses.dataclass(frozen=True)
class Order:
    """All rows of all epochs in their order, the same on every process."""

    source: Sources
    seed: int = 0
    epochs: int | None = 1
    shuffle: bool = True
    neighbours: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise InputError("epochs", f"{self.epochs} epochs", "Give 1 or more, or None")
        if not self.parts or any(weight <= 0 for _, weight in self.parts):
            raise InputError("sources", f"weights {[weight for _, weight in self.parts]}",
                             "Give at least one source, all weights above zero")

    @property
    def parts(self) -> Sequence[tuple[Source, float]]:
        return self.source if isinstance(self.source, Sequence) else [(self.source, 1.0)]

    @property
    def epoch(self) -> int:
        """Rows of one epoch."""
        return sum(len(part) for part, _ in self.parts)

    def dataset(self) -> grain.MapDataset:
        """(number of the source, number of the row in it)."""
        parts = []
        for number, (part, _) in enumerate(self.parts):
            dataset = grain.MapDataset.range(len(part))
            if self.shuffle:
                dataset = Shuffled(dataset, self.seed + 7919 * number, self.neighbours)
            parts.append(dataset.map(functools.partial(_pair, number)))
        if not isinstance(self.source, Sequence):
            return parts[0].repeat(self.epochs)
        mixed = grain.MapDataset.mix([part.repeat(None) for part in parts],
                                     [weight for _, weight in self.parts])
        return mixed if self.epochs is None else mixed[: self.epochs * self.epoch]


def _pair(number: int, index: int) -> tuple[int, int]:
    return number, int(index)


def row_name(source: Source, index: int) -> str:
    """File and line of a row, without reading it."""
    name: Callable[[int], str] | None = getattr(source, "where", None)
    return name(index) if name is not None else f"{source!r}:{index}"


class _Share(grain.MapDataset):
    """This process's rows, prepared: (number, pixels or None, what ``make`` gave or a BadRow).

    Processes take turns with ``size`` rows each. Exceptions end here: in a process that reads they
    would end its part of the data. Beyond ``rows`` there is no end but nothing more: a process of
    Grain that comes to an end keeps its last array in shared memory.
    """

    def __init__(self, order: Order, make: Callable[[Row], Any], size: int, shard: Shard):
        super().__init__(order.dataset())
        self._order, self._make, self._size, self._shard = order, make, size, shard
        self.total = len(self._parent)
        turns = -(-self.total // (size * shard.count))
        before = (turns - 1) * size
        last = self.total - before * shard.count - shard.index * size
        self.rows = min(before + max(0, min(last, size)), sys.maxsize)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        if index >= self.rows:
            return index, None, None
        turn, place = divmod(index, self._size)
        place += (turn * self._shard.count + self._shard.index) * self._size
        number, row = self._parent[place]
        source = self._order.parts[number][0]
        try:
            return index, *_detached(self._make(source[row]))
        except Exception as error:  # Whatever decoders raise.
            return index, None, BadRow.of(error, row_name(source, row))


class Rows(grain.IterDataset):
    """What ``make`` gives of each row of this process, in order; bad rows are left out.

    Args:
      order: of the rows of all processes.
      size: rows that each process takes in turn; rows of a batch.
      bad_rows: share that may be left out, see ``Tally``.
    """

    def __init__(self, order: Order, make: Callable[[Row], Any], size: int, shard: Shard,
                 reading: Reading, bad_rows: float):
        super().__init__()
        self.order, self.size, self.shard, self.reading = order, size, shard, reading
        self._make, self._bad_rows = make, bad_rows
        self.total = self.share(order).total
        self.tally()

    def share(self, order: Order) -> _Share:
        return _Share(order, self._make, self.size, self.shard)

    def tally(self, count: int = 0) -> Tally:
        return Tally(self._bad_rows, -(-self.order.epoch // self.shard.count), count)

    def read(self, order: Order, start: int) -> grain.DatasetIterator:
        """Items of ``_Share`` from ``start`` on."""
        held = self.reading.buffer * self.size
        dataset = self.share(order)[start:].to_iter_dataset(grain.ReadOptions(
            num_threads=self.reading.threads, prefetch_buffer_size=held))
        if self.reading.workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read flags; outside absl nobody
                flags.FLAGS.mark_as_parsed()  # parses them.
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(
                num_workers=self.reading.workers, per_worker_buffer_size=held))
            dataset = grain.experimental.WithOptionsIterDataset(
                dataset, grain.experimental.DatasetOptions(min_shm_size=_SHARED))
        return iter(dataset)

    def __iter__(self) -> RowIterator:
        return RowIterator(self)


def _close(iterator: weakref.ref[RowIterator]) -> None:
    alive = iterator()
    if alive is not None:
        alive.close()


class RowIterator(grain.DatasetIterator):
    """State: rows passed, and how many of them were left out."""

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = rows
        # Before the threads end that free the memory which processes share.
        util.Finalize(self, _close, (weakref.ref(self),), exitpriority=20)
        self._start(rows.order, 0, rows.tally())

    def _start(self, order: Order, at: int, tally: Tally) -> None:
        self._order, self._at, self._tally = order, at, tally
        self._length = self.rows.share(order).rows
        self._reader: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        self._assert_not_closed()
        while self._at < self._length:
            item = self._read()
            self._at += 1
            if not isinstance(item, BadRow):
                return item
            self._tally.add(item, self._at)
        self._stop()
        raise StopIteration

    def _read(self) -> Any:
        if self._reader is None:
            self._reader = self.rows.read(self._order, self._at)
        try:
            number, pixels, item = next(self._reader)
        except (StopIteration, RuntimeError) as error:
            raise self._lost(str(error)) from error
        if number != self._at:
            raise self._lost(f"row {number} came in its place")
        return _attached(pixels, item)

    def _lost(self, what: str) -> InputError:
        self._stop()
        return InputError("reading", f"row {self._at} was not read: a process that reads ended "
                          f"({what.splitlines()[0] if what else 'no message'})",
                          "Look for its error above; give reading.workers or buffer that fit the "
                          "memory, then give the same command again")

    def _stop(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stop()

    def get_state(self) -> dict[str, Any]:
        state = {"rows": self._at, "left_out": self._tally.count}
        return state | ({"neighbours": True} if self._order.neighbours else {})

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises InputError where there are not as many rows."""
        state = in_rows(state, self.rows.size)
        at, count = int(state["rows"]), int(state["left_out"])
        self._stop()
        order = dataclasses.replace(self.rows.order, neighbours=bool(state.get("neighbours")))
        self._start(order, at, self.rows.tally(count))
        if not 0 <= at <= self._length:
            raise InputError("data", f"position {at} in {self._length} rows",
                             "Give the data and epochs that the run started with")


def in_rows(state: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A position counted in rows; old ones count groups of ``size`` rows, for each worker."""
    if "rows" in state:
        return dict(state)
    groups = _groups(state)
    return {"rows": groups * size, "batches": groups, "left_out": 0, "neighbours": True}


def _groups(state: Mapping[str, Any]) -> int:
    if "next_index" in state:
        return int(state["next_index"])
    if "iterators_in_use_states" in state:
        return sum(_groups(part) for part in state["iterators_in_use_states"] if part is not None)
    raise InputError("data", f"no position in the data in {sorted(state)}", "Start a new run")


def _detached(item: Any) -> tuple[np.ndarray | None, Any]:
    """(pixels, the item without them): Grain hands arrays over by shared memory, not objects."""
    example = getattr(item, "example", item[0] if isinstance(item, tuple) else item)
    slots = getattr(example, "slots", None)
    if slots is None:
        return None, item
    return slots.patches, _with_patches(item, None)


def _attached(pixels: np.ndarray | None, item: Any) -> Any:
    # Copied: shared memory that lives as long as a batch would outlive the process.
    return item if pixels is None else _with_patches(item, np.array(pixels, subok=False))


def _with_patches(item: Any, patches: Any) -> Any:
    if isinstance(item, tuple):
        return _with_patches(item[0], patches), *item[1:]
    if hasattr(item, "example"):
        return _changed(item, "example", _with_patches(item.example, patches))
    return _changed(item, "slots", _changed(item.slots, "patches", patches))


def _changed(value: Any, name: str, part: Any) -> Any:
    """A copy of a frozen dataclass; unlike ``replace`` it does not check the annotations."""
    value = copy.copy(value)
    object.__setattr__(value, name, part)
    return value
