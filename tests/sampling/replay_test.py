"""Recomputed log-probs are the sampled ones, with latents replayed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.sampling import CONFIG, SPEC, START, TABLE_CONFIG, prompts, thinker

from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.sampling import replay, sample
from fourd4d.sampling.replay import joined_hidden, response_hidden, score_hidden

RNG = jax.random.key(6)
recompute = jax.jit(replay, static_argnames=("spec", "group"))


@pytest.fixture(scope="module", params=[CONFIG, TABLE_CONFIG], ids=["windows", "table"])
def model(request: Any) -> Any:
    return thinker(config=request.param)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("spec", [
    SPEC,
    dataclasses.replace(SPEC, temperature=0.7),
    dataclasses.replace(SPEC, temperature=0.0),
    dataclasses.replace(SPEC, imagery=False),
    dataclasses.replace(SPEC, max_latents=3),
], ids=["plain", "cool", "greedy", "text_only", "full_buffer"])
def test_recomputed_is_sampled(model: Any, left: bool, spec: Any) -> None:
    batch = prompts(left=left)
    rollout = sample(model, batch, RNG, spec, group=4)
    starts = np.sum(np.asarray(rollout.tokens) == START, axis=1)
    if spec is SPEC:
        assert {0, 1} <= set(starts.tolist()) and starts.max() > 1
        assert len(set(rollout.mask.sum(1).tolist())) > 3
    if spec.max_latents == 3:
        assert starts.max() == 1 and (starts == 1).sum() > 2
    again = recompute(model, batch, rollout, spec, group=4)
    np.testing.assert_allclose(again, rollout.log_probs, atol=2e-5)


def test_latents_matter_in_replay(model: Any) -> None:
    """The test above would miss a replay that ignored the latents if they changed nothing."""
    batch = prompts()
    rollout = sample(model, batch, RNG, SPEC, group=4)
    wrong = dataclasses.replace(rollout, latent_index=jnp.full_like(rollout.latent_index, -1))
    again = recompute(model, batch, wrong, SPEC, group=4)
    assert np.abs(np.asarray(again - rollout.log_probs)).max() > 1e-2


def test_no_gradient_into_latents(model: Any) -> None:
    batch = prompts()
    rollout = sample(model, batch, RNG, SPEC, group=4)

    def total(latents: Any) -> Any:
        replayed = dataclasses.replace(rollout, latents=latents)
        return recompute(model, batch, replayed, SPEC, group=4).sum()

    assert not np.asarray(jax.grad(total)(rollout.latents)).any()


def test_top_p_cannot_be_replayed(model: Any) -> None:
    spec = dataclasses.replace(SPEC, top_p=0.9)
    rollout = Rollout.fake(4, SPEC.max_tokens, SPEC.max_latents, CONFIG.decoder.width)
    with pytest.raises(InputError, match="top_p"):
        recompute(model, prompts(), rollout, spec)


def test_shared_prompts_have_the_plain_gradient(model: Any) -> None:
    """One prefix for a group of responses, or a copy for each: the same loss and gradient."""
    batch = prompts(left=True)
    rollout = sample(model, batch, RNG, SPEC, group=4)
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
