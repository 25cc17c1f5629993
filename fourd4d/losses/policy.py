"""Group-relative policy optimisation over text tokens.

GRPO: Shao et al. 2024 (arXiv 2402.03300). Dr.GRPO: Liu et al. 2025 (arXiv 2503.20783).
DAPO: Yu et al. 2025 (arXiv 2503.14476). VLPO: Wang et al. 2025 (arXiv 2511.21395). GSPO: Zheng et
al. 2025 (arXiv 2507.18071). CISPO: MiniMax 2025 (arXiv 2506.13585). Truncated importance sampling:
Ionides 2008; for rollouts, Yao et al. 2025. k3: Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean

Normalisation = Literal["response", "token", "constant"]
Ratio = Literal["token", "sequence"]
Surrogate = Literal["clip", "cispo"]


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """The policy loss; the defaults are the paper's, the class methods its variants.

    Attributes:
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      beta: weight of the KL term; 0 leaves the reference out.
      normalisation: ``response`` means over each response's tokens, then over responses; ``token``
        over all tokens alike; ``constant`` divides each response's sum by ``max_tokens``.
      max_tokens: the response budget, for ``constant``.
      divide_by_std: advantages are divided by their group's standard deviation.
      drop_equal_groups: groups whose rewards are all equal leave the loss and its weight.
      mask_truncated: truncated responses leave the loss and its weight.
      ratio: of each ``token``, or one of the whole ``sequence``: the geometric mean over its tokens
        (GSPO).
      surrogate: ``clip`` cuts the gradient where the ratio leaves its range; ``cispo`` cuts the
        ratio only, as a constant weight of every token's log-prob.
      sampled_cap: above 0, tokens are weighed by min(old / sampled probability, this), which
        corrects what decoding rounded (truncated importance sampling). Wants old log-probs
        recomputed.
      entropy: weight of the tokens' entropy in the objective.
      latent_clip_low, latent_clip_high: the clip of latents that have a likelihood of their own
        (DePO); 0 clips them as tokens are. Ratios of each token only.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.01
    normalisation: Normalisation = "response"
    max_tokens: int = 0
    divide_by_std: bool = True
    drop_equal_groups: bool = False
    mask_truncated: bool = True
    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    sampled_cap: float = 0.0
    entropy: float = 0.0
    latent_clip_low: float = 0.0
    latent_clip_high: float = 0.0

    def __post_init__(self) -> None:
        if self.normalisation not in ("response", "token", "constant"):
            raise InputError("PolicySpec.normalisation", f"unknown value {self.normalisation!r}",
                             "Use 'response', 'token' or 'constant'")
        if self.normalisation == "constant" and self.max_tokens < 1:
            raise InputError("PolicySpec.max_tokens", f"{self.max_tokens} tokens",
                             "Constant normalisation needs the response budget")
        for field, known in (("ratio", ("token", "sequence")), ("surrogate", ("clip", "cispo"))):
            if getattr(self, field) not in known:
                raise InputError(f"PolicySpec.{field}", f"unknown value {getattr(self, field)!r}",
                                 f"Use one of {known}")
        own = self.latent_clip_low, self.latent_clip_high
        if min(own) < 0 or (any(own) and self.ratio == "sequence"):
            raise InputError("PolicySpec.latent_clip_low and latent_clip_high",
                             f"{own} with the ratio {self.ratio!r}",
                             "Use 0 or more, and a ratio of each token")
        if self.sampled_cap < 0:
            raise InputError("PolicySpec.sampled_cap", f"bad value {self.sampled_cap}",
                             "Use 0 for no weights, else a cap such as 2")

    @classmethod
    def dr_grpo(cls, max_tokens: int, **changes: Any) -> PolicySpec:
        """No division by the deviation, none by the response's length."""
        return cls(**{"normalisation": "constant", "max_tokens": max_tokens,
                      "divide_by_std": False, **changes})

    @classmethod
    def dapo(cls, **changes: Any) -> PolicySpec:
        """Clip higher, token mean, no KL, no uninformative groups, no truncated responses."""
        return cls(**{"clip_high": 0.28, "beta": 0.0, "normalisation": "token",
                      "drop_equal_groups": True, "mask_truncated": True, **changes})


    @classmethod
    def gspo(cls, **changes: Any) -> PolicySpec:
        """One ratio a response, clipped to the paper's narrow range, no KL."""
        return cls(**{"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "beta": 0.0,
                      **changes})

    @classmethod
    def cispo(cls, **changes: Any) -> PolicySpec:
        """Clipped weights instead of a clipped gradient: no lower bound, token mean, no KL."""
        return cls(**{"surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0, "beta": 0.0,
                      "normalisation": "token", **changes})


