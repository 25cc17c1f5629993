"""The stream of rows that batches are cut from: order, shares, reading ahead, rows left out.

A position in it counts rows, so it holds whatever the number of reading processes.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import util
from typing import Any, Final, TypeAlias

import grain
import numpy as np
from absl import flags

from fourd4d.core.errors import InputError
from fourd4d.data.failures import Failed, FailureLimit, Tally, failed_row
from fourd4d.data.source import Row, Source, row_name
from fourd4d.data.watched import Watched

Sources: TypeAlias = Source | Sequence[tuple[Source, float]]
"""One source, or several with weights."""
_SHARED: Final = 1 << 16  # Bytes from which an array goes between processes by shared memory.
_EPOCHS: Final = "seed + epoch"  # How versions before positions in rows drew later epochs.


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


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order: the run's own for the first, then one with the top bit.

    Grain draws epoch e of seed s with s + e, so that neighbouring seeds replay each other's epochs;
    here no epoch after the first is another seed's first.
    """
    if not epoch:
        return seed % 2**31
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return 2**31 | int.from_bytes(digest[:4], "big")


class _Epochs(grain.MapDataset):
    """(source, row) of all epochs of one source, each in an order of its own."""

    def __init__(self, source: int, rows: int, seed: int, order: Order):
        super().__init__(grain.MapDataset.range(rows))
        self._source, self._rows, self._seed, self._order = source, rows, seed, order
        self._drawn: dict[int, grain.MapDataset] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, self._rows)
        return self._source, int(self._of(epoch)[place])

    def _of(self, epoch: int) -> grain.MapDataset:
        if not self._order.shuffle:
            return self._parent
        drawn = self._drawn.get(epoch)
        if drawn is None:
            seed = ((self._seed + epoch) % 2**32 if self._order.neighbours
                    else epoch_seed(self._seed, epoch))
            drawn = self._parent.shuffle(seed=seed)
            self._drawn = {k: v for k, v in self._drawn.items() if k >= epoch - 1} | {epoch: drawn}
        return drawn


@dataclasses.dataclass(frozen=True)
class Order:
    """All rows of all epochs in their order, the same on every process.

    Attributes:
      neighbours: epochs are drawn with seed + epoch, as the positions of earlier versions mean.
    """

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

    @property
    def total(self) -> int:
        return sys.maxsize if self.epochs is None else self.epoch * self.epochs

    def dataset(self) -> grain.MapDataset:
        """(number of the source, number of the row in it), endless."""
        parts = [_Epochs(number, len(part), self.seed + 7919 * number, self)
                 for number, (part, _) in enumerate(self.parts)]
        if not isinstance(self.source, Sequence):
            return parts[0]
        return grain.MapDataset.mix(parts, [weight for _, weight in self.parts])


class _Share(grain.MapDataset):
    """This process's rows, prepared: (number, pixels or None, what ``make`` gave or a Failed).

    Processes take turns with ``size`` rows each. Exceptions end here: in a process that reads they
    would end its part of the data. After the last row there is no end but nothing more: a process
    of Grain that comes to its end keeps its last array in shared memory.
    """

    def __init__(self, order: Order, make: Callable[[Row], Any], size: int, shard: Shard):
        super().__init__(order.dataset())
        self._order, self._make, self._size, self._shard = order, make, size, shard
        turns, left = divmod(order.total, size * shard.count)
        left -= shard.index * size
        self.rows = min(turns * size + max(0, min(left, size)), sys.maxsize)

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
        where = "row"
        try:
            where = row_name(source, row)
            return index, *_detached(self._make(source[row]))
        except BaseException as error:  # Whatever lies in one row.
            return index, None, failed_row(error, where)


