"""Log-probabilities of a rollout, recomputed in one forward pass with its latents replayed.

The pass feeds at every ``<|latent_pad|>`` the vector that the rollout fed there, so it describes
the sequence that was sampled; at unchanged weights its log-probs are the sampled ones.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.kv_cache import KVCache
from fourd4d.core.rollout import Rollout
from fourd4d.losses.cross_entropy import token_log_probs_and_entropy
from fourd4d.models.thinker import widened
from fourd4d.sampling.distribution import allowed_tokens, full_at
from fourd4d.sampling.loop import (
    last_hidden,
    next_positions,
    prefill,
    prefill_reader,
    prompt_embeddings,
    reader_embeddings,
    reader_rows,
)
from fourd4d.sampling.spec import SamplingSpec


def response_positions(batch: Batch, tokens: int, group: int) -> Int[Array, "3 B T"]:
    """M-RoPE ids of the responses' tokens."""
    start = jnp.repeat(next_positions(batch), group)
    positions = start[:, None] + jnp.arange(tokens)
    return jnp.broadcast_to(positions, (3, *positions.shape))


def response_embeddings(model: Any, rollout: Rollout) -> Float[Array, "B T D"]:
    """What the rollout fed: tokens, and its recorded latents as constants."""
    latents = jax.lax.stop_gradient(jnp.asarray(rollout.latents))
    return model.embed(rollout.tokens, None, None, rollout.latent_index, latents)


def response_hidden(model: Any, batch: Batch, rollout: Rollout, group: int = 1,
                    features: Float[Array, "P F U E"] | None = None) -> Float[Array, "B T D"]:
    """The hidden states that each response token was chosen from, or each latent imagined from.

    Each prompt is read once; the ``group`` responses to it attend to its keys and values.
    """
    first, prefix = prefill(model, batch, features)
    embeds = response_embeddings(model, rollout)
    positions = response_positions(batch, rollout.tokens.shape[1], group)
    segments = jnp.asarray(rollout.mask).astype(jnp.int32)

    def after(prefix: KVCache) -> Float[Array, "B T D"]:
        hidden, _ = model.decode(embeds, positions, segments, prefix=prefix)
        return _shifted(jnp.repeat(first, group, axis=0), hidden)

    hidden = after(prefix)
    reader_prefix = prefill_reader(model, batch)
    if reader_prefix is None:
        return hidden
    return jnp.where(reader_speaks(batch, rollout, group)[..., None], after(reader_prefix), hidden)


def joined_hidden(model: Any, batch: Batch, rollout: Rollout, group: int = 1,
                  features: Float[Array, "P F U E"] | None = None) -> Float[Array, "B T D"]:
    """``response_hidden`` the plain way: every response is one sequence with its prompt's copy."""
    length, tokens = batch.tokens.shape[1], rollout.tokens.shape[1]

    def repeat(x: Any, axis: int = 0) -> Array:
        return jnp.repeat(jnp.asarray(x), group, axis=axis)

    response = response_embeddings(model, rollout)
    positions = jnp.concatenate([repeat(batch.positions, 1),
                                 response_positions(batch, tokens, group)], axis=2)

    def joined(prompt: Array, prompt_segments: Array) -> Float[Array, "B T D"]:
        hidden, _ = model.decode(
            jnp.concatenate([repeat(prompt), widened(response, prompt.shape[-1])], axis=1),
            positions,
            jnp.concatenate([prompt_segments, jnp.asarray(rollout.mask).astype(jnp.int32)],
                            axis=1))
        first = last_hidden(hidden[:, :length], prompt_segments)
        return _shifted(first, hidden[:, length:])

    hidden = joined(prompt_embeddings(model, batch, features), repeat(batch.segment_ids))
    if batch.reader is None:
        return hidden
    read = joined(reader_embeddings(model, batch), repeat(batch.reader.segment_ids))
    return jnp.where(reader_speaks(batch, rollout, group)[..., None], read, hidden)


def reader_speaks(batch: Batch, rollout: Rollout, group: int) -> Bool[Array, "B T"]:
    """Which response tokens the reader chose: text after a row's first latent."""
    latent = jnp.asarray(rollout.latent_index) >= 0
    return reader_rows(batch, group)[:, None] & (jnp.cumsum(latent, axis=1) > 0) & ~latent


def _shifted(first: Float[Array, "B D"], hidden: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """``first``, then all states but the last: token t was chosen from the state at t - 1."""
    return jnp.concatenate([first[:, None], hidden[:, :-1]], axis=1)


def check_replayable(spec: SamplingSpec) -> None:
    """Raises InputError where log-probs cannot be recomputed."""
    if spec.top_p < 1 and spec.temperature > 0:
        raise InputError("SamplingSpec.top_p", f"cannot replay top_p={spec.top_p}",
                         "Sample with top_p=1 what is to be trained on")


def score_hidden(model: Any, hidden: Float[Array, "B T D"], rollout: Rollout, spec: SamplingSpec
                 ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-prob of each sampled token and entropy of the distribution it came from; 0 elsewhere.

    Raises:
      InputError: ``spec.top_p`` below 1; the truncated distribution is not recomputed.
    """
    check_replayable(spec)
    head = model.head()
    blocked = jnp.where(full_at(jnp.asarray(rollout.tokens), spec), spec.latent_start, -1)
    log_probs, entropy = token_log_probs_and_entropy(
        hidden, head, rollout.tokens, temperature=spec.temperature or 1.0,
        allowed=jnp.asarray(allowed_tokens(spec, head.shape[1])), blocked=blocked)
    sampled = jnp.asarray(rollout.sampled)
    return jnp.where(sampled, log_probs, 0.0), jnp.where(sampled, entropy, 0.0)


def replay(model: Any, batch: Batch, rollout: Rollout, spec: SamplingSpec, group: int = 1,
           features: Float[Array, "P F U E"] | None = None) -> Float[Array, "B T"]:
    """Log-probs of the rollout's sampled tokens under ``model``; 0 elsewhere.

    Args:
      batch: the prompts that were sampled from.
      spec, group: as given to ``sample``.
      features: what ``model.encode`` gave for the prompts, if it ran already.
    """
    hidden = response_hidden(model, batch, rollout, group, features)
    return score_hidden(model, hidden, rollout, spec)[0]
