"""Values kept in memory, up to a number of bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key; least recently used ones go first.

    Safe between threads: of several that want one key, one makes its value.

    Args:
      limit: bytes held at most; 0 keeps nothing.
      size: bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[T], int]):
        self.limit, self._size = limit, size
        self.made = 0
        self._held: collections.OrderedDict[Hashable, T] = collections.OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()
        self._busy: dict[Hashable, list] = {}

    def find(self, key: Hashable) -> T | None:
        """The value called ``key``, if it is here."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value called ``key``, made if it is not here; what ``make`` raises, too."""
        with self._lock:
            turn = self._busy.setdefault(key, [threading.Lock(), 0])
            turn[1] += 1
        try:
            with turn[0]:
                with self._lock:
                    if key in self._held:
                        self._held.move_to_end(key)
                        return self._held[key]
                value = make()
                self._put(key, value)
                return value
        finally:
            with self._lock:
                turn[1] -= 1
                if not turn[1]:
                    self._busy.pop(key, None)

    def _put(self, key: Hashable, value: T) -> None:
        size = self._size(value)
        with self._lock:
            self.made += 1
            if size > self.limit:
                return
            self._held[key] = value
            self._bytes += size
            while self._bytes > self.limit:
                self._bytes -= self._size(self._held.popitem(last=False)[1])