class Rows:
    """What ``make`` gives of each row of this process, in order; rows that fail are left out.

    Args:
      order: of the rows of all processes.
      size: rows that each process takes in turn.
      batch: rows of a batch.
      limit: how many may be left out.
    """

    def __init__(self, order: Order, make: Callable[[Row], Any], size: int, shard: Shard,
                 reading: Reading, limit: FailureLimit, batch: int):
        self.order, self.size, self.shard, self.reading = order, size, shard, reading
        self.batch = batch
        self._make, self._limit = make, limit
        self.total = order.total

    def share(self, order: Order) -> _Share:
        return _Share(order, self._make, self.size, self.shard)

    def tally(self, *counts: int) -> Tally:
        """See ``Tally`` for ``counts``: passed, failed, failed of this epoch."""
        return Tally(self._limit, -(-self.order.epoch // self.shard.count), self.batch, *counts)

    def read(self, order: Order, start: int) -> Iterator[Any]:
        """Items of ``_Share`` from ``start`` on."""
        reading, held = self.reading, self.reading.buffer * self.batch
        dataset = self.share(order)[start:].to_iter_dataset(grain.ReadOptions(
            num_threads=reading.threads, prefetch_buffer_size=held if reading.threads else 0))
        if reading.workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read flags; outside absl nobody
                flags.FLAGS.mark_as_parsed()  # parses them.
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(
                num_workers=reading.workers, per_worker_buffer_size=held))
            dataset = grain.experimental.WithOptionsIterDataset(
                dataset, grain.experimental.DatasetOptions(min_shm_size=_SHARED))
        return Watched(iter(dataset)) if reading.workers else iter(dataset)

    def __iter__(self) -> RowIterator:
        return RowIterator(self)


def _close(iterator: weakref.ref[RowIterator]) -> None:
    alive = iterator()
    if alive is not None:
        alive.close()


class RowIterator:
    """Draws (number, item). State: rows passed, how many of them were left out, and the order.

    Raises InputError where too many rows fail, or a process that reads has ended.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        # Before the threads end that free the memory which processes share.
        util.Finalize(self, _close, (weakref.ref(self),), exitpriority=20)
        self._reader: Any = None
        self._start(rows.order, rows.tally())

    def _start(self, order: Order, tally: Tally) -> None:
        self.close()
        self.order, self._tally = order, tally
        self.length = self.rows.share(order).rows

    @property
    def passed(self) -> int:
        return self._tally.passed

    @property
    def failed(self) -> int:
        """Rows left out so far, those before a resume included."""
        return self._tally.failed

    def __iter__(self) -> RowIterator:
        return self

    def __next__(self) -> tuple[int, Any]:
        while self.passed < self.length:
            number, item = self.passed, self._read()
            failed = item if isinstance(item, Failed) else None
            self._tally.add(failed)
            if failed is None:
                return number, item
        self.close()
        raise StopIteration

    def again(self, numbers: Sequence[int]) -> list[tuple[int, Any]]:
        """Rows that were passed before, read in this process; those that fail now are left out."""
        share, found = self.rows.share(self.order), []
        for number in numbers:
            _, pixels, item = share[number]
            if isinstance(item, Failed):
                self._tally.name(item)
                self._tally.failed += 1
            else:
                found.append((number, _attached(pixels, item)))
        return found

    def _read(self) -> Any:
        if self._reader is None:
            self._reader = self.rows.read(self.order, self.passed)
        try:
            number, pixels, item = next(self._reader)
        except (StopIteration, RuntimeError, EOFError, OSError) as error:
            raise self._lost(str(error)) from error
        if number != self.passed:
            raise self._lost(f"row {number} came in its place")
        return _attached(pixels, item)

    def _lost(self, what: str) -> InputError:
        self.close()
        return InputError("reading", f"row {self.passed} was not read: a process that reads ended "
                          f"({what.splitlines()[0].rstrip('.') if what else 'no message'})",
                          "If the system ended it for want of memory, lower config.reading.workers "
                          "or config.reading.buffer; the same command goes on from the last "
                          "checkpoint")

    def close(self) -> None:
        """Ends workers and frees what they hold ready."""
        reader, self._reader = self._reader, None
        if hasattr(reader, "close"):
            reader.close()

    def get_state(self) -> dict[str, Any]:
        tally = self._tally
        state = {"rows": tally.passed, "failed": tally.failed, "epoch_failed": tally.epoch_failed,
                 "size": self.rows.size}
        return state | ({"epochs": _EPOCHS} if self.order.neighbours else {})

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a position; see ``position``. Raises InputError where there are not as many rows."""
        at = int(state["rows"])
        order = dataclasses.replace(self.rows.order, neighbours=state.get("epochs") == _EPOCHS)
        self._start(order, self.rows.tally(at, int(state["failed"]), int(state["epoch_failed"])))
        if not 0 <= at <= self.length:
            raise InputError("data position", f"row {at} of {self.length}",
                             "Give the data and epochs that the run started with")


def position(state: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Return a position as this version writes it, whichever version wrote it.

    Versions before positions in rows counted groups of rows, for each worker, and drew later epochs
    with seed + epoch: such a run goes on so. The one after that counted the rows of all processes.

    Raises:
      InputError: no such position, or one that several processes took with other batches: each then
        has rows that were another's.
    """
    size, count = rows.size, rows.shard.count
    if "size" in state:
        if state["size"] != size and count > 1:
            raise InputError("data position", f"{count} processes saved it with {state['size']} "
                             f"rows each, now {size}", "Give the config.batch (or config.prompts) "
                             "that the run started with")
        return dict(state)
    fresh: dict[str, Any] = {"failed": 0, "epoch_failed": 0, "size": size}
    if isinstance(state.get("rows"), int):
        at = state["rows"] // count
        return fresh | {"rows": at, "places": at, "failed": state.get("failed", 0)}
    groups = _groups(state)
    return fresh | {"rows": groups * size, "places": groups * size, "epochs": _EPOCHS}


def _groups(state: Mapping[str, Any]) -> int:
    if isinstance(state.get("next_index"), int):
        return state["next_index"]
    if isinstance(state.get("iterators_in_use_states"), list):
        return sum(_groups(part) for part in state["iterators_in_use_states"] if part is not None)
    raise InputError("data position", f"it is of another kind ({sorted(state)})",
                     "Resume with the config.data.pack and version that saved it")


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
