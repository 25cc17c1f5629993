"""Streams of rows cut into batches, each made while the one before is in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Protocol, runtime_checkable

from fourd4d.core.errors import InputError
from fourd4d.data.rows import Reading, Rows, position


@runtime_checkable
class BatchIterator(Protocol):
    """Draws batches; its position is that after the last batch drawn, as JSON.

    Attributes:
      failed: rows left out so far, those before a resume included.
    """

    @property
    def failed(self) -> int: ...

    def __iter__(self) -> BatchIterator: ...

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: Mapping[str, Any], /) -> None: ...

    def close(self) -> None: ...


class Stream:
    """Batches in a fixed order, as often as it is iterated over.

    Args:
      start: a fresh iterator.
      reading: with threads, a batch is made while the one before is in use.
    """

    def __init__(self, start: Callable[[], BatchIterator], reading: Reading):
        self._start, self._ahead = start, reading.threads > 0

    def __iter__(self) -> BatchIterator:
        return Ahead(self._start()) if self._ahead else self._start()


class Batches:
    """``make`` of ``rows.size`` items at a time.

    The place of a row left out is taken by the row after it. Where several processes read, all
    yield as many batches as if no row were left out: the last have fewer rows then.
    """

    def __init__(self, rows: Rows, remainder: Literal["drop", "pad"],
                 make: Callable[[Sequence[Any]], Any]):
        self.rows, self.make, self.pad = rows, make, remainder == "pad"
        step = rows.size * rows.shard.count
        self.places = rows.size * (-(-rows.total // step) if self.pad else rows.total // step)
        if not self.places:
            raise InputError("data", f"{rows.total} rows, {step} a step: no full batch",
                             "Use fewer rows a batch, more epochs, or remainder='pad'")

    def __iter__(self) -> BatchIterator:
        return _Iterator(self)


class _Iterator:
    """State: that of the rows, and how many places batches had until now."""

    def __init__(self, batches: Batches):
        self._rows = iter(batches.rows)
        self._batches, self._places = batches, 0

    @property
    def failed(self) -> int:
        return self._rows.failed

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        b = self._batches
        alone = b.rows.shard.count == 1
        # Alone, what is left of the rows says when it ends, whatever batches came before.
        if not alone and self._places >= b.places:
            raise StopIteration
        items = []
        for _, item in self._rows:
            items.append(item)
            if len(items) == b.rows.size:
                break
        if len(items) < b.rows.size and alone and not (b.pad and items):
            raise StopIteration
        self._places += b.rows.size
        return b.make(items)

    def get_state(self) -> dict[str, Any]:
        return self._rows.get_state() | {"places": self._places}

    def set_state(self, state: Mapping[str, Any]) -> None:
        state = position(state, self._batches.rows)
        if "places" not in state:
            raise InputError("data position", "it is one of packed rows",
                             "Resume with the config.data.pack that saved it")
        self._rows.set_state(state)
        self._places = int(state["places"])

    def close(self) -> None:
        self._rows.close()


def _draw(batches: BatchIterator) -> tuple[Any, dict[str, Any]]:
    return next(batches), batches.get_state()


class Ahead:
    """The same batches and positions; the next batch is made in a thread."""

    def __init__(self, batches: BatchIterator):
        self._batches = batches
        self._pool: ThreadPoolExecutor | None = None
        self._next: Future | None = None
        self._state = batches.get_state()

    @property
    def failed(self) -> int:
        return self._state["failed"]

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        coming, self._next = self._next or self._pool.submit(_draw, self._batches), None
        batch, self._state = coming.result()
        self._next = self._pool.submit(_draw, self._batches)
        return batch

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._settle()
        self._batches.set_state(state)
        self._state = self._batches.get_state()

    def close(self) -> None:
        self._settle()
        self._batches.close()

    def _settle(self) -> None:
        """Ends the thread; what it drew ahead is drawn again after ``set_state``."""
        coming, self._next = self._next, None
        if coming is not None and not coming.cancel():
            coming.exception()  # Waits.
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
