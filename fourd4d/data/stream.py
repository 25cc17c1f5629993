"""Streams of batches that go on where they stopped, and leave out what cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grain
from absl import logging

from fourd4d.core.errors import InputError, one_line

MOST_FAILED: Final = 0.01
"""Share of the rows read that may fail before a run ends; ``FEW_FAILED`` may in any case."""
FEW_FAILED: Final = 10


@dataclasses.dataclass(frozen=True)
class Failed:
    """A row that was left out: file and line, and why."""

    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Read:
    """A batch as it comes out of a worker.

    Attributes:
      batch: what the trainer gets.
      failed: rows that should have been in it.
      empty: whether no row is left.
    """

    batch: Any
    failed: Sequence[Failed] = ()
    empty: bool = False


def failed_row(error: Exception, where: str) -> Failed:
    """Return what is said of a row that raised ``error``."""
    if isinstance(error, InputError):
        return Failed(error.where, f"{error.what}. {error.remedy}".strip(". "))
    return Failed(where, one_line(error))


def warn(failed: Sequence[Failed]) -> None:
    """Names rows that were left out, in the log."""
    for row in failed:
        logging.warning("left out: %s: %s", row.where, row.reason)


class _Counted:
    """Counts rows and failures; ends a run in which too many fail, or all of its first batch."""

    def __init__(self) -> None:
        self.rows = self.failed = 0
        self.good = False

    def take(self, read: Read, rows: int) -> None:
        self.rows += rows
        self.failed += len(read.failed)
        warn(read.failed)
        self.good |= not read.empty
        many = self.failed > max(FEW_FAILED, MOST_FAILED * self.rows)
        if read.failed and (many or not self.good):
            row = read.failed[-1]
            raise InputError(row.where, f"{self.failed} of {self.rows} rows failed, this one last: "
                             f"{row.reason}", "Fix the data or its root")


class Stream:
    """Batches of rows in a fixed order; its iterators know their position in rows.

    Args:
      start_at: dataset of ``Read`` batches from a row on, counted over all processes.
      step: rows of a batch, over all processes.
      alone: whether one process reads, so that a batch without a row may be passed over.
    """

    def __init__(self, start_at: Callable[[int], grain.IterDataset], step: int, alone: bool):
        self.start_at, self.step, self.alone = start_at, step, alone

    def __iter__(self) -> StreamIterator:
        return StreamIterator(self)


class StreamIterator:
    """Draws batches; ``get_state`` and ``set_state`` hold whatever reads, and whatever the batch.

    Attributes:
      failed: rows left out so far, those before a resume included.
    """

    def __init__(self, stream: Stream):
        self._stream = stream
        self._inner: Any = None
        self._counted = _Counted()
        self._row = 0

    @property
    def failed(self) -> int:
        return self._counted.failed

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._inner is None:
            self._inner = iter(self._stream.start_at(self._row))
        while True:
            read = next(self._inner)
            self._row += self._stream.step
            self._counted.take(read, self._stream.step)
            if not (read.empty and self._stream.alone and read.failed):
                return read.batch

    def get_state(self) -> dict[str, int]:
        return {"rows": self._row, "failed": self.failed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises InputError on a state of another kind of iterator."""
        if set(state) == {"next_index"}:  # Of earlier versions: a count of batches.
            state = {"rows": state["next_index"] * self._stream.step}
        if not isinstance(state.get("rows"), int):
            raise InputError("data position", f"it is of another kind ({sorted(state)})",
                             "Resume with the config.data.pack and version that saved it")
        self.close()
        self._row = self._counted.rows = state["rows"]
        self._counted.failed = state.get("failed", 0)

    def close(self) -> None:
        """Ends workers and frees what they hold ready."""
        inner, self._inner = self._inner, None
        if hasattr(inner, "close"):
            inner.close()


class PackedStream:
    """Packed batches; as ``Stream``, but resumed by as many workers as saved the position."""

    def __init__(self, dataset: grain.IterDataset, workers: int):
        self.dataset, self.workers = dataset, workers

    def __iter__(self) -> PackedIterator:
        return PackedIterator(self)


class PackedIterator:
    """Draws packed batches; see ``StreamIterator``."""

    def __init__(self, stream: PackedStream):
        self._inner: Any = iter(stream.dataset)
        self._workers = stream.workers
        self._counted = _Counted()

    @property
    def failed(self) -> int:
        return self._counted.failed

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        read = next(self._inner)
        self._counted.take(read, len(read.batch.tokens))
        return read.batch

    def get_state(self) -> dict[str, Any]:
        return {"workers": self._workers, "failed": self.failed,
                "packed": self._inner.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises InputError on a state of another number of workers, or of another iterator."""
        if "packed" not in state and "parent" in state:  # Of earlier versions.
            state = {"workers": 0, "packed": state}
        if "packed" not in state:
            raise InputError("data position", "it is not one of packed rows",
                             "Resume with the config.data.pack that saved it")
        if state["workers"] != self._workers:
            raise InputError("config.reading.workers", f"{state['workers']} saved the position of "
                             f"packed rows, now {self._workers}",
                             f"Give --config.reading.workers={state['workers']}")
        self._inner.set_state(state["packed"])
        self._counted.failed = state.get("failed", 0)

    def close(self) -> None:
        """Ends workers and frees what they hold ready."""
        if hasattr(self._inner, "close"):
            self._inner.close()
