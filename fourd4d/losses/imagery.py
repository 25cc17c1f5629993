"""How close imagined latents come to the overlays' vision features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fourd4d.core.metrics import Mean

_EPS = 1e-6  # Vectors shorter than this have no direction.


def _squares(predicted: Any, target: Any) -> tuple[Any, Any, Any, Any]:
    p = jnp.asarray(predicted, jnp.float32)
    t = jax.lax.stop_gradient(jnp.asarray(target, jnp.float32))
    # The maximum keeps gradients of all-zero (absent) latents finite.
    p2 = jnp.maximum(jnp.sum(p * p, -1), _EPS**2)
    t2 = jnp.maximum(jnp.sum(t * t, -1), _EPS**2)
    return p, t, p2, t2


def cosine_loss(
    predicted: Float[Array, "*batch D"],
    target: Float[Array, "*batch D"],
    weights: Float[Array, "*batch"],
) -> Mean:
    """Mean over latents of 1 - cos(predicted, target), in float32; the target is constant.

    Entries of weight 0 are absent latents and may hold anything finite.
    """
    p, t, p2, t2 = _squares(predicted, target)
    return Mean.of(1.0 - jnp.sum(p * t, -1) * jax.lax.rsqrt(p2) * jax.lax.rsqrt(t2), weights)


def norm_loss(
    predicted: Float[Array, "*batch D"],
    target: Float[Array, "*batch D"],
    weights: Float[Array, "*batch"],
) -> Mean:
    """Mean over latents of log(‖predicted‖ / ‖target‖)².

    Cosine fixes direction only, while at inference the model is fed its own hidden states; this
    term fixes their length.
    """
    _, _, p2, t2 = _squares(predicted, target)
    return Mean.of(jnp.square(0.5 * (jnp.log(p2) - jnp.log(t2))), weights)


def norm_ratio(
    predicted: Float[Array, "*batch D"],
    target: Float[Array, "*batch D"],
    weights: Float[Array, "*batch"],
) -> Mean:
    """Mean over latents of ‖predicted‖ / ‖target‖: a metric, without gradient."""
    _, _, p2, t2 = jax.lax.stop_gradient(_squares(predicted, target))
    return Mean.of(jnp.sqrt(p2 / t2), weights)
