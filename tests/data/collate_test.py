"""Collation: padding, packing, the budget's errors."""

import jax
import numpy as np
import pytest
from helpers.batches import PROTOCOL, READING, R, make, with_reader

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.data.collate import collate, shape_for


def fed(batch: Batch, row: int, segment: int) -> dict[str, np.ndarray]:
    """What a model sees of one segment, free of its place in the batch."""
    at = batch.segment_ids[row] == segment
    b, f, w, m, c = batch.vision.patches.shape
    merged = batch.vision.patches[row].reshape(f * w * m // PROTOCOL.merge**2, -1)
    vision, latent = batch.vision_index[row, at], batch.latent_index[row, at]
    pooled = []
    for index in latent[latent >= 0]:
        slot = batch.overlays.slot[row, index // R]
        weights = batch.overlays.pool[row, index // R, index % R]
        pooled.append(weights @ merged.reshape(f, -1, merged.shape[-1])[slot])
    return dict(
        tokens=batch.tokens[row, at], positions=batch.positions[:, row, at],
        weights=batch.text_weights[row, at], vision=merged[vision[vision >= 0]],
        is_vision=vision >= 0, is_latent=latent >= 0, pooled=np.array(pooled),
    )


def expect(example: Example) -> dict[str, np.ndarray]:
    return fed(collate([example], shape_for([example]), PROTOCOL), 0, 1)


def assert_same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_allclose(left[key], right[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_matches_the_spec_of_its_shape():
    shape = BatchShape(rows=3, length=32, slots=5, windows=2, overlays=2)
    batch = collate([make(0), make(1)], shape, PROTOCOL)
    spec = Batch.spec(shape, PROTOCOL)
    got = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    want = jax.tree.map(lambda x: (x.shape, x.dtype), spec)
    assert jax.tree.leaves(got) == jax.tree.leaves(want)
    assert not batch.segment_ids[2].any() and (batch.vision_index[2] == -1).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_wider_budgets_and_sides_feed_the_same(side):
    examples = [make(0), make(1, length=25, media=1, overlays=2), make(2, overlays=0)]
    shape = BatchShape(rows=4, length=40, slots=6, windows=3, overlays=3)
    batch = collate(examples, shape, PROTOCOL, side=side)
    for row, example in enumerate(examples):
        assert_same(fed(batch, row, 1), expect(example))
        edge = batch.segment_ids[row, -1 if side == "left" else 0]
        assert edge == 1


def test_packed_rows_feed_what_single_rows_feed():
    examples = [make(i, length=15 + i, overlays=i % 3, windows=1 + i % 2) for i in range(6)]
    shape = BatchShape(rows=3, length=40, slots=10, windows=2, overlays=4)
    batch = collate(examples, shape, PROTOCOL, pack=True)
    seen = 0
    for row in range(3):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            mine = fed(batch, row, segment)
            match = [e for e in examples if np.array_equal(e.tokens, mine["tokens"])]
            assert len(match) == 1
            assert_same(mine, expect(match[0]))
            seen += 1
    assert seen == 6
    assert batch.segment_ids[0].max() > 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_reader_sees_its_own_example_but_the_frames(side):
    examples = [with_reader(make(0)), make(1), with_reader(make(2, overlays=0))]
    batch = collate(examples, BatchShape(2, 44, 6, 1, 2), READING, pack=True, side=side)
    reader = batch.reader
    assert reader is not None and not reader.given.any()
    for row, segment, number in ((0, 1, 0), (0, 2, 1), (1, 1, 2)):
        at, example = batch.segment_ids[row] == segment, examples[number]
        np.testing.assert_array_equal(batch.tokens[row, at], example.tokens)
        sees, speaks = reader.segment_ids[row, at], reader.speaks[row, at]
        if example.reader_sees is None:  # This one's imaginer says everything.
            assert not sees.any() and not speaks.any()
            continue
        np.testing.assert_array_equal(sees, np.where(example.vision_slot >= 0, 0, segment))
        np.testing.assert_array_equal(speaks, example.reader_speaks)
    assert not reader.segment_ids[batch.segment_ids == 0].any()
    assert collate(examples, BatchShape(3, 44, 6, 1, 2), PROTOCOL).reader is None
    spec = Batch.spec(BatchShape(2, 44, 6, 1, 2), READING)
    assert jax.tree.structure(spec) == jax.tree.structure(batch)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(spec)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(batch)]


def test_first_token_of_a_segment_has_no_weight():
    example = make(0)
    example.text_weights[:] = 1.0
    batch = collate([example, example], BatchShape(1, 40, 6, 1, 2), PROTOCOL, pack=True)
    np.testing.assert_array_equal(np.flatnonzero(batch.text_weights[0] == 0), [0, 20])


def test_padding_is_told_by_segments_not_by_tokens():
    """A token that looks like padding is one of the segment's, with its weight."""
    example = make(0)
    example.tokens[:] = 0
    batch = collate([example, make(1)], BatchShape(2, 30, 4, 1, 2), PROTOCOL)
    np.testing.assert_array_equal(batch.segment_ids[0], [1] * 20 + [0] * 10)
    np.testing.assert_array_equal(batch.text_weights[0, :20], example.text_weights)


@pytest.mark.parametrize("field, kwargs", [
    ("length", dict(length=41)), ("slots", dict(media=8, length=40)),
    ("windows", dict(windows=3)), ("overlays", dict(overlays=4)),
])
def test_over_budget_names_the_sample_and_the_field(field, kwargs):
    shape = BatchShape(rows=2, length=40, slots=8, windows=2, overlays=3)
    with pytest.raises(InputError) as error:
        collate([make(0), make(1, **kwargs)], shape, PROTOCOL, names=["a:1", "a:2"])
    assert "a:2" in str(error.value) and f"{field} to" in str(error.value)


def test_too_many_examples():
    shape = BatchShape(rows=1, length=30, slots=8, windows=2, overlays=3)
    for pack in (False, True):
        with pytest.raises(InputError, match="BatchShape.rows"):
            collate([make(0), make(1)], shape, PROTOCOL, pack=pack)


def test_shape_for_rounds_the_length():
    shape = shape_for([make(0), make(1, length=33, overlays=2)], rows=8, round_to=16)
    assert shape == BatchShape(rows=8, length=48, slots=4, windows=1, overlays=2)
