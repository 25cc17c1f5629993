"""How close imagined latents come to the overlays' features, and whether they tell these apart.

Vision features share a large common part, so that their mean has a high cosine with each of them.
What a constant cannot meet is measured against other targets, without what they share:
``centred_cosine_loss`` and ``info_nce`` (van den Oord et al. 2018, arXiv 1807.03748).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fourd4d.core.metrics import Mean
from fourd4d.core.struct import AnyArray, pytree

_EPS = 1e-6  # Vectors shorter than this have no direction.
_FLAT = 1e-3  # Nor have deviations of a direction shorter than this.


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


@pytree
class Bank:
    """The targets of a whole step, which predictions are told apart from.

    N mental images of R latents each, wherever in the batch they stand.

    Attributes:
      targets: constant.
      present: 1 where there is an image.
    """

    targets: Float[AnyArray, "N R D"]
    present: Float[AnyArray, "N"]

    @staticmethod
    def of(targets: Float[Array, "*batch D"], present: Any, latent_size: int) -> Bank:
        """Return the bank of targets listed image by image; ``present`` is one per image."""
        wide = jax.lax.stop_gradient(jnp.asarray(targets, jnp.float32))
        return Bank(wide.reshape(-1, latent_size, wide.shape[-1]),
                    jnp.asarray(present, jnp.float32).reshape(-1))

    def mean(self) -> Float[Array, "R D"]:
        """Return the mean of the targets at each place of an image."""
        return self._mean_of(self.targets)

    def direction(self) -> Float[Array, "R D"]:
        """Return the mean of the targets' directions at each place of an image.

        Its length is the highest mean cosine with the targets that a constant reaches.
        """
        return self._mean_of(_directions(self.targets))

    def _mean_of(self, vectors: Float[AnyArray, "N R D"]) -> Float[Array, "R D"]:
        total = jnp.einsum("N,NRD->RD", self.present, vectors, precision="highest")
        return total / jnp.maximum(jnp.sum(self.present), 1.0)

    def deviations(self, vectors: Float[Array, "M R D"]) -> Float[Array, "M R D"]:
        """Return what of the vectors' directions is perpendicular to ``direction``.

        Lengths play no part. Deviations of the targets have the mean 0.
        """
        middle = _directions(self.direction())
        found = _directions(vectors)
        return found - jnp.sum(found * middle, -1, keepdims=True) * middle


def _directions(x: Any) -> Any:
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), _EPS**2))


def _unit(x: Any) -> Any:
    """Directions of deviations; nearly zero where there is hardly any."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + _FLAT**2)


def centred_cosine_loss(predicted: Float[Array, "M R D"], own: Int[Array, "M"], bank: Bank,
                        weights: Float[Array, "M"]) -> Mean:
    """Mean over latents of 1 - the cosine of the ``Bank.deviations`` of prediction and target.

    The mean target, as a constant prediction, gets 1.

    Args:
      own: each prediction's target in the bank.
      weights: 0 for absent images.
    """
    wanted = _unit(bank.deviations(bank.targets))[own]
    cosine = jnp.sum(_unit(bank.deviations(predicted)) * wanted, -1)
    return Mean.of(1.0 - cosine, jnp.broadcast_to(weights[:, None], cosine.shape))


def similarities(predicted: Float[Array, "M R D"], bank: Bank, *, centred: bool = True,
                 whole: bool = True) -> tuple[Float[Array, "_ C"], Float[Array, "C"]]:
    """Cosines of every prediction with every target of the bank, and 1 for those that exist.

    Args:
      centred: of their ``Bank.deviations``.
      whole: compare mental images, as the concatenation of their latents; else single latents,
        image by image.
    """
    turned = bank.deviations if centred else _directions
    mine, theirs = turned(predicted), turned(bank.targets)
    there = bank.present
    if whole:
        mine, theirs = (x.reshape(x.shape[0], -1) for x in (mine, theirs))
    else:
        there = jnp.repeat(there, theirs.shape[1])
        mine, theirs = (x.reshape(-1, x.shape[-1]) for x in (mine, theirs))
    return jnp.matmul(_unit(mine), _unit(theirs).T, precision="highest"), there


def info_nce(predicted: Float[Array, "M R D"], own: Int[Array, "M"], bank: Bank,
             weights: Float[Array, "M"], temperature: float = 0.1, *, centred: bool = True,
             whole: bool = True) -> Mean:
    """Cross-entropy, in nats, of picking the own target out of the bank by ``similarities``.

    A constant prediction gets the logarithm of the number of targets, or worse.

    Args:
      own, weights: as in ``centred_cosine_loss``.
    """
    scores, there = similarities(predicted, bank, centred=centred, whole=whole)
    scores = jnp.where(there > 0, scores / temperature, -1e30)
    if not whole:
        own, weights = _by_latent(own, weights, predicted.shape[1])
    mine = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    return Mean.of(jax.nn.logsumexp(scores, -1) - mine, weights)


def retrieval(predicted: Float[Array, "M R D"], own: Int[Array, "M"], bank: Bank,
              weights: Float[Array, "M"]) -> Mean:
    """Share of mental images that are nearest to their own target: a metric, without gradient.

    Images are compared whole and centred; equal candidates share the hit. Chance is one over the
    number of targets, which any constant prediction gets.
    """
    scores, there = jax.lax.stop_gradient(similarities(predicted, bank))
    scores = jnp.where(there > 0, scores, -1e30)
    best = scores == jnp.max(scores, -1, keepdims=True)
    hit = jnp.take_along_axis(best, own[:, None], axis=1)[:, 0]
    return Mean.of(hit / jnp.sum(best, -1), weights)


def constant_cosine(bank: Bank, weights: Float[Array, "M"]) -> Mean:
    """Highest mean cosine with the bank's targets that a constant reaches."""
    reached = jnp.mean(jnp.linalg.norm(bank.direction(), axis=-1))
    return Mean.of(jnp.broadcast_to(reached, weights.shape), weights)


def _by_latent(own: Any, weights: Any, size: int) -> tuple[Any, Any]:
    """Per image → per latent of the images laid out one after the other."""
    return (own[:, None] * size + jnp.arange(size)).reshape(-1), jnp.repeat(weights, size)
