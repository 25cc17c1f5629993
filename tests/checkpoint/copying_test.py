"""Copies of weights are NumPy's, in any order of axes; pieces are made ahead, in order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from fourd4d.checkpoint import copying

BF16 = np.dtype(ml_dtypes.bfloat16)
SHAPES = [
    ((130, 300), (1, 0)), ((257, 129), (1, 0)), ((128, 256), (1, 0)), ((300, 260), (0, 1)),
    ((133, 16, 20), (1, 2, 0)), ((4, 80, 150), (2, 0, 1)), ((5, 6, 7), (2, 1, 0)),
    ((1, 200, 1, 300), (3, 2, 1, 0)), ((2, 3, 4, 5), (1, 3, 0, 2)), ((9,), (0,)), ((), ()),
    ((0, 3), (1, 0)),
]


@pytest.mark.parametrize("stored, wanted", [
    (np.float32, np.float32), (np.float16, np.float16), (BF16, BF16), (BF16, np.float32),
    (np.float32, BF16), (np.float16, np.float32)])
@pytest.mark.parametrize("shape, order", SHAPES)
def test_a_copy_is_what_numpy_gives(shape, order, stored, wanted):
    rng = np.random.default_rng(0)
    source = rng.standard_normal(shape, np.float32).astype(stored).transpose(order)
    target = copying.empty(source.shape, wanted)
    assert target.ctypes.data % 64 == 0 or not target.size
    copying.copy(target, source)
    np.testing.assert_array_equal(target, source.astype(wanted), strict=True)
    back = np.empty(source.shape, stored).transpose(np.argsort(order))
    copying.copy(back, source.transpose(np.argsort(order)))
    np.testing.assert_array_equal(back, source.transpose(np.argsort(order)))


def test_parts_of_larger_arrays():
    """A device's part of a file tensor, into a piece of what it keeps."""
    rng = np.random.default_rng(1)
    source = rng.standard_normal((64, 40, 300), np.float32)[:, 8:24].transpose(2, 0, 1)[10:290]
    target = np.zeros((280, 64, 32), np.float32)
    copying.copy(target[:, :, 5:21], source)
    np.testing.assert_array_equal(target[:, :, 5:21], source)
    assert not target[:, :, :5].any() and not target[:, :, 21:].any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, BF16])
def test_only_numbers_are_finite(dtype, value):
    array = np.zeros((3, 5), dtype)
    assert copying.finite(array) and copying.finite(array[:0])
    array[:2] = [[ml_dtypes.finfo(dtype).max], [ml_dtypes.finfo(dtype).min]]
    assert copying.finite(array) and copying.finite(array.T[1:])
    array[2, 4] = value
    assert not copying.finite(array) and copying.finite(array[:, :4])


def test_blocks_cover_the_array_once_along_its_memory():
    array = np.arange(7 * 30 * 2).reshape(7, 30, 2).transpose(2, 0, 1)
    counts = np.zeros_like(array)
    found = list(copying.blocks(array, 2 * 30 * 2 * array.itemsize))
    for at in found:
        counts[at] += 1
        low, high = np.lib.array_utils.byte_bounds(array[at])
        assert high - low == array[at].nbytes
    assert (counts == 1).all() and len(found) == 4


def test_some_are_made_ahead_and_no_more():
    made, lock = [], threading.Lock()

    def make(number):
        with lock:
            made.append(number)
        return number

    with ThreadPoolExecutor(copying.WORKERS) as pool:
        for wanted, given in enumerate(copying.ahead(pool, make, range(50))):
            assert given == wanted
            assert max(made) <= wanted + copying.WORKERS
