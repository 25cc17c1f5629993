"""The 4DRL step: sample groups of responses, score them, update on what was sampled.

Source: "4DThinker: Thinking with 4D Imagery for Dynamic Spatial Understanding"
(arXiv 2605.05997), 4D reinforcement learning.

One step draws ``group`` responses to every prompt, with their latents recorded, and keeps them as
an ``Experience``. Every later forward pass replays those latents, so policy, old and reference
log-probabilities describe the sequence that was sampled. The gradient moves drawn text tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.core.rollout import Rollout
from fourd4d.core.struct import pytree
from fourd4d.losses import PolicySpec, group_advantages, informative_groups, policy_loss
from fourd4d.losses.policy import (
    latent_log_probs,
    overlong_penalty,
    response_mean,
    vmf_log_probs,
)
from fourd4d.sampling.replay import response_hidden, score_hidden
from fourd4d.sampling.spec import SamplingSpec
from fourd4d.sampling.tails import Tails, score_packed
from fourd4d.train import TrainState, apply_gradients, gradients
from fourd4d.train.state import microbatches


@dataclasses.dataclass(frozen=True)
class RLSpec:
    """How experience is gathered and used; the loss itself is a ``PolicySpec``.

    Attributes:
      group: responses to each prompt (G).
      epochs: passes over the responses of one step.
      minibatches: updates in one pass.
      pack: responses are packed into rows for old, reference and policy log-probs.
      slots: responses decoded at once, on all devices; one that ends gives its place to the next.
        0 decodes all at once, until the longest has ended.
      accumulate: microbatches of one update, and parts in which old and reference log-probs are
        computed.
      old: log-probs of the weights that sampled: as ``sampled``, or ``recomputed`` by the forward
        pass that the update uses (exact ratios where decoding rounds differently, as in bfloat16).
      train_start: also move ``<|latent_start|>``: when to imagine.
      latent_sigma: above 0, latents get a Gaussian likelihood of this width and a policy gradient
        (VLPO, where it is 10); the paper's method gives them none.
      latent_kappa: the same with a von Mises-Fisher likelihood of their directions, of this
        concentration.
      rounds: most batches of prompts that are sampled for one step. Above 1, groups whose rewards
        are equal are replaced by groups of the next batch while there are any (dynamic sampling).
      overlong: above 0, the reward falls by up to 1 over the last so many tokens of the budget.
    """

    group: int = 8
    epochs: int = 1
    minibatches: int = 1
    accumulate: int = 1
    old: str = "sampled"
    train_start: bool = False
    latent_sigma: float = 0.0
    latent_kappa: float = 0.0
    rounds: int = 1
    overlong: int = 0
    slots: int = 0
    pack: bool = False

    def __post_init__(self) -> None:
        for field in ("epochs", "minibatches", "accumulate", "rounds"):
            if getattr(self, field) < 1:
                raise InputError(f"RLSpec.{field}", f"bad value {getattr(self, field)}",
                                 "Use 1 or more")
        if self.group < 2:
            raise InputError("RLSpec.group", f"{self.group} responses a prompt",
                             "Advantages compare at least 2")
        if self.old not in ("sampled", "recomputed"):
            raise InputError("RLSpec.old", f"unknown value {self.old!r}",
                             "Use 'sampled' or 'recomputed'")
        if self.slots < 0:
            raise InputError("RLSpec.slots", f"bad value {self.slots}",
                             "Use 0 to decode all responses at once, else a number of them")
        if self.latent_kappa < 0 or (self.latent_kappa and self.latent_sigma):
            raise InputError("RLSpec.latent_kappa", f"{self.latent_kappa} with latent_sigma "
                             f"{self.latent_sigma}", "Use one of the two, above 0")
        if self.overlong < 0:
            raise InputError("RLSpec.overlong", f"bad value {self.overlong}",
                             "Use 0 for no penalty, else a number of tokens")
        if self.latent_sigma < 0:
            raise InputError("RLSpec.latent_sigma", f"bad value {self.latent_sigma}",
                             "Use 0 for no gradient on latents, else a positive width")


@pytree
class Experience:
    """P prompts with G responses each; everything an update reads besides the weights.

    Attributes:
      prompts: P rows.
      features: of the prompts' videos, when the encoder is frozen; else None.
      rollout: a ``Rollout`` whose leaves start with (P, G) in place of B = P * G.
      advantages: one per response.
      keep: responses that count.
      logp_old, logp_ref: under the weights that sampled, and under the reference (None without).
      tails: how the responses are packed; None where they are not.
    """

    prompts: Batch
    features: Float[Array, "P F U E"] | None
    rollout: Any
    advantages: Float[Array, "P G"]
    keep: Bool[Array, "P G"]
    logp_old: Float[Array, "P G T"]
    logp_ref: Float[Array, "P G T"] | None
    tails: Tails | None = None


def grouped(tree: Any, group: int) -> Any:
    """Leaves (P * G, …) as (P, G, …)."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // group, group, *x.shape[1:]), tree)