def k3(logp: Float[Array, "*dims"], logp_ref: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """exp(d) - d - 1 with d = logp_ref - logp: KL(policy ‖ reference), estimated per token.

    Never negative; unbiased on samples of the policy. As a loss, its expected gradient is zero
    where the two agree and pulls towards the reference elsewhere, unlike the plain difference
    (k1), whose expected gradient is zero everywhere.
    """
    d = logp_ref - logp
    return jnp.expm1(d) - d


def clipped_surrogate(
    logp: Float[Array, "*dims"],
    logp_old: Float[Array, "*dims"],
    advantages: Float[Array, "*dims"],
    clip_low: float | Array = 0.2,
    clip_high: float | Array = 0.2,
) -> Float[Array, "*dims"]:
    """min(ρ A, clip(ρ, 1 - clip_low, 1 + clip_high) A) per token, to be maximised."""
    ratio = jnp.exp(logp - logp_old)
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    return jnp.minimum(ratio * advantages, clipped * advantages)


def cispo_surrogate(
    logp: Float[Array, "*dims"],
    log_ratio: Float[Array, "*dims"],
    advantages: Float[Array, "*dims"],
    clip_low: float | Array = 1.0,
    clip_high: float | Array = 4.0,
) -> Float[Array, "*dims"]:
    """sg(clip(ρ, 1 - clip_low, 1 + clip_high)) A log π per token, to be maximised."""
    weight = jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), 1.0 - clip_low, 1.0 + clip_high))
    return weight * advantages * logp


def sequence_ratio(log_ratio: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Mean of the log-ratios of each response's tokens, at every token (GSPO, equation 7)."""
    counts = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(mask, log_ratio, 0.0), axis=-1, keepdims=True) / counts
    return jnp.broadcast_to(mean, log_ratio.shape)


def sampled_weights(logp_old: Float[Array, "*dims"], logp_sampled: Float[Array, "*dims"],
                    cap: float) -> Float[Array, "*dims"]:
    """min(π_old / π_sampled, cap), constant: both of the same weights, computed in two ways."""
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(logp_old - logp_sampled), cap))


def overlong_penalty(lengths: Float[Array, "*dims"] | Any, max_tokens: int, margin: int
                     ) -> Float[Array, "*dims"]:
    """0 up to ``max_tokens - margin`` tokens, from there linearly down to -1 at ``max_tokens``.

    DAPO's soft overlong punishment (equation 13), added to rewards.
    """
    return -jnp.clip((lengths - (max_tokens - margin)) / margin, 0.0, 1.0)


def group_advantages(
    rewards: Float[Array, "P G"], eps: float = 1e-4, divide_by_std: bool = True
) -> Float[Array, "P G"]:
    """(R - mean) / (std + eps) within each prompt's group of G responses.

    The deviation is the sample's (divisor G - 1), as in the public implementations. Without
    ``divide_by_std``, R - mean (Dr.GRPO).
    """
    centred = rewards - jnp.mean(rewards, axis=-1, keepdims=True)
    if not divide_by_std:
        return centred
    if rewards.shape[-1] < 2:
        return jnp.zeros_like(rewards)
    return centred / (jnp.std(rewards, axis=-1, keepdims=True, ddof=1) + eps)


def informative_groups(rewards: Float[Array, "P G"]) -> Bool[Array, "P"]:
    """True where a group's rewards differ; the others have no gradient (DAPO drops them)."""
    return jnp.max(rewards, axis=-1) > jnp.min(rewards, axis=-1)


def response_mean(
    values: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    keep: Bool[Array, "B"] | None = None,
    normalisation: Normalisation = "response",
    max_tokens: int = 0,
) -> Mean:
    """Sum and weight of per-token values over responses.

    Args:
      mask: the tokens T_i of response i that count.
      keep: responses that count at all; by default those with a token.
      normalisation, max_tokens: see ``PolicySpec``. The weight is the number of responses kept, or
        for ``token`` the number of their tokens.
    """
    counts = jnp.sum(mask, axis=-1).astype(jnp.float32)
    kept = counts > 0 if keep is None else keep & (counts > 0)
    use = mask & kept[:, None]
    sums = jnp.sum(jnp.where(use, values, 0.0).astype(jnp.float32), axis=-1)
    if normalisation == "token":
        return Mean(jnp.sum(sums), jnp.sum(jnp.where(kept, counts, 0.0)))
    divisor = counts if normalisation == "response" else jnp.float32(max_tokens)
    per_response = sums / jnp.where(kept, divisor, 1.0)
    return Mean(jnp.sum(per_response), jnp.sum(kept.astype(jnp.float32)))


def latent_log_probs(
    latents: Float[Array, "*batch D"], predicted: Float[Array, "*batch D"], sigma: float = 10.0
) -> Float[Array, "*batch"]:
    """Gaussian log-likelihood of replayed latents around today's predictions, up to a constant.

    -‖latent - predicted‖² / (2 σ²), as in VLPO; the latent is constant.
    """
    gap = jax.lax.stop_gradient(latents.astype(jnp.float32)) - predicted.astype(jnp.float32)
    return -jnp.sum(gap * gap, axis=-1) / (2.0 * sigma**2)


