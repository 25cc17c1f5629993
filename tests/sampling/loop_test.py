"""Decoding with imagery: rows are independent, caching changes nothing, blocks are exact."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sampling import (
    CONFIG,
    END,
    LATENT,
    PROTOCOL,
    SPEC,
    START,
    STOP,
    TABLE,
    TABLE_CONFIG,
    VOCAB,
    Scripted,
    prompts,
    take_rows,
    thinker,
)

from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.processing import SPECIAL_TOKENS, tiny_tokenizer
from fourd4d.sampling import SamplingSpec, row_keys, sample, texts
from fourd4d.sampling.distribution import MASKED, draw, full_at, nucleus, restrict
from fourd4d.sampling.interventions import freeze, noise, swap, zero
from fourd4d.sampling.loop import prompt_embeddings

RNG = jax.random.key(6)
GREEDY = dataclasses.replace(SPEC, temperature=0.0)


@pytest.fixture(scope="module", params=[CONFIG, TABLE_CONFIG], ids=["windows", "table"])
def model(request: Any) -> Any:
    return thinker(config=request.param)


@pytest.fixture(scope="module")
def rollout(model: Any) -> Rollout:
    """Sixteen sampled rows: four responses to each of four prompts."""
    return sample(model, prompts(), RNG, SPEC, group=4)


def blocks(rollout: Rollout) -> np.ndarray:
    return np.sum((np.asarray(rollout.tokens) == START) & np.asarray(rollout.mask), axis=1)


def check_structure(rollout: Rollout, spec: SamplingSpec = SPEC) -> None:
    """Every row is text, and blocks of start, exactly K latents, end."""
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    sampled, index = np.asarray(rollout.sampled), np.asarray(rollout.latent_index)
    log_probs, k = np.asarray(rollout.log_probs), spec.latent_size
    for row in range(len(tokens)):
        length = mask[row].sum()
        assert mask[row, :length].all() and not mask[row, length:].any()
        t, latents = 0, 0
        while t < length:
            token = tokens[row, t]
            assert sampled[row, t] and token not in spec.forbidden and token < spec.vocab
            if token == spec.latent_start:
                inside = slice(t + 1, min(t + 1 + k, length))
                n = inside.stop - inside.start
                assert (tokens[row, inside] == spec.latent_pad).all()
                assert (index[row, inside] == latents + np.arange(n)).all()
                assert not sampled[row, inside].any()
                latents += n
                if inside.stop < length:
                    assert tokens[row, inside.stop] == spec.latent_end
                    assert not sampled[row, inside.stop]
                t = inside.stop + 1
                continue
            assert index[row, t] == -1
            if token in spec.ends:
                assert t == length - 1
            t += 1
        assert (index[row] >= 0).sum() == latents
        assert (rollout.latents[row, latents:] == 0).all()
        assert (np.abs(rollout.latents[row, :latents]).sum(-1) > 0).all()
        assert (log_probs[row][sampled[row]] < 0).all()
        assert (log_probs[row][~sampled[row]] == 0).all()
        ended = length > 0 and sampled[row, length - 1] and tokens[row, length - 1] in spec.ends
        assert rollout.truncated[row] == (length > 0 and not ended)


def test_rows_are_text_and_exact_blocks(model: Any, rollout: Rollout) -> None:
    check_structure(rollout)
    assert {0, 1, 3 if model.config == CONFIG else 2} <= set(blocks(rollout).tolist())
    assert len(set(np.asarray(rollout.mask).sum(1).tolist())) > 3


def test_matches_its_spec(rollout: Rollout) -> None:
    spec = Rollout.spec(16, SPEC.max_tokens, SPEC.max_latents, CONFIG.decoder.width)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), rollout) == jax.tree.map(
        lambda x: (x.shape, x.dtype), spec)


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, top_p=0.8)],
                         ids=["plain", "top_p"])
def test_batch_is_row_by_row(model: Any, spec: SamplingSpec) -> None:
    batch = prompts()
    keys = row_keys(RNG, 4)
    together = sample(model, batch, keys, spec)
    for row in range(4):
        alone = sample(model, take_rows(batch, slice(row, row + 1)), keys[row : row + 1], spec)
        for name in ("tokens", "mask", "sampled", "latent_index", "truncated"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[row])
        np.testing.assert_allclose(alone.latents[0], together.latents[row], atol=1e-4)
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[row], atol=1e-4)


def test_group_is_each_prompt_repeated(model: Any, rollout: Rollout) -> None:
    batch = take_rows(prompts(), np.repeat(np.arange(4), 4))
    naive = sample(model, batch, RNG, SPEC)
    np.testing.assert_array_equal(naive.tokens, rollout.tokens)
    np.testing.assert_allclose(naive.latents, rollout.latents, atol=1e-4)


def test_padding_side_changes_nothing(model: Any) -> None:
    right = sample(model, prompts(), RNG, SPEC)
    left = sample(model, prompts(left=True), RNG, SPEC)
    np.testing.assert_array_equal(left.tokens, right.tokens)
    np.testing.assert_allclose(left.log_probs, right.log_probs, atol=1e-4)


def test_padding_row_yields_nothing(model: Any) -> None:
    batch = prompts()
    segments = batch.segment_ids.copy()
    segments[1] = 0
    result = sample(model, dataclasses.replace(batch, segment_ids=segments), RNG, SPEC)
    assert not result.mask[1].any() and not result.truncated[1] and not result.latents[1].any()
    full = sample(model, batch, RNG, SPEC)
    np.testing.assert_array_equal(result.tokens[2:], full.tokens[2:])


@jax.jit
def full_forward(model: Any, embeds: Any, positions: Any, used: Any) -> Any:
    segments = (jnp.arange(embeds.shape[1]) < used).astype(jnp.int32)[None]
    hidden = model.decode(embeds, positions, segments)[0][0, used - 1]
    return hidden, model.logits(hidden)


def oracle(model: Any, batch: Any, row: int, key: Any, spec: SamplingSpec) -> dict[str, list[Any]]:
    """One row decoded by full forwards over everything fed so far, without any cache."""
    length = batch.tokens.shape[1]
    real = int((batch.segment_ids[row] != 0).sum())
    one = take_rows(batch, slice(row, row + 1))
    prompt = jax.jit(prompt_embeddings)(model, one)
    width, size = prompt.shape[-1], length + spec.max_tokens
    embeds = np.zeros((1, size, width), np.float32)
    embeds[:, :real] = prompt[:, :real]
    positions = np.zeros((3, 1, size), np.int32)
    positions[:, :, :real] = one.positions[:, :, :real]
    top = positions.max()

    out: dict[str, list[Any]] = {"tokens": [], "latents": [], "log_probs": []}
    used, block = real, 0
    for t in range(spec.max_tokens):
        hidden, logits = full_forward(model, embeds, positions, used)
        fed = None
        if block == 0:
            full = len(out["latents"]) + spec.latent_size > spec.max_latents
            banned = [*spec.forbidden, *range(spec.vocab, TABLE), *([START] if full else [])]
            logits = np.asarray(logits, np.float64)
            logits[banned] = -np.inf
            log_p = logits - np.log(np.exp(logits).sum())
            noise = jax.random.gumbel(jax.random.fold_in(key, t), (TABLE,))
            token = int(np.argmax(logits + np.asarray(noise)))
            out["log_probs"].append(log_p[token])
            block = spec.latent_size + 1 if token == START else 0
        else:
            block -= 1
            token = LATENT if block else STOP
            out["log_probs"].append(0.0)
            if block:
                fed = np.asarray(hidden)
                out["latents"].append(fed)
        out["tokens"].append(token)
        if token == END:
            break
        embeds[0, used, : CONFIG.decoder.width] = (
            model.embedding[...][token] if fed is None else fed)
        positions[:, 0, used] = top + 1 + t
        used += 1
    return out


def test_cached_is_full_forward(model: Any, rollout: Rollout) -> None:
    keys, counts = row_keys(RNG, 16), blocks(rollout)
    for row in {count: row for row, count in enumerate(counts.tolist())}.values():
        want = oracle(model, prompts(), row // 4, keys[row], SPEC)
        n, q = len(want["tokens"]), len(want["latents"])
        assert rollout.mask[row].sum() == n
        np.testing.assert_array_equal(rollout.tokens[row, :n], want["tokens"])
        np.testing.assert_allclose(rollout.log_probs[row, :n], want["log_probs"], atol=1e-4)
        if q:
            np.testing.assert_allclose(rollout.latents[row, :q], want["latents"], atol=1e-4)


@pytest.mark.parametrize("inside", [END, START, LATENT, STOP, 3, TABLE - 1])
def test_exactly_k_latents_whatever_the_head_prefers(inside: int) -> None:
    k = SPEC.latent_size
    cycle = [5, START, *[inside] * (k + 1)]
    script = np.resize(cycle, 64)
    batch = prompts(rows=2, length=6)
    script = np.concatenate([np.zeros(5, np.int32), np.full(1, 7), script])
    batch = dataclasses.replace(batch, segment_ids=np.ones_like(batch.segment_ids))
    result = sample(Scripted(script), batch, RNG, GREEDY)
    expected = np.resize([7, *np.resize([5, START, *[LATENT] * k, STOP], 4 * len(cycle))], 24)
    np.testing.assert_array_equal(result.tokens, np.tile(expected, (2, 1)))
    assert result.truncated.all()


def test_a_full_buffer_stops_imagining() -> None:
    script = np.full(64, START)
    spec = dataclasses.replace(GREEDY, max_latents=2 * SPEC.latent_size)
    result = sample(Scripted(script), prompts(rows=1, length=6), RNG, spec)
    assert blocks(result).tolist() == [2]
    check = dataclasses.replace(SPEC, max_latents=2 * SPEC.latent_size)
    full = full_at(result.tokens, check)
    second = np.flatnonzero(np.asarray(result.tokens[0]) == START)[1]
    np.testing.assert_array_equal(full[0], np.arange(24) > second)


def test_a_block_past_the_budget_is_truncated() -> None:
    script = np.concatenate([np.full(6 + 20, 5), np.full(40, START)])
    batch = prompts(rows=1, length=6)
    for budget, latents in ((22, 0), (23, 1), (24, 2)):
        spec = dataclasses.replace(GREEDY, max_tokens=budget)
        result = sample(Scripted(script), batch, RNG, spec)
        assert result.truncated.all()
        assert int((result.latent_index >= 0).sum()) == latents


def test_imagery_off_never_starts_a_block(model: Any) -> None:
    off = dataclasses.replace(SPEC, imagery=False)
    result = sample(model, prompts(), RNG, off)
    assert not blocks(result).any() and not (result.tokens == LATENT).any()
    script = np.full(64, START)
    assert not blocks(sample(Scripted(script), prompts(rows=1), RNG,
                             dataclasses.replace(GREEDY, imagery=False))).any()


def test_greedy_is_deterministic(model: Any) -> None:
    one = sample(model, prompts(), jax.random.key(0), GREEDY)
    two = sample(model, prompts(), jax.random.key(1), GREEDY)
    check_structure(one)
    np.testing.assert_array_equal(one.tokens, two.tokens)


def test_seed_decides(model: Any, rollout: Rollout) -> None:
    again = sample(model, prompts(), RNG, SPEC, group=4)
    other = sample(model, prompts(), jax.random.key(8), SPEC, group=4)
    np.testing.assert_array_equal(again.tokens, rollout.tokens)
    assert (np.asarray(other.tokens) != np.asarray(rollout.tokens)).any()


def test_draw_follows_the_distribution() -> None:
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05] + [1e-9] * (TABLE - 4)))
    keys = row_keys(jax.random.key(0), 4000)
    spec = dataclasses.replace(SPEC, forbidden=(1,), temperature=2.0)
    tokens, log_probs = draw(jnp.tile(logits, (4000, 1)), keys, jnp.zeros(4000, bool), spec)
    mass = np.sqrt([0.5, 0, 0.15, 0.05])
    expected = mass / (mass.sum() + np.sqrt(1e-9) * (VOCAB - 4 - 2))
    share = np.bincount(tokens, minlength=TABLE)[:4] / 4000
    np.testing.assert_allclose(share, expected, atol=0.03)
    likely = np.asarray(tokens) < 4
    np.testing.assert_allclose(log_probs[likely], np.log(expected[np.asarray(tokens)[likely]]),
                               atol=1e-4)


def test_nucleus_keeps_the_fewest() -> None:
    logits = jnp.log(jnp.array([[0.15, 0.5, 0.05, 0.3]]))
    for top_p, kept in ((0.4, [1]), (0.5, [1]), (0.7, [1, 3]), (0.81, [0, 1, 3]),
                        (1.0, [0, 1, 2, 3])):
        assert np.flatnonzero(nucleus(logits, top_p)[0] > MASKED).tolist() == kept, top_p


def test_top_p_log_probs_are_renormalised() -> None:
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05] + [1e-9] * (TABLE - 4)))
    keys = row_keys(jax.random.key(0), 64)
    spec = dataclasses.replace(SPEC, top_p=0.7)
    tokens, log_probs = draw(jnp.tile(logits, (64, 1)), keys, jnp.zeros(64, bool), spec)
    assert set(np.asarray(tokens).tolist()) == {0, 1}
    np.testing.assert_allclose(jnp.exp(log_probs), np.array([0.625, 0.375])[tokens], atol=1e-5)


def test_restrict_masks_padding_rows_and_forbidden() -> None:
    full = jnp.array([False, True])
    allowed = np.asarray(restrict(jnp.zeros((2, TABLE)), full, SPEC) == 0)
    assert np.flatnonzero(~allowed[0]).tolist() == [LATENT, STOP, *range(VOCAB, TABLE)]
    assert np.flatnonzero(~allowed[1]).tolist() == [START, LATENT, STOP, *range(VOCAB, TABLE)]


PROBES = (zero, noise, freeze, swap)


def chosen_probe(imagined: Any, data: Any) -> Any:
    """One compiled loop for all probes."""
    which, latents = data
    return jnp.stack([probe(imagined, latents) for probe in PROBES])[which]


@pytest.mark.parametrize("name", [probe.__name__ for probe in PROBES])
def test_interventions_change_what_is_fed(model: Any, rollout: Rollout, name: str) -> None:
    natural, other = np.asarray(rollout.latents), np.asarray(rollout.latents)[::-1]
    which = [probe.__name__ for probe in PROBES].index(name)
    result = sample(model, prompts(), RNG, SPEC, group=4, intervene=chosen_probe,
                    data=(which, other))
    imagining = blocks(rollout) > 0
    np.testing.assert_array_equal(np.asarray(result.tokens)[~imagining],
                                  np.asarray(rollout.tokens)[~imagining])
    fed, was = np.asarray(result.latents)[imagining], natural[imagining]
    if name == "zero":
        assert not fed.any()
    elif name == "noise":
        np.testing.assert_allclose(np.linalg.norm(fed[:, 0], axis=-1),
                                   np.linalg.norm(was[:, 0], axis=-1), rtol=1e-4)
        assert (np.abs(fed[:, 0] - was[:, 0]).max(-1) > 0.1).all()
    elif name == "freeze":
        np.testing.assert_allclose(fed[:, 0], was[:, 0], atol=1e-5)
        np.testing.assert_allclose(fed[:, 1], fed[:, 0], atol=1e-6)
    else:
        np.testing.assert_allclose(fed[:, 0], other[imagining, 0], atol=1e-6)


def test_texts_leave_the_end_token_out() -> None:
    tokenizer = tiny_tokenizer()
    spec = SamplingSpec.of(tokenizer, PROTOCOL, max_tokens=64)
    body = "<think>It moves<|latent_start|><|latent_pad|><|latent_end|></think>"
    ids = tokenizer.encode(body + "<|im_end|>")
    tokens = np.array([ids, ids, [0] * len(ids)])
    mask = np.array([[1] * len(ids), [1] * (len(ids) - 1) + [0], [0] * len(ids)], bool)
    fake = Rollout.fake(3, len(ids), 4, 2)
    fake = dataclasses.replace(fake, tokens=tokens, mask=mask, sampled=mask)
    assert texts(fake, tokenizer, spec) == [body, body, ""]


def test_spec_of_a_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    spec = SamplingSpec.of(tokenizer, PROTOCOL, max_tokens=9)
    special = {name: tokenizer.id(name) for name in SPECIAL_TOKENS}
    assert spec.latent_start == special.pop("<|latent_start|>")
    assert spec.ends == (special.pop("<|im_end|>"), special.pop("<|endoftext|>"))
    assert set(spec.forbidden) == set(special.values())
    assert spec.latent_size == PROTOCOL.latent_size and spec.vocab == tokenizer.vocab_size


@pytest.mark.parametrize("field", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0},
                                   {"top_p": 1.5}, {"latent_size": 0}, {"ends": ()}])
def test_bad_spec_names_its_field(field: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(field))):
        dataclasses.replace(SPEC, **field)