def flat(tree: Any) -> Any:
    """Leaves (P, G, …) as (P * G, …)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def policy_mask(rollout: Rollout, spec: RLSpec, sampling: SamplingSpec) -> Bool[Array, "B T"]:
    """The positions T_i that the loss moves: drawn text tokens, and what ``spec`` adds."""
    mask = jnp.asarray(rollout.sampled)
    if not spec.train_start:
        mask &= rollout.tokens != sampling.latent_start
    if spec.latent_sigma or spec.latent_kappa:
        mask |= jnp.asarray(rollout.latent_index) >= 0
    return mask


def score(model: Any, prompts: Batch, features: Any, rollout: Rollout, spec: RLSpec,
          sampling: SamplingSpec, tails: Tails | None = None
          ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probs and entropies of a rollout's tokens, latents replayed.

    With ``latent_sigma`` or ``latent_kappa``, latents have their log-likelihood too, up to a
    constant; it is 0 under the weights that imagined them.
    """
    if tails is not None:
        log_probs, entropy, hidden = score_packed(model, prompts, rollout, tails, sampling,
                                                  features)
    else:
        hidden = response_hidden(model, prompts, rollout, spec.group, features)
        log_probs, entropy = score_hidden(model, hidden, rollout, sampling)
    if spec.latent_sigma or spec.latent_kappa:
        index = jnp.asarray(rollout.latent_index)
        fed = jnp.take_along_axis(rollout.latents, jnp.maximum(index, 0)[..., None], axis=1)
        predicted = model.imagine(hidden)
        likelihood = (vmf_log_probs(fed, predicted, spec.latent_kappa) if spec.latent_kappa else
                      latent_log_probs(fed, predicted, spec.latent_sigma))
        log_probs = jnp.where(index >= 0, likelihood, log_probs)
    return log_probs, entropy


def rescore(params: Any, frozen: Any, prompts: Batch, features: Any, rollout: Rollout, *,
            graphdef: Any, spec: RLSpec, sampling: SamplingSpec, tails: Tails | None = None
            ) -> Float[Array, "P G T"]:
    """``score``'s log-probs without a gradient, ``spec.accumulate`` parts one after the other."""

    def part(inputs: Any) -> Any:
        prompts, features, rollout, tails = inputs
        model = nnx.merge(graphdef, params, frozen)
        scored = score(model, prompts, features, flat(rollout), spec, sampling, tails)[0]
        return grouped(scored, spec.group)

    inputs = prompts, features, grouped(rollout, spec.group), tails
    if spec.accumulate == 1:
        return part(inputs)
    dealt = jax.lax.map(part, microbatches(inputs, spec.accumulate))
    return jnp.moveaxis(dealt, 0, 1).reshape(-1, *dealt.shape[2:])


def gather(params: Any, frozen: Any, reference: Any, prompts: Batch, features: Any,
           rollout: Rollout, rewards: Float[Array, "P G"], *, graphdef: Any, spec: RLSpec,
           policy: PolicySpec, sampling: SamplingSpec, tails: Tails | None = None
           ) -> tuple[Experience, dict[str, Mean]]:
    """Advantages and log-probs of a rollout, and what to log of it."""
    fixed: dict[str, Any] = dict(graphdef=graphdef, spec=spec, sampling=sampling, tails=tails)
    logp_old = grouped(jnp.asarray(rollout.log_probs), spec.group)
    metrics = rollout_metrics(rollout, sampling)
    if spec.old == "recomputed":
        again = rescore(params, frozen, prompts, features, rollout, **fixed)
        metrics |= difference(flat(again), rollout)
        logp_old = again
    logp_ref = None
    if policy.beta:
        logp_ref = rescore(reference, frozen, prompts, features, rollout, **fixed)
    if spec.overlong:
        lengths = grouped(jnp.sum(jnp.asarray(rollout.mask), axis=1), spec.group)
        rewards = rewards + overlong_penalty(lengths, sampling.max_tokens, spec.overlong)
    real = jnp.any(jnp.asarray(prompts.segment_ids) != 0, axis=1)
    useful = informative_groups(rewards)
    keep = jnp.broadcast_to(real[:, None], rewards.shape)
    if policy.drop_equal_groups:
        keep &= useful[:, None]
    if policy.mask_truncated:
        keep &= ~grouped(jnp.asarray(rollout.truncated), spec.group)
    metrics["equal_groups"] = Mean.of(~useful, real)
    metrics["kept_responses"] = Mean.of(keep, jnp.broadcast_to(real[:, None], keep.shape))
    return Experience(
        prompts=prompts,
        features=features,
        rollout=grouped(rollout, spec.group),
        advantages=group_advantages(rewards, divide_by_std=policy.divide_by_std),
        keep=keep,
        logp_old=logp_old,
        logp_ref=logp_ref,
        tails=tails,
    ), metrics