def vmf_log_probs(
    latents: Float[Array, "*batch D"], predicted: Float[Array, "*batch D"], kappa: float
) -> Float[Array, "*batch"]:
    """Von Mises-Fisher log-likelihood of replayed latents' directions, up to a constant.

    κ (cos(latent, predicted) - 1): 0 where they agree, -2 κ where they are opposite. The latent is
    constant; lengths do not count.
    """
    def unit(x: Any) -> Any:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))

    return kappa * (jnp.sum(jax.lax.stop_gradient(unit(latents)) * unit(predicted), axis=-1) - 1.0)


def policy_loss(
    logp: Float[Array, "B T"],
    logp_old: Float[Array, "B T"],
    advantages: Float[Array, "B"],
    mask: Bool[Array, "B T"],
    spec: PolicySpec,
    logp_ref: Float[Array, "B T"] | None = None,
    keep: Bool[Array, "B"] | None = None,
    *,
    logp_sampled: Float[Array, "B T"] | None = None,
    entropy: Float[Array, "B T"] | None = None,
    latents: Bool[Array, "B T"] | None = None,
) -> tuple[Mean, dict[str, Mean]]:
    """The loss to minimise, -(surrogate - β k3 + entropy bonus), and what to log.

    Args:
      logp: of the recorded tokens under the weights being trained.
      logp_old: under the weights that sampled them; constant.
      advantages: one per response, shared by its tokens; constant.
      mask: positions with a gradient; latents are among them only with a likelihood of their own.
      logp_ref: under the frozen reference; needed when ``spec.beta`` is not 0.
      keep: responses that count (not truncated, of informative groups, no filler rows).
      logp_sampled: as decoding computed them; needed with ``spec.sampled_cap``.
      entropy: of the distribution of each token; needed with ``spec.entropy``.
      latents: positions of latents; needed with a clip of their own.

    Returns:
      The loss, and ``policy_surrogate``, ``ratio``, ``clipped_low``, ``clipped_high`` (shares of
      tokens where the clip cuts the gradient), ``kl_old`` and, with a reference, ``kl_ref``.
    """
    if spec.beta and logp_ref is None:
        raise InputError("policy_loss", f"beta is {spec.beta} but no reference log-probabilities",
                         "Give logp_ref, or set beta to 0")
    if spec.sampled_cap and logp_sampled is None:
        raise InputError("policy_loss", "sampled_cap without sampled log-probabilities",
                         "Give logp_sampled, or set sampled_cap to 0")
    if spec.entropy and entropy is None:
        raise InputError("policy_loss", "an entropy bonus without entropies",
                         "Give entropy, or set its weight to 0")
    if (spec.latent_clip_low or spec.latent_clip_high) and latents is None:
        raise InputError("policy_loss", "a clip of latents, but none are given",
                         "Give latents, or set latent_clip_low and latent_clip_high to 0")
    low, high = (
        jnp.where(latents, own, of_tokens) if own and latents is not None else of_tokens
        for own, of_tokens in ((spec.latent_clip_low, spec.clip_low),
                               (spec.latent_clip_high, spec.clip_high)))
    # Outside the mask log-probabilities may be anything; the ratio must not overflow there.
    logp_old = jax.lax.stop_gradient(jnp.where(mask, logp_old, 0.0))
    logp = jnp.where(mask, logp, 0.0)
    a_BT = jax.lax.stop_gradient(jnp.broadcast_to(advantages[:, None], logp.shape))
    moved = logp
    if spec.ratio == "sequence":
        moved = sequence_ratio(logp - logp_old, mask) + logp_old
    if spec.surrogate == "cispo":
        surrogate = cispo_surrogate(logp, moved - logp_old, a_BT, low, high)
    else:
        surrogate = clipped_surrogate(moved, logp_old, a_BT, low, high)

    def mean(values: Any) -> Mean:
        return response_mean(values, mask, keep, spec.normalisation, spec.max_tokens)

    if spec.sampled_cap and logp_sampled is not None:
        sampled = jnp.where(mask, logp_sampled, logp_old)
        surrogate = surrogate * sampled_weights(logp_old, sampled, spec.sampled_cap)
    ratio = jax.lax.stop_gradient(jnp.exp(moved - logp_old))
    tokens = mask if keep is None else mask & keep[:, None]
    share = tokens.astype(jnp.float32)
    metrics = {
        "policy_surrogate": mean(jax.lax.stop_gradient(surrogate)),
        "ratio": Mean.of(ratio, share),
        "clipped_low": Mean.of((ratio < 1 - low) & (a_BT < 0), share),
        "clipped_high": Mean.of((ratio > 1 + high) & (a_BT > 0), share),
        "kl_old": Mean.of(jax.lax.stop_gradient(k3(logp, logp_old)), share),
    }
    objective = surrogate
    if spec.entropy and entropy is not None:
        objective = objective + spec.entropy * jnp.where(mask, entropy, 0.0)
    if logp_ref is not None:
        kl = k3(logp, jax.lax.stop_gradient(jnp.where(mask, logp_ref, 0.0)))
        metrics["kl_ref"] = Mean.of(jax.lax.stop_gradient(kl), share)
        if spec.beta:
            objective = objective - spec.beta * kl
    return mean(-objective), metrics
