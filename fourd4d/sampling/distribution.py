"""The distribution that text tokens are drawn from, stated once for sampling and replay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fourd4d.core.struct import AnyArray, pytree
from fourd4d.sampling.spec import SamplingSpec

# Finite, so that a masked logit times a zero weight is zero and not NaN.
MASKED = -1e30


@pytree
class RowDraws:
    """How each row draws, where rows differ; fields as in ``SamplingSpec``, whose own are unused.

    Attributes:
      imagery: False never imagines; True only where the spec's is.
    """

    temperature: Float[AnyArray, "*rows"]
    top_p: Float[AnyArray, "*rows"]
    imagery: Bool[AnyArray, "*rows"]


def allowed_tokens(spec: SamplingSpec, rows: int) -> Bool[np.ndarray, "V"]:
    """Which of the head's ``rows`` tokens a row may draw while it may still imagine."""
    allowed = np.arange(rows) < spec.vocab
    allowed[list(spec.forbidden)] = False
    if spec.max_blocks == 0:
        allowed[spec.latent_start] = False
    return allowed


def restrict(logits: Float[Array, "B V"], full: Bool[Array, "B"],
             spec: SamplingSpec) -> Float[Array, "B V"]:
    """Masks the tokens that a row may not draw. ``full``: no room for another block."""
    allowed = jnp.asarray(allowed_tokens(spec, logits.shape[-1]))
    start = jnp.arange(logits.shape[-1]) == spec.latent_start
    return jnp.where(allowed & ~(full[:, None] & start), logits, MASKED)


def nucleus(logits: Float[Array, "B V"], top_p: float | Float[Array, "B 1"]
            ) -> Float[Array, "B V"]:
    """Masks all but the fewest most probable tokens whose mass reaches ``top_p``.

    Tokens as probable as the last one kept are kept too.
    """
    ordered = -jnp.sort(-logits, axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    last = jnp.sum(mass < top_p, axis=-1, keepdims=True)
    edge = jnp.take_along_axis(ordered, jnp.minimum(last, logits.shape[-1] - 1), axis=-1)
    return jnp.where(logits >= edge, logits, MASKED)


def draw(logits: Float[Array, "B V"], keys: Key[Array, "B"], full: Bool[Array, "B"],
         spec: SamplingSpec, own: RowDraws | None = None
         ) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """One token a row, by the row's own key, and its log-probability.

    Args:
      own: each row's settings; a row's token is that of a spec with these.
    """
    if own is not None:
        return _draw_by_row(logits, keys, full, spec, own)
    logits = restrict(logits.astype(jnp.float32) / (spec.temperature or 1.0), full, spec)
    if spec.temperature == 0:
        tokens = jnp.argmax(logits, axis=-1)
    else:
        if spec.top_p < 1:
            logits = nucleus(logits, spec.top_p)
        tokens = _first_largest(logits + _noise(keys, logits))
    return _chosen(logits, tokens)


def _draw_by_row(logits: Array, keys: Array, full: Array, spec: SamplingSpec, own: RowDraws
                 ) -> tuple[Any, Any]:
    """Sorting and noise cost as much as a small model: both only where some row wants them."""
    warm = (own.temperature > 0)[:, None]
    heat = jnp.where(warm, own.temperature[:, None], 1.0)
    logits = restrict(logits.astype(jnp.float32) / heat, full | ~own.imagery, spec)
    cut = warm & (own.top_p < 1)[:, None]
    logits = jax.lax.cond(
        jnp.any(cut), lambda x: jnp.where(cut, nucleus(x, own.top_p[:, None]), x), lambda x: x,
        logits)
    tokens = jax.lax.cond(
        jnp.any(warm),
        lambda x: _first_largest(jnp.where(warm, x + _noise(keys, x), x)),
        lambda x: jnp.argmax(x, axis=-1), logits)
    return _chosen(logits, tokens)


def _noise(keys: Key[Array, "B"], logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    return jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(keys)


def _first_largest(x: Float[Array, "B V"]) -> Int[Array, "B"]:
    """``argmax``. Used twice, ``x`` is not fused into the search, in which a CPU would take the
    logarithms of its noise one by one."""
    return jnp.argmax(x == jnp.max(x, axis=-1, keepdims=True), axis=-1)


def _chosen(logits: Float[Array, "B V"], tokens: Int[Array, "B"]
            ) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, axis=-1)


def full_at(tokens: Int[Array, "B T"], spec: SamplingSpec) -> Bool[Array, "B T"]:
    """Where a row had no room for another block when it chose its token: counts block starts."""
    starts = tokens == spec.latent_start
    before = jnp.cumsum(starts, axis=1) - starts
    return before >= spec.max_blocks
