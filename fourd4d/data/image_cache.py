"""Decoded images kept in memory, up to a number of bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

import numpy as np


class ImageCache:
    """Least recently used images go first. Safe between threads; pickled, it is empty.

    Args:
      limit: bytes of pixels held at most; 0 keeps nothing.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._clear()

    def _clear(self) -> None:
        self._images: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The image called ``key``, made if it is not here."""
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
                return image
        image = make()
        if image.nbytes > self.limit:
            return image
        image = image.view()
        image.setflags(write=False)
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self._bytes += image.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image

    def __reduce__(self) -> tuple:
        return ImageCache, (self.limit,)
