"""Streams of rows cut into batches, each made while the one before is in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import grain

from fourd4d.core.errors import InputError
from fourd4d.data.rows import Reading, RowIterator, Rows, in_rows


class Batches(grain.IterDataset):
    """``make`` of ``rows.size`` items at a time.

    The place of a row left out is taken by the row after it. Where several processes read, all
    yield as many batches as if no row were left out: the last have fewer rows then.
    """

    def __init__(self, rows: Rows, remainder: Literal["drop", "pad"],
                 make: Callable[[Sequence[Any]], Any]):
        super().__init__()
        self.rows, self.make, self.pad = rows, make, remainder == "pad"
        step = rows.size * rows.shard.count
        self.steps = -(-rows.total // step) if self.pad else rows.total // step
        if not self.steps:
            raise InputError("data", f"{rows.total} rows, {step} a step: no full batch",
                             "Use fewer rows a batch, more epochs, or remainder='pad'")

    def __iter__(self) -> grain.DatasetIterator:
        return _Iterator(self)


class _Iterator(grain.DatasetIterator):
    """State: that of the rows, and the number of batches."""

    def __init__(self, batches: Batches):
        self._rows: RowIterator = iter(batches.rows)
        super().__init__(self._rows)
        self._batches, self._number = batches, 0

    def __next__(self) -> Any:
        self._assert_not_closed()
        b = self._batches
        if self._number >= b.steps:
            raise StopIteration
        items = []
        for item in self._rows:
            items.append(item)
            if len(items) == b.rows.size:
                break
        if len(items) < b.rows.size and b.rows.shard.count == 1 and not (b.pad and items):
            raise StopIteration
        self._number += 1
        return b.make(items)

    def get_state(self) -> dict[str, Any]:
        return {**self._rows.get_state(), "batches": self._number}

    def set_state(self, state: dict[str, Any]) -> None:
        state = in_rows(state, self._batches.rows.size)
        self._rows.set_state(state)
        self._number = int(state["batches"])


def left_out(batches: grain.DatasetIterator) -> dict[str, float]:
    """``rows_left_out``: rows that this process passed and could not use, if there are any."""
    state = batches.get_state()
    count = state.get("parent", state)["left_out"]
    return {"rows_left_out": float(count)} if count else {}


def ahead(batches: grain.IterDataset, reading: Reading) -> grain.IterDataset:
    """The same batches; where threads may be used, the next is made while one is in use."""
    return _Ahead(batches) if reading.threads else batches


class _Ahead(grain.IterDataset):
    def __iter__(self) -> grain.DatasetIterator:
        return _AheadIterator(iter(self._parent))


def _draw(batches: grain.DatasetIterator) -> tuple[Any, Any]:
    return next(batches), batches.get_state()


class _AheadIterator(grain.DatasetIterator):
    def __init__(self, parent: grain.DatasetIterator):
        super().__init__(parent)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: Future | None = None
        self._state = parent.get_state()

    def __next__(self) -> Any:
        self._assert_not_closed()
        coming, self._next = self._next or self._pool.submit(_draw, self._parent), None
        batch, self._state = coming.result()
        self._next = self._pool.submit(_draw, self._parent)
        return batch

    def _settle(self) -> None:
        coming, self._next = self._next, None
        if coming is not None and not coming.cancel():
            coming.exception()  # Waits.

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._settle()
        self._parent.set_state(state)
        self._state = self._parent.get_state()

    def close(self) -> None:
        if not self._closed:
            self._settle()
            self._pool.shutdown()
            super().close()
