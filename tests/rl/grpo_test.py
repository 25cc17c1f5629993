"""The 4DRL step's maths: what has a gradient, what adds up, what is logged, what is learnt."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.sampling import CONFIG, LATENT, SPEC, START, STOP, TABLE_CONFIG, prompts, thinker

from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.losses import PolicySpec
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.rl.grpo import Experience, RLSpec, flat, gather, loss, policy_mask, rescore, update
from fourd4d.rl.setup import policy_spec, trains_vision
from fourd4d.sampling import generate, replay
from fourd4d.sampling.tails import pack_tails, padding_share, score_packed
from fourd4d.train import TrainState, state_from

GROUP = 4
RL = RLSpec(group=GROUP)
POLICY = PolicySpec(mask_truncated=False)
MODEL = thinker()
GRAPHDEF, PARAMS = nnx.split(MODEL)
FROZEN = nnx.State({})
TX = optax.sgd(0.5)


def reward_of(rollout: Rollout) -> np.ndarray:
    """1 where the response's first token is below 7."""
    return (np.asarray(rollout.tokens[:, 0]) < 7).astype(np.float32).reshape(-1, GROUP)


def start_state(params: Any = PARAMS) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, FROZEN, TX.init(params))


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return generate(GRAPHDEF, (PARAMS, FROZEN), prompts(), jax.random.key(6), SPEC, GROUP)


def gathered(rollout: Rollout, spec: RLSpec = RL, policy: PolicySpec = POLICY,
             reference: Any = PARAMS, rewards: Any = None) -> tuple[Experience, dict[str, Any]]:
    rewards = reward_of(rollout) if rewards is None else rewards
    return gatherer(spec, policy)(PARAMS, FROZEN, reference, prompts(), None, rollout, rewards)


@functools.cache
def gatherer(spec: RLSpec = RL, policy: PolicySpec = POLICY, graphdef: Any = GRAPHDEF) -> Any:
    return jax.jit(functools.partial(gather, graphdef=graphdef, spec=spec, policy=policy,
                                     sampling=SPEC))


@functools.cache
def updater(spec: RLSpec = RL, graphdef: Any = GRAPHDEF) -> Any:
    return jax.jit(functools.partial(update, graphdef=graphdef, tx=TX, spec=spec, policy=POLICY,
                                     sampling=SPEC))


def test_only_drawn_text_is_moved(rollout: Rollout) -> None:
    mask, tokens = np.asarray(policy_mask(rollout, RL, SPEC)), np.asarray(rollout.tokens)
    assert mask.any() and not mask[np.isin(tokens, [START, LATENT, STOP])].any()
    assert not mask[~np.asarray(rollout.mask)].any()
    with_start = np.asarray(policy_mask(rollout, dataclasses.replace(RL, train_start=True), SPEC))
    np.testing.assert_array_equal(with_start, rollout.sampled)
    assert (with_start & (tokens == START)).any()
    vlpo = np.asarray(policy_mask(rollout, dataclasses.replace(RL, latent_sigma=10.0), SPEC))
    np.testing.assert_array_equal(vlpo & ~mask, tokens == LATENT)


def test_latents_get_no_gradient(rollout: Rollout) -> None:
    """The loss is flat in the hidden states that imagined the latents, and only there."""
    experience, _ = gathered(rollout)
    shift = jnp.zeros((16, SPEC.max_tokens, MODEL.config.decoder.width))

    def shifted(shift: Any) -> Any:
        class Nudged(type(MODEL)):
            def decode(self, *args: Any, prefix: Any = None, **kwargs: Any) -> Any:
                hidden, cache = super().decode(*args, prefix=prefix, **kwargs)
                if prefix is None:
                    return hidden, cache
                # The state at response token t - 1 chose token t; the last one chose nothing.
                return hidden + jnp.pad(shift[:, 1:], ((0, 0), (0, 1), (0, 0))), cache

        nudged = nnx.merge(GRAPHDEF, PARAMS)
        nudged.__class__ = Nudged
        return loss(nudged, experience, jnp.float32(1.0), RL, POLICY, SPEC)[0]

    size = np.abs(np.asarray(jax.jit(jax.grad(shifted))(shift))).max(-1)[:, 1:]
    mask = np.asarray(policy_mask(rollout, RL, SPEC))[:, 1:]
    assert (size[~mask] == 0).all()
    moving = np.abs(np.asarray(flat(experience.advantages))) > 1e-3
    assert (size[moving][mask[moving]] > 0).all()


