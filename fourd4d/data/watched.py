"""Items from processes that read, one of which the system may end at any moment."""

from __future__ import annotations

import gc
import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Final

from grain._src.python.dataset.transformations import process_prefetch

_POLL: Final = 1.0  # Seconds between looks at the processes.
_GRACE: Final = 5.0  # Seconds in which items of a process that has ended may still come.


class WorkerLost(RuntimeError):
    """A process that reads has ended before its work was done."""


class Watched:
    """The items of ``reader``, whose processes are watched.

    Grain 0.2.18 waits for ever for a process that was killed while items of it were ready.

    Raises WorkerLost where a process has ended and no item comes.
    """

    def __init__(self, reader: Iterator[Any]):
        self._reader = reader
        self._others = set(multiprocessing.active_children())
        self._own: set[BaseProcess] = set()
        self._lost = False
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        # A daemon: one that waits for ever must not keep this process from ending.
        self._thread = threading.Thread(target=self._draw, name="rows", daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        while self._asked.get():
            try:
                self._given.put((next(self._reader), None))
            except BaseException as error:
                self._given.put((None, error))

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Any:
        self._asked.put(True)
        lost = None
        while True:
            try:
                item, error = self._given.get(timeout=_POLL if lost is None else _GRACE)
            except queue.Empty:
                if lost is not None:
                    self._lost = True
                    raise WorkerLost(f"exit code {lost}") from None
                self._own |= set(multiprocessing.active_children()) - self._others
                lost = next((p.exitcode for p in self._own if p.exitcode), None)
                continue
            if error is not None:
                self._lost = any(p.exitcode for p in self._own)
                raise error
            if not self._own:
                self._own = set(multiprocessing.active_children()) - self._others
            return item

    def close(self) -> None:
        """Ends the processes, by force where one was lost: it may have taken locks with it."""
        self._asked.put(False)
        if self._lost:
            self._forget()
            return
        self._drain()
        close = getattr(self._reader, "close", None)
        if close is not None:
            close()

    def _drain(self) -> None:
        """Takes what the processes still hold until they end.

        One cannot end before its pipe has room for that. Grain 0.2.18 empties the pipe once, then
        waits 25 s for each.
        """
        prefetching = self._prefetching()
        for one in prefetching:
            one._prefetch_should_stop.set()
        last = time.monotonic() + _GRACE
        while any(process.is_alive() for process in self._own) and time.monotonic() < last:
            for one in prefetching:
                process_prefetch._clear_queue_and_maybe_unlink_shm(one._buffer)
            time.sleep(0.01)

    def _forget(self) -> None:
        """Ends all processes, and lets Grain know of none: it would wait for those locks."""
        for process in self._own:
            process.kill()
        for one in self._prefetching():
            one._prefetch_process = None

    def _prefetching(self) -> list[process_prefetch.ProcessPrefetchDatasetIterator]:
        """Grain's iterators over the own processes, which its reader does not show."""
        return [value for value in gc.get_objects()
                if isinstance(value, process_prefetch.ProcessPrefetchDatasetIterator)
                and value._prefetch_process in self._own]
