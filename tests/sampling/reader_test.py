"""Decoding with a reader: what is said after the first mental image depends on what was fed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.sampling import (
    CONFIG,
    END,
    LATENT,
    SPEC,
    START,
    STOP,
    TABLE,
    TABLE_CONFIG,
    prompts,
    take_rows,
)

from fourd4d.core.batch import Batch
from fourd4d.core.rollout import Rollout
from fourd4d.models.config import ImageryConfig
from fourd4d.models.thinker import Thinker
from fourd4d.sampling import replay, row_keys, sample
from fourd4d.sampling.loop import prompt_embeddings
from fourd4d.sampling.replay import joined_hidden, response_hidden, score_hidden

RNG = jax.random.key(6)
recompute = jax.jit(replay, static_argnames=("spec", "group"))


@pytest.fixture(scope="module", params=[CONFIG, TABLE_CONFIG], ids=["windows", "table"])
def model(request: Any) -> Any:
    """With an imagery head that changes what is fed."""
    config = dataclasses.replace(request.param, imagery=ImageryConfig("mlp", 16))
    made = Thinker(config, nnx.Rngs(0))
    kernel = made.imagery.down.kernel
    kernel[...] = 0.3 * jax.random.normal(jax.random.key(9), kernel.shape)
    return made


def mixed(left: bool = False) -> Batch:
    """Prompts with a reader, but for the second one, whose imaginer says everything."""
    batch = prompts(left=left, reader="blind")
    assert batch.reader is not None
    segments = batch.reader.segment_ids.copy()
    segments[1] = 0
    return dataclasses.replace(
        batch, reader=dataclasses.replace(batch.reader, segment_ids=segments))


@pytest.fixture(scope="module")
def rollout(model: Any) -> Rollout:
    """Four responses to each of four prompts."""
    return sample(model, mixed(), RNG, SPEC, group=4)


def blocks(rollout: Rollout) -> np.ndarray:
    return np.sum((np.asarray(rollout.tokens) == START) & np.asarray(rollout.mask), axis=1)


def spoken_by_reader(rollout: Rollout) -> np.ndarray:
    latent = np.asarray(rollout.latent_index) >= 0
    speaks = (np.cumsum(latent, axis=1) > 0) & ~latent & np.asarray(rollout.sampled)
    speaks[4:8] = False
    return speaks


def test_the_first_words_are_the_imaginers(model: Any, rollout: Rollout) -> None:
    plain = sample(model, prompts(), RNG, SPEC, group=4)
    np.testing.assert_array_equal(rollout.tokens[4:8], plain.tokens[4:8])
    same = np.asarray(rollout.tokens) == np.asarray(plain.tokens)
    differ = 0
    for row in {*range(16)} - {*range(4, 8)}:
        first = np.flatnonzero(np.asarray(rollout.tokens[row]) == STOP)
        until = first[0] + 1 if len(first) else SPEC.max_tokens
        assert same[row, :until].all()
        differ += not same[row].all()
    assert differ > 2


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("spec", [
    SPEC, dataclasses.replace(SPEC, temperature=0.0), dataclasses.replace(SPEC, imagery=False),
], ids=["plain", "greedy", "text_only"])
def test_recomputed_is_sampled(model: Any, left: bool, spec: Any) -> None:
    batch = mixed(left)
    rollout = sample(model, batch, RNG, spec, group=4)
    if spec is SPEC:
        assert {0, 1} <= set(blocks(rollout).tolist()) and blocks(rollout).max() > 1
        assert spoken_by_reader(rollout).sum() > 20
    again = recompute(model, batch, rollout, spec, group=4)
    np.testing.assert_allclose(again, rollout.log_probs, atol=1e-5)


def test_the_reader_sees_no_frame(model: Any, rollout: Rollout) -> None:
    """Other frames, the same latents: nothing changes for what the reader says, and only that."""
    batch = mixed()
    features = jax.random.normal(jax.random.key(1), jax.eval_shape(
        model.encode, batch.vision).shape)
    other = recompute(model, batch, rollout, SPEC, group=4, features=features)
    change = np.abs(np.asarray(other - rollout.log_probs))
    speaks = spoken_by_reader(rollout)
    assert change[speaks].max() < 1e-5
    seeing = np.asarray(rollout.sampled) & ~speaks
    assert np.median(change[seeing]) > 1e-2
    latents = jax.random.normal(jax.random.key(2), rollout.latents.shape)
    swapped = recompute(model, batch, dataclasses.replace(rollout, latents=latents), SPEC, group=4)
    assert np.median(np.abs(np.asarray(swapped - rollout.log_probs))[speaks]) > 1e-2


def test_batch_is_row_by_row(model: Any) -> None:
    batch, keys = mixed(), row_keys(RNG, 4)
    together = sample(model, batch, keys, SPEC)
    for row in range(4):
        alone = sample(model, take_rows(batch, slice(row, row + 1)), keys[row : row + 1], SPEC)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.latents[0], together.latents[row], atol=1e-4)
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[row], atol=1e-4)


@jax.jit
def last_state(model: Any, embeds: Any, positions: Any, segments: Any, used: Any) -> Any:
    segments = jnp.where(jnp.arange(embeds.shape[1]) < used, segments, 0)[None]
    hidden = model.decode(embeds, positions, segments)[0][0, used - 1]
    return model.imagine(hidden), model.logits(hidden)


def test_cached_is_full_forward(model: Any, rollout: Rollout) -> None:
    """Two streams without any cache, fed token by token."""
    if model.config.vision.deepstack:
        pytest.skip("what DeepStack adds does not go through embeddings: the parity bench compares")
    batch, keys, counts = mixed(), row_keys(RNG, 16), blocks(rollout)
    length = batch.tokens.shape[1]
    size = length + SPEC.max_tokens
    for row in {count: row for row, count in enumerate(counts.tolist())}.values():
        prompt = take_rows(batch, slice(row // 4, row // 4 + 1))
        assert prompt.reader is not None
        real = int((prompt.segment_ids != 0).sum())
        embeds, sees = np.zeros((1, size, model.config.decoder.width), np.float32), {}
        embeds[:, :real] = jax.jit(prompt_embeddings)(model, prompt)[:, :real]
        positions = np.zeros((3, 1, size), np.int32)
        positions[:, :, :real] = prompt.positions[:, :, :real]
        top = positions.max()
        for name, segments in (("imaginer", prompt.segment_ids),
                               ("reader", prompt.reader.segment_ids)):
            sees[name] = np.ones(size, np.int32)
            sees[name][:real] = segments[0, :real]
        reads = prompt.reader.segment_ids.any()
        used, block, fed = real, 0, 0
        for t in range(int(rollout.mask[row].sum())):
            imagined, logits = last_state(model, embeds, positions, sees["imaginer"], used)
            token, latent = int(rollout.tokens[row, t]), None
            if block == 0:
                if reads and fed:
                    _, logits = last_state(model, embeds, positions, sees["reader"], used)
                full = fed + SPEC.latent_size > SPEC.max_latents
                banned = [*SPEC.forbidden, *range(SPEC.vocab, TABLE), *([START] if full else [])]
                logits = np.asarray(logits, np.float64)
                logits[banned] = -np.inf
                log_p = logits - np.log(np.exp(logits).sum())
                noise = jax.random.gumbel(jax.random.fold_in(keys[row], t), (TABLE,))
                assert token == int(np.argmax(logits + np.asarray(noise)))
                np.testing.assert_allclose(rollout.log_probs[row, t], log_p[token], atol=1e-4)
                block = SPEC.latent_size + 1 if token == START else 0
            else:
                block -= 1
                assert token == (LATENT if block else STOP)
                if block:
                    latent = np.asarray(imagined)
                    np.testing.assert_allclose(rollout.latents[row, fed], latent, atol=1e-4)
                    fed += 1
            if token == END:
                break
            embeds[0, used] = model.embedding[...][token] if latent is None else latent
            positions[:, 0, used] = top + 1 + t
            used += 1


def test_shared_prompts_have_the_plain_gradient(model: Any, rollout: Rollout) -> None:
    batch = mixed()
    weights = np.random.default_rng(0).standard_normal((16, 1)).astype(np.float32)
    graphdef, params = nnx.split(model)

    def loss(params: Any, hidden_of: Any) -> Any:
        own = nnx.merge(graphdef, params)
        return (weights * score_hidden(own, hidden_of(own, batch, rollout, 4), rollout, SPEC)[0]
                ).sum() / 16

    found = [jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, hidden_of)
             for hidden_of in (response_hidden, joined_hidden)]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    for shared, plain in zip(*(jax.tree.leaves(tree) for _, tree in found), strict=True):
        np.testing.assert_allclose(shared, plain, atol=2e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found[1][1])) > 0.1


def test_latents_are_imagined_from_frames(model: Any, rollout: Rollout) -> None:
    """The state behind a latent is the imaginer's, so its likelihood can be asked (VLPO)."""
    hidden = jax.jit(response_hidden, static_argnums=3)(model, mixed(), rollout, 4)
    index = np.asarray(rollout.latent_index)
    rows, places = np.nonzero(index >= 0)
    np.testing.assert_allclose(model.imagine(hidden[rows, places]),
                               rollout.latents[rows, index[rows, places]], atol=1e-4)
