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


def batch_diagnostics(
    predicted: Float[Array, "B Q D"],
    target: Float[Array, "B Q D"],
    weights: Float[Array, "B Q"],
    image: int,
) -> dict[str, Mean]:
    """Return what tells imagining from saying the same everywhere: metrics, without gradient.

    Targets of different clips are alike (their cosine is about 0.9), so that the plain cosine is
    met by a constant. Beside it stand

      ``constant_cosine``  the cosine that the batch's mean target reaches: to be exceeded;
      ``centred_cosine``   of what is left without the mean target, predictions at its length; a
                           constant reaches 0;
      ``retrieval``        share of mental images that are nearer, centred, to their own target than
                           to any other of the batch; chance is one over their number.

    Args:
      image: latents of one mental image; Q is a multiple of it.
    """
    p, t, p2, t2 = jax.lax.stop_gradient(_squares(predicted, target))
    count = jnp.maximum(jnp.sum(weights), 1.0)
    mean_D = jnp.sum(t * weights[..., None], (0, 1)) / count
    length = jnp.sum(jnp.sqrt(t2) * weights) / count
    own, truth = p * jax.lax.rsqrt(p2)[..., None] * length - mean_D, t - mean_D

    def cosines(a: Any, b: Any) -> Any:
        sizes = jnp.maximum(jnp.sum(a * a, -1) * jnp.sum(b * b, -1), _EPS**4)
        return jnp.sum(a * b, -1) * jax.lax.rsqrt(sizes)

    def whole(x: Any) -> Any:
        flat = x.reshape(-1, image * x.shape[-1])
        return flat * jax.lax.rsqrt(jnp.maximum(jnp.sum(flat * flat, -1, keepdims=True), _EPS**2))

    there = weights.reshape(-1, image)[:, 0]
    scores = jnp.where(there[None] > 0, whole(own) @ whole(truth).T, -2.0)
    nearest = jnp.argmax(scores, -1) == jnp.arange(len(scores))
    return {
        "constant_cosine": Mean.of(cosines(jnp.broadcast_to(mean_D, t.shape), t), weights),
        "centred_cosine": Mean.of(cosines(own, truth), weights),
        "retrieval": Mean.of(nearest.astype(jnp.float32), there),
    }
