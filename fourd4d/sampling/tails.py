"""Responses of one prompt packed into rows of a fixed width: an update costs what was sampled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fourd4d.core.batch import Batch
from fourd4d.core.kv_cache import KVCache
from fourd4d.core.rollout import Rollout
from fourd4d.core.struct import AnyArray, pytree
from fourd4d.losses.cross_entropy import token_log_probs_and_entropy
from fourd4d.sampling.distribution import allowed_tokens, full_at
from fourd4d.sampling.loop import next_positions, prefill, prefill_reader
from fourd4d.sampling.replay import check_replayable, reader_speaks
from fourd4d.sampling.spec import SamplingSpec

_STEPS = 8  # Row counts are rounded up to this many different ones, so that few are compiled.


@pytree
class Tails:
    """Where the G responses to each of P prompts lie in its n rows of c places.

    Attributes:
      source: which token, g * T + t, lies at a place; -1 for none.
      place: where each token lies, flattened over rows and places; 0 for tokens never recorded.
    """

    source: Int[AnyArray, "P n c"]
    place: Int[AnyArray, "P G T"]


def pack_tails(lengths: Int[np.ndarray, "P G"], tokens: int, width: int = 0) -> Tails:
    """First fit, longest first; as many rows for every prompt as the fullest needs, rounded up.

    Args:
      lengths: recorded tokens of each response.
      tokens: most of them (T).
      width: of a row; by default twice ``tokens``, at least the longest response.
    """
    prompts, group = lengths.shape
    width = max(width or 2 * tokens, int(lengths.max()))
    found: list[list[list[int]]] = []
    for row in lengths:
        bins: list[list[int]] = []
        room: list[int] = []
        for g in np.argsort(-row, kind="stable"):
            fits = [i for i, free in enumerate(room) if free >= row[g]]
            if not fits:
                bins.append([])
                room.append(width)
                fits = [len(bins) - 1]
            bins[fits[0]].append(int(g))
            room[fits[0]] -= int(row[g])
        found.append(bins)
    step = max(1, -(-group * tokens // width) // _STEPS)
    count = -(-max(map(len, found)) // step) * step
    source = np.full((prompts, count, width), -1, np.int32)
    place = np.zeros((prompts, group, tokens), np.int32)
    for p, bins in enumerate(found):
        for i, members in enumerate(bins):
            at = 0
            for g in members:
                n = int(lengths[p, g])
                source[p, i, at : at + n] = g * tokens + np.arange(n)
                place[p, g, :n] = i * width + at + np.arange(n)
                at += n
    return Tails(source, place)


def padding_share(tails: Tails) -> float:
    """Places that hold nothing, of all."""
    return float(np.mean(np.asarray(tails.source) < 0))


def score_packed(model: Any, batch: Batch, rollout: Rollout, tails: Tails, spec: SamplingSpec,
                 features: Float[Array, "P F U E"] | None = None
                 ) -> tuple[Float[Array, "B T"], Float[Array, "B T"], Float[Array, "B T D"]]:
    """``replay.score_hidden``'s log-probs and entropies, and the hidden states they are of.

    Each prompt is read once, its rows of responses attend to it and each response to itself.
    """
    check_replayable(spec)
    group, tokens = tails.place.shape[1:]
    prompts, rows, width = tails.source.shape
    source = jnp.asarray(tails.source).reshape(prompts, -1)
    real, at = source >= 0, jnp.maximum(source, 0)

    def packed(x: Any, empty: Any = 0) -> Array:
        own = jnp.asarray(x).reshape(prompts, group * tokens)
        return jnp.where(real, jnp.take_along_axis(own, at, axis=1), empty)

    def unpacked(x: Array) -> Array:
        own = x.reshape(prompts, rows * width, *x.shape[2:])
        index = jnp.asarray(tails.place).reshape(prompts, -1, *(1,) * (own.ndim - 2))
        return jnp.take_along_axis(own, index, axis=1).reshape(-1, tokens, *own.shape[2:])

    first, prefix = prefill(model, batch, features)
    latents = jax.lax.stop_gradient(jnp.asarray(rollout.latents))
    latent_index = packed(rollout.latent_index, -1)
    latent_index = jnp.where(latent_index >= 0, latent_index + at // tokens * latents.shape[1], -1)
    said = packed(rollout.tokens)
    embeds = model.embed(said, None, None, latent_index,
                         latents.reshape(prompts, -1, latents.shape[-1]))
    positions = next_positions(batch)[:, None] + at % tokens
    positions = jnp.broadcast_to(positions.reshape(-1, width), (3, prompts * rows, width))
    segments = jnp.where(real, at // tokens + 1, 0).reshape(-1, width)
    begins = (at % tokens == 0).reshape(-1, width)

    def after(prefix: KVCache) -> Float[Array, "X c D"]:
        hidden, _ = model.decode(embeds.reshape(-1, width, embeds.shape[-1]), positions, segments,
                                 prefix=prefix)
        before = jnp.concatenate([jnp.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)
        return jnp.where(begins[..., None], jnp.repeat(first, rows, axis=0)[:, None], before)

    hidden = after(prefix)
    reader_prefix = prefill_reader(model, batch)
    if reader_prefix is not None:
        read = packed(reader_speaks(batch, rollout, group)).reshape(-1, width)
        hidden = jnp.where(read[..., None], after(reader_prefix), hidden)
    head = model.head()
    full = packed(full_at(jnp.asarray(rollout.tokens), spec)).reshape(-1, width)
    log_probs, entropy = token_log_probs_and_entropy(
        hidden, head, said.reshape(-1, width), temperature=spec.temperature or 1.0,
        allowed=jnp.asarray(allowed_tokens(spec, head.shape[1])),
        blocked=jnp.where(full, spec.latent_start, -1))
    sampled = jnp.asarray(rollout.sampled)
    return (jnp.where(sampled, unpacked(log_probs), 0.0),
            jnp.where(sampled, unpacked(entropy), 0.0), unpacked(hidden))
