"""The treaty: schemas are pytrees, rows round-trip, bad rows say where and why."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.core import jsonl, metrics
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.kv_cache import KVCache
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import IMAGE_MARK, Sample, check

TINY = ProtocolSpec(patch_size=4, window=16, min_pixels=64, max_pixels=1024)
SHAPE = BatchShape(rows=3, length=32, slots=3, windows=2, overlays=2)


@pytest.mark.parametrize("reader", [None, "blind"])
def test_batch_fake_matches_its_spec(reader):
    protocol = dataclasses.replace(TINY, reader=reader)
    spec, fake = Batch.spec(SHAPE, protocol), Batch.fake(SHAPE, protocol)
    assert (fake.reader is None) == (reader is None)
    assert jax.tree.structure(spec) == jax.tree.structure(fake)
    for (path, s), f in zip(jax.tree.leaves_with_path(spec), jax.tree.leaves(fake), strict=True):
        assert (s.shape, s.dtype) == (f.shape, f.dtype), jax.tree_util.keystr(path)


def test_batch_fake_uses_every_part():
    fake = Batch.fake(SHAPE, TINY)
    assert (fake.vision_index >= 0).any() and (fake.latent_index >= 0).any()
    assert (fake.overlays.slot >= 0).any() and fake.text_weights.sum() > 0
    assert not fake.text_weights[fake.segment_ids == 0].any()
    assert not fake.text_weights[fake.latent_index >= 0].any()
    assert not np.array_equal(fake.tokens, Batch.fake(SHAPE, TINY, seed=1).tokens)


def test_rollout_fake_matches_its_spec():
    spec, fake = Rollout.spec(4, 12, 8, 5), Rollout.fake(4, 12, 8, 5)
    for s, f in zip(jax.tree.leaves(spec), jax.tree.leaves(fake), strict=True):
        assert (s.shape, s.dtype) == (f.shape, f.dtype)
    assert not (fake.sampled & (fake.latent_index >= 0)).any()
    assert not (fake.sampled & ~fake.mask).any()


def test_schemas_pass_through_jit_and_hold_other_leaves():
    batch = Batch.fake(SHAPE, TINY)
    doubled = jax.jit(lambda b: jax.tree.map(lambda x: x + x, b))(batch)
    assert isinstance(doubled, Batch)
    np.testing.assert_array_equal(doubled.tokens, 2 * batch.tokens)
    names = jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path), batch)
    assert names.vision.patches == ".vision.patches"


def test_cache_starts_empty():
    cache = KVCache.empty(layers=2, rows=3, slots=5, kv_heads=1, head_dim=4)
    assert cache.keys.shape == (2, 3, 5, 1, 4) and int(cache.used) == 0


def test_means_add_and_ignore_what_has_no_weight():
    left = metrics.Mean.of(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 2.0]))
    assert float(left.value()) == pytest.approx(7 / 3)
    both = metrics.add({"a": left, "b": left}, {"a": metrics.Mean.of(jnp.array([5.0]))})
    assert metrics.compute(both) == pytest.approx({"a": 12 / 4, "b": 7 / 3})
    assert float(metrics.Mean.of(jnp.ones(3), jnp.zeros(3)).value()) == 0.0


def test_weightless_entries_have_no_gradient():
    grad = jax.grad(lambda x: metrics.Mean.of(x, jnp.array([1.0, 0.0])).value())
    np.testing.assert_array_equal(grad(jnp.array([2.0, jnp.inf])), [1.0, 0.0])


def test_input_error_reads_well_and_survives_copying():
    error = InputError("data.jsonl:3", "no key 'A'.", "Add it")
    assert str(error) == "data.jsonl:3: no key 'A'. Add it."
    again = copy.copy(error)
    assert str(again) == str(error) and again.where == "data.jsonl:3"


@pytest.mark.parametrize("to_row", [jsonl.dift_row, jsonl.rl_row])
def test_rows_round_trip(to_row):
    sample = Sample.fake(2)
    back = jsonl.parse_row(json.loads(json.dumps(to_row(sample))), "x")
    for name in ("id", "question", "options", "answer", "kind", "frames", "timestamps"):
        assert getattr(back, name) == getattr(sample, name), name


def test_published_layouts_are_read():
    dift = {"id": "v_0->9", "text_input": "Where?\n\nA. Left\nB. Right", "image_input": ["a", "b"],
            "text_output": "<think>x <output_image> y</think>\n<answer>B. Right</answer>",
            "image_output": ["c"]}
    sample = jsonl.parse_row(dift, "x")
    assert (sample.options, sample.answer) == (("Left", "Right"), "B")
    rl = {"id": "1", "video_path": "v.mp4", "Question": "Where?", "A": "Left", "B": "Right",
          "Correct": "A"}
    assert jsonl.parse_row(rl, "x").answer_text == "Left"


@pytest.mark.parametrize(("change", "what"), [
    (dict(response=f"<think>{IMAGE_MARK}</think><answer>A. Left</answer>"), "<output_image>"),
    (dict(answer="E"), "not an option's letter"),
    (dict(options=("Left", "Left", "Up", "Down")), "same"),
    (dict(timestamps=(0.0, 0.5, 0.5, 1.0)), "rise"),
    (dict(timestamps=(0.0,)), "timestamps"),
    (dict(frames=(), timestamps=()), "neither"),
    (dict(answer="B"), "the key is"),
])
def test_check_names_the_sample_and_the_fault(change, what):
    with pytest.raises(InputError, match=what) as caught:
        check(dataclasses.replace(Sample.fake(0), **change), "data.jsonl:7")
    assert str(caught.value).startswith("data.jsonl:7: ")


def test_protocol_round_trips_and_rejects():
    assert ProtocolSpec.from_json(json.loads(json.dumps(TINY.to_json()))) == TINY
    with pytest.raises(InputError, match="unknown fields \\['patchsize'\\]"):
        ProtocolSpec.from_json({"patchsize": 4})
    with pytest.raises(InputError, match="not a multiple"):
        ProtocolSpec(window=100)
    with pytest.raises(InputError, match="square"):
        ProtocolSpec(pooling="grid", latent_size=3)
    assert "reader" not in TINY.to_json()  # Logs and checkpoints of earlier versions go on.
    reading = dataclasses.replace(TINY, reader="blind")
    assert ProtocolSpec.from_json(json.loads(json.dumps(reading.to_json()))) == reading


@pytest.mark.parametrize("field, value, wanted", [
    ("patch_size", "4", "a positive integer"), ("max_frames", 0, "a positive integer"),
    ("latent_size", 1.5, "a positive integer"), ("merge", True, "a positive integer"),
    ("fps", float("nan"), "a positive number"), ("tokens_per_second", 0, "a positive number"),
    ("image_mean", [0.5, 0.5], "three numbers"), ("image_std", [0.5, 0.0, 0.5], "three positive"),
    ("system", None, "text"), ("min_pixels", 4096, "more than max_pixels = 1024")])
def test_a_protocol_of_bad_values_names_its_file(field, value, wanted):
    with pytest.raises(InputError, match=f"^protocol.json: .*{field}.*{wanted}"):
        ProtocolSpec.from_json({**TINY.to_json(), field: value}, "protocol.json")