PARTS = dataclasses.replace(RL, accumulate=2, old="recomputed")


def test_microbatches_add_up(rollout: Rollout) -> None:
    ragged = dict(keep=~rollout.truncated.reshape(4, GROUP))
    whole, learnt = updater()(
        start_state(), dataclasses.replace(gathered(rollout)[0], **ragged), 0)
    parts, again = updater(PARTS)(
        start_state(), dataclasses.replace(gathered(rollout, PARTS)[0], **ragged), 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole.params,
                 parts.params)
    assert learnt.keys() == again.keys()
    for key in learnt:
        np.testing.assert_allclose(learnt[key].value(), again[key].value(), atol=3e-5, err_msg=key)


def test_a_step_on_four_devices_is_the_step_on_one(rollout: Rollout, devices: Any) -> None:
    whole, learnt = updater()(start_state(), gathered(rollout)[0], 0)
    mesh = make_mesh("data=2,fsdp=2", devices[:4])
    with use(mesh):
        state = state_from(PARAMS, TX, mesh)
        experience, _ = gatherer()(
            state.params, FROZEN, PARAMS, host_to_global(prompts(), mesh), None,
            host_to_global(rollout, mesh), reward_of(rollout))
        split, again = updater()(state, experience, 0)
    kernel = split.params["decoder"]["blocks"]["gate"]["kernel"].get_value()
    assert kernel.size == 2 * kernel.addressable_shards[0].data.size
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole.params,
                 split.params)
    for key in learnt:
        np.testing.assert_allclose(learnt[key].value(), again[key].value(), atol=3e-5, err_msg=key)


def test_at_unchanged_weights_nothing_differs(rollout: Rollout) -> None:
    experience, _ = gathered(rollout)
    _, learnt = updater()(start_state(), experience, 0)
    assert float(learnt["logp_diff_max"].value()) < 2e-5
    assert 0 < float(learnt["logp_diff_mean"].value()) < 5e-6
    np.testing.assert_allclose(learnt["ratio"].value(), 1, atol=1e-5)
    np.testing.assert_allclose(learnt["kl_ref"].value(), 0, atol=1e-6)
    assert float(learnt["entropy"].value()) > 1.5


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    pytest.param(CONFIG, id="windows"), pytest.param(TABLE_CONFIG, id="table")])
def test_what_a_reader_said_is_replayed(config: Any) -> None:
    """Its words move the weights, its log-probs are those sampled, parts add up."""
    graphdef, params = nnx.split(thinker(config=config))
    batch, key = prompts(reader="blind"), jax.random.key(6)
    read, plain = (generate(graphdef, (params, FROZEN), asked, key, SPEC, GROUP)
                   for asked in (batch, prompts()))
    assert (np.asarray(read.tokens) != np.asarray(plain.tokens)).any()
    found = []
    for spec in (RL, PARTS):
        experience, _ = gatherer(spec, graphdef=graphdef)(params, FROZEN, params, batch, None, read,
                                                          reward_of(read))
        state, learnt = updater(spec, graphdef)(start_state(params), experience, 0)
        assert float(learnt["logp_diff_max"].value()) < 2e-5
        np.testing.assert_allclose(learnt["kl_ref"].value(), 0, atol=1e-6)
        found.append(state.params)
    for a, b in zip(*(jax.tree.leaves(params) for params in found), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_logged_difference_is_the_largest(rollout: Rollout) -> None:
    """Parts of an update hold different prompts; the maximum runs over all of them."""
    wrong = rollout.log_probs.at[0, 0].add(0.75).at[15, 0].add(-0.25)
    broken = dataclasses.replace(rollout, log_probs=wrong)
    experience, _ = gathered(broken)
    _, metrics = gathered(broken, PARTS)
    for found in (updater()(start_state(), experience, 0)[1],
                  updater(PARTS)(start_state(), experience, 0)[1], metrics):
        np.testing.assert_allclose(found["logp_diff_max"].value(), 0.75, atol=1e-4)


def test_recomputed_old_ignores_the_sampled(rollout: Rollout) -> None:
    broken = dataclasses.replace(rollout, log_probs=rollout.log_probs - 1.0)
    experience, _ = gathered(broken, PARTS)
    clean, _ = gathered(rollout)
    np.testing.assert_allclose(experience.logp_old, clean.logp_old, atol=2e-5)


def test_reference_is_the_other_model(rollout: Rollout) -> None:
    other = thinker(5)
    experience, _ = gathered(rollout, reference=nnx.split(other)[1])
    again = jax.jit(replay, static_argnums=(3, 4))(other, prompts(), rollout, SPEC, GROUP)
    np.testing.assert_allclose(flat(experience.logp_ref), again, atol=2e-5)
    np.testing.assert_allclose(experience.logp_old, rollout.log_probs.reshape(4, GROUP, -1))
    _, learnt = updater()(start_state(), experience, 0)
    assert float(learnt["kl_ref"].value()) > 0.1


def test_what_is_dropped(rollout: Rollout) -> None:
    rewards = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1.2]], np.float32)
    kept = gathered(rollout, rewards=rewards)[0].keep
    assert kept.all()
    policy = dataclasses.replace(POLICY, drop_equal_groups=True, mask_truncated=True)
    experience, metrics = gathered(rollout, policy=policy, rewards=rewards)
    expected = np.array([1, 0, 0, 1], bool)[:, None] & ~np.asarray(rollout.truncated).reshape(4, 4)
    np.testing.assert_array_equal(experience.keep, expected)
    assert float(metrics["equal_groups"].value()) == 0.5
    np.testing.assert_allclose(metrics["kept_responses"].value(), expected.mean())
    length = np.asarray(rollout.mask).sum(1)
    np.testing.assert_allclose(metrics["response_length"].value(), length.mean())
    np.testing.assert_allclose(metrics["truncated"].value(), rollout.truncated.mean())
    starts = (np.asarray(rollout.tokens) == START) & np.asarray(rollout.mask)
    np.testing.assert_allclose(metrics["blocks"].value(), starts.sum(1).mean())