def rollout_metrics(rollout: Rollout, sampling: SamplingSpec) -> dict[str, Mean]:
    """Means over responses: length in tokens, blocks, share that ran out of budget."""
    mask = jnp.asarray(rollout.mask)
    real = jnp.any(mask, axis=1)
    starts = mask & (rollout.tokens == sampling.latent_start)
    return {
        "response_length": Mean.of(jnp.sum(mask, axis=1), real),
        "blocks": Mean.of(jnp.sum(starts, axis=1), real),
        "truncated": Mean.of(rollout.truncated, real),
    }


def difference(log_probs: Float[Array, "B T"], rollout: Rollout) -> dict[str, Mean]:
    """Between recomputed and sampled log-probs of drawn tokens; rounding at unchanged weights."""
    sampled = jnp.asarray(rollout.sampled)
    gap = jnp.where(sampled, jnp.abs(log_probs - rollout.log_probs), 0.0)
    return {"logp_diff_mean": Mean.of(gap, sampled), "logp_diff_max": Mean.of(jnp.max(gap))}


def loss(model: Any, part: Experience, weight: Float[Array, ""], spec: RLSpec, policy: PolicySpec,
         sampling: SamplingSpec
         ) -> tuple[Float[Array, ""], tuple[dict[str, Mean], Float[Array, "B T"]]]:
    """The part's share of an update's loss; its metrics and log-probs.

    ``weight`` is that of the whole update, so that shares of microbatches add up.
    """
    rollout: Rollout = flat(part.rollout)
    log_probs, entropy = score(model, part.prompts, part.features, rollout, spec, sampling,
                               part.tails)
    mean, metrics = policy_loss(
        log_probs, flat(part.logp_old), flat(part.advantages),
        policy_mask(rollout, spec, sampling), policy,
        None if part.logp_ref is None else flat(part.logp_ref), flat(part.keep),
        # Latents were not drawn: their weight is 1.
        logp_sampled=jnp.where(jnp.asarray(rollout.sampled), rollout.log_probs,
                               flat(part.logp_old)) if policy.sampled_cap else None,
        entropy=entropy if policy.entropy else None,
        latents=jnp.asarray(rollout.latent_index) >= 0)
    sampled = jnp.asarray(rollout.sampled)
    metrics["entropy"] = Mean.of(jax.lax.stop_gradient(entropy), sampled)
    return mean.total / weight, (metrics, jax.lax.stop_gradient(log_probs))


def update(state: TrainState, experience: Experience, number: Any, *, graphdef: Any,
           tx: optax.GradientTransformation, spec: RLSpec, policy: PolicySpec,
           sampling: SamplingSpec) -> tuple[TrainState, dict[str, Mean]]:
    """One optimizer step on minibatch ``number`` of the experience."""
    if spec.minibatches > 1:
        dealt = microbatches(experience, spec.minibatches)
        experience = jax.tree.map(lambda x: x[number], dealt)
    rollout: Rollout = flat(experience.rollout)
    mask = policy_mask(rollout, spec, sampling)
    total = response_mean(jnp.zeros(mask.shape), mask, flat(experience.keep),
                          policy.normalisation, policy.max_tokens).weight
    weight = jnp.maximum(total, 1.0)
    prompts = experience.advantages.shape[0]

    def share(params: Any, part: tuple[Experience, Array]) -> tuple[Any, dict[str, Any]]:
        own, rows = part
        model = nnx.merge(graphdef, params, state.frozen)
        value, (metrics, log_probs) = loss(model, own, weight, spec, policy, sampling)
        # Parts add up: each fills in the log-probs of its own prompts.
        everyone = jnp.zeros((prompts, spec.group, log_probs.shape[1]))
        log_probs = everyone.at[rows].set(grouped(log_probs, spec.group))
        return value, {**metrics, "log_probs": log_probs}

    value, grads, metrics = gradients(share, state.params, (experience, jnp.arange(prompts)),
                                      spec.accumulate)
    metrics |= difference(flat(metrics.pop("log_probs")), rollout)
    state, norms = apply_gradients(state, grads, tx)
    return state, {"loss": Mean.of(value), **metrics, **norms}
