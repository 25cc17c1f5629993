"""Copies of weights: cast, transposed, piece by piece.

NumPy copies a transposed matrix by steps of whole rows on one side, whose cache lines are gone
before the next column wants them. Tiles that pass through a small buffer stay in the cache on both
sides.
"""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that copy; NumPy lets them run side by side."""
_ALIGN = 64  # Bytes; a CPU device keeps host arrays that lie so without copying them.
_TILE = (128, 256)  # Rows and columns of the source.
_PAD = 32  # Elements: rows a power of two apart would share the cache's sets.
A, B = TypeVar("A"), TypeVar("B")


def bits(array: np.ndarray) -> np.ndarray:
    """The same memory as unsigned integers: NumPy copies those faster than bfloat16."""
    return array.view(f"u{array.dtype.itemsize}")


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Memory that a CPU device can keep as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGN, np.uint8)
    start = -memory.ctypes.data % _ALIGN
    return memory[start : start + size].view(dtype).reshape(shape)


def blocks(array: np.ndarray, size: int) -> Iterator[Any]:
    """Indices of blocks of about ``size`` bytes, cut along the axis that strides farthest."""
    axis = int(np.argmax(array.strides))
    rows = max(1, size * array.shape[axis] // max(array.nbytes, 1))
    for start in range(0, array.shape[axis], rows):
        yield (*(slice(None),) * axis, slice(start, start + rows))


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """``target[...] = source``, cast."""
    if not target.size:
        return
    if target.dtype == source.dtype:
        target, source = bits(target), bits(source)
    target, source = _joined(target, source)
    crossed = source.ndim == 2 and (
        target.strides[0] > target.strides[1] and source.strides[0] < source.strides[1])
    if not crossed:
        target[...] = source
        return
    rows, columns = _TILE
    buffer = np.empty((rows, columns + _PAD), target.dtype)
    for i in range(0, source.shape[1], rows):
        for j in range(0, source.shape[0], columns):
            at = (slice(j, j + columns), slice(i, i + rows))
            tile = source[at].T
            kept = buffer[: tile.shape[0], : tile.shape[1]]
            kept[...] = tile
            target[at] = kept.T


def _joined(target: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of both in which axes that follow one another in both memories are one."""
    axes: list[tuple[int, int, int]] = []
    for size, own, other in zip(target.shape, target.strides, source.strides, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1:] == (size * own, size * other):
            size *= axes.pop()[0]
        axes.append((size, own, other))
    shape, strides, others = zip(*axes, strict=True) if axes else ((), (), ())
    strided = np.lib.stride_tricks.as_strided
    return strided(target, shape, strides), strided(source, shape, others, writeable=False)


def finite(array: np.ndarray) -> bool:
    """Whether no element is infinite or NaN: those have the largest bits of their sign."""
    if not array.size:
        return True
    top = int(bits(np.asarray(np.inf, array.dtype)))
    values = bits(array)
    sign = 1 << 8 * array.dtype.itemsize - 1
    return (int(values.view(f"i{array.dtype.itemsize}").max()) < top
            and int(values.max()) < top + sign)


def ahead(pool: Executor, make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """``make(item)`` for each item, in order; while one is used, ``WORKERS`` are in the making."""
    waiting = collections.deque()
    for item in items:
        waiting.append(pool.submit(make, item))
        if len(waiting) > WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