def test_dropped_responses_move_nothing(rollout: Rollout) -> None:
    experience = dataclasses.replace(gathered(rollout)[0], keep=jnp.zeros((4, GROUP), bool))
    state, learnt = updater()(start_state(), experience, 0)
    jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)
    assert float(learnt["loss"].value()) == 0


def test_vlpo_latents_move(rollout: Rollout) -> None:
    """Replayed latents are what these weights imagine: log-likelihood 0, falling as they move."""
    spec = dataclasses.replace(RL, latent_sigma=1.0)
    scored = functools.partial(rescore, graphdef=GRAPHDEF, spec=spec, sampling=SPEC)
    same = flat(jax.jit(scored)(PARAMS, FROZEN, prompts(), None, rollout))
    fed = np.asarray(rollout.latent_index) >= 0
    np.testing.assert_allclose(np.asarray(same)[fed], 0, atol=1e-6)
    moved = jax.tree.map(lambda x: x * 1.05, PARAMS)
    other = flat(jax.jit(scored)(moved, FROZEN, prompts(), None, rollout))
    assert (np.asarray(other)[fed] < -1e-4).all()


def test_long_responses_lose_reward(rollout: Rollout) -> None:
    """Equal rewards differ once some responses come near the budget."""
    spec = dataclasses.replace(RL, overlong=12)
    rewards = np.ones((4, GROUP), np.float32)
    assert not np.asarray(gathered(rollout, rewards=rewards)[0].advantages).any()
    advantages = np.asarray(gathered(rollout, spec, rewards=rewards)[0].advantages)
    lengths = np.asarray(rollout.mask).sum(1).reshape(4, GROUP)
    loss = np.clip((lengths - 12) / 12, 0, 1)
    assert (loss > 0).any() and (loss < 1).any()
    for row in range(4):
        order = np.argsort(loss[row], kind="stable")
        assert (np.diff(advantages[row][order]) <= 1e-6).all()
        assert advantages[row].any() == (loss[row].max() > loss[row].min())


def test_directions_of_latents_move(rollout: Rollout) -> None:
    spec = dataclasses.replace(RL, latent_kappa=1.0)
    scored = functools.partial(rescore, graphdef=GRAPHDEF, spec=spec, sampling=SPEC)
    same = flat(jax.jit(scored)(PARAMS, FROZEN, prompts(), None, rollout))
    fed = np.asarray(rollout.latent_index) >= 0
    np.testing.assert_allclose(np.asarray(same)[fed], 0, atol=1e-5)
    mask = np.asarray(policy_mask(rollout, spec, SPEC))
    assert mask[fed].all()


@pytest.mark.slow
def test_packed_responses_give_the_same_update(rollout: Rollout) -> None:
    """Same weights after a step, whole and in parts, with a reader too; few places are empty."""
    lengths = np.asarray(rollout.mask).sum(1).reshape(4, GROUP)
    tails = pack_tails(lengths, SPEC.max_tokens)
    assert (tails.source >= 0).sum() == lengths.sum() and padding_share(tails) < 0.5
    assert tails.source.shape[1] < GROUP
    packed, read = jax.jit(score_packed, static_argnums=4), prompts(reader="blind")
    for batch in (prompts(), read):
        wanted = jax.jit(replay, static_argnums=(3, 4))(MODEL, batch, rollout, SPEC, GROUP)
        got, entropy, _ = packed(MODEL, batch, rollout, tails, SPEC)
        np.testing.assert_allclose(got, wanted, atol=2e-5)
        assert entropy[np.asarray(rollout.sampled)].all()
    experience = gathered(rollout, PARTS)[0]
    whole, learnt = updater(PARTS)(start_state(), experience, 0)
    parts, again = updater(PARTS)(
        start_state(), dataclasses.replace(experience, tails=tails), 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole.params,
                 parts.params)
    for key in learnt:
        np.testing.assert_allclose(learnt[key].value(), again[key].value(), atol=3e-5, err_msg=key)


def test_minibatches_are_other_prompts(rollout: Rollout) -> None:
    spec = dataclasses.replace(RL, minibatches=2)
    experience, _ = gathered(rollout)
    step = updater(spec)
    first, _ = step(start_state(), experience, 0)
    half = dataclasses.replace(
        experience, keep=experience.keep & (jnp.arange(4) % 2 == 0)[:, None])
    alone, _ = updater()(start_state(), half, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), first.params,
                 alone.params)
    other, _ = step(start_state(), experience, 1)
    assert any(np.abs(np.asarray(a - b)).max() > 1e-4 for a, b in zip(
        jax.tree.leaves(first.params), jax.tree.leaves(other.params), strict=True))


def test_learns_a_toy() -> None:
    """The chance that the first token is below 7 rises within a few steps."""
    state, seen = start_state(), []
    for number in range(12):
        rollout = generate(GRAPHDEF, (state.params, FROZEN), prompts(), jax.random.key(number),
                           SPEC, GROUP)
        rewards = reward_of(rollout)
        seen.append(rewards.mean())
        experience, _ = gatherer()(state.params, FROZEN, PARAMS, prompts(), None, rollout, rewards)
        state, _ = updater()(state, experience, 0)
    assert np.mean(seen[-3:]) > np.mean(seen[:3]) + 0.3, seen


def test_variants_and_their_changes() -> None:
    assert policy_spec("grpo", 9, {"beta": None}) == PolicySpec()
    assert policy_spec("dapo", 9, {"clip_high": 0.3}) == PolicySpec.dapo(clip_high=0.3)
    assert policy_spec("dr_grpo", 9, {}).max_tokens == 9
    with pytest.raises(InputError, match="variant"):
        policy_spec("ppo", 9, {})
    with pytest.raises(InputError, match="nonsense"):
        policy_spec("dapo", 9, {"nonsense": 1})


@pytest.mark.parametrize("changes", [dict(group=1), dict(epochs=0), dict(minibatches=0),
                                     dict(accumulate=0), dict(old="x"), dict(latent_sigma=-1.0),
                                     dict(slots=-1), dict(overlong=-1),
                                     dict(latent_kappa=1.0, latent_sigma=1.0)])
def test_bad_spec_names_its_field(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        RLSpec(**changes)


def test_knows_when_vision_is_trained() -> None:
    assert trains_vision(PARAMS)
    assert not trains_vision(nnx.split_state(PARAMS, lambda path, _: path[0] != "vision", ...)[0])
