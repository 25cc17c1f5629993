"""The DIFT step and loop: text by cross-entropy, mental images by cosine similarity.

Source: "4DThinker: Thinking with 4D Imagery for Dynamic Spatial Understanding"
(arXiv 2605.05997), dynamic-imagery fine-tuning.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core import metrics as metrics_lib
from fourd4d.core.batch import Batch
from fourd4d.core.metrics import Mean
from fourd4d.losses import imagery, text_loss
from fourd4d.models import Thinker
from fourd4d.train import TrainState, apply_gradients, gradients


@dataclasses.dataclass(frozen=True)
class DiftSpec:
    """What is minimised.

    Attributes:
      text_weight, imagery_weight: weights of the two losses (0.1 and 1.0 in the paper).
      norm_weight: weight of the squared log ratio of norms; cosine alone fixes only directions.
      self_feed_passes: forward passes in which latents are replaced by the model's own before the
        losses are taken. 0 is teacher forcing; as many passes as a row has latents feeds exactly
        what decoding would feed, and fewer approach it from the first latent on.
    """

    text_weight: float = 0.1
    imagery_weight: float = 1.0
    norm_weight: float = 0.0
    self_feed_passes: int = 0


def imagined_latents(
    model: Thinker, hidden_BLD: Float[Array, "B L D"], latent_index: Int[Array, "B L"], count: int
) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q"]]:
    """What the model imagines for each latent, and 1 where the row has that latent.

    The hidden state at position l - 1 imagines the latent fed at position l.
    """
    at_BLQ = latent_index[:, :, None] == jnp.arange(count)
    before_BQ = jnp.maximum(jnp.argmax(at_BLQ, axis=1) - 1, 0)
    hidden_BQD = jnp.take_along_axis(hidden_BLD, before_BQ[:, :, None], axis=1)
    return model.imagine(hidden_BQD), jnp.any(at_BLQ, axis=1).astype(jnp.float32)


def loss(
    model: Thinker, batch: Batch, totals: dict[str, Array], spec: DiftSpec
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """The batch's share of the whole step's loss, and its metrics.

    ``totals`` holds the weights of the whole step (``text`` tokens, ``latents``): shares of
    microbatches then add up to the loss of one big batch.
    """
    features = model.encode(batch.vision)
    count = batch.overlays.slot.shape[1] * batch.overlays.pool.shape[2]
    targets_BQD: Any = None
    if count:
        targets_BQD = jax.lax.stop_gradient(model.pool(features, batch.overlays))

    def hidden_for(model: Thinker, latents: Any) -> Float[Array, "B L D"]:
        embeds = model.embed(
            batch.tokens, batch.vision_index, features, batch.latent_index, latents
        )
        return model.decode(embeds, batch.positions, batch.segment_ids)[0]

    latents = targets_BQD
    if count and spec.self_feed_passes:
        # Weights that carry no gradient: stopped at its end only, each pass would cost double.
        graphdef, weights = nnx.split(model)
        still = nnx.merge(graphdef, jax.lax.stop_gradient(weights))
        for _ in range(spec.self_feed_passes):
            latents, _ = imagined_latents(
                still, hidden_for(still, latents), batch.latent_index, count)
    hidden_BLD = hidden_for(model, latents)

    text = text_loss(hidden_BLD, model.head(), batch.tokens, batch.text_weights,
                     valid_vocab=model.config.decoder.valid_vocab)
    total = spec.text_weight * text.total / totals["text"]
    metrics = {"text_loss": text}
    if count:
        own_BQD, present_BQ = imagined_latents(model, hidden_BLD, batch.latent_index, count)
        cosine = imagery.cosine_loss(own_BQD, targets_BQD, present_BQ)
        norm = imagery.norm_loss(own_BQD, targets_BQD, present_BQ)
        total += spec.imagery_weight * cosine.total / totals["latents"]
        total += spec.norm_weight * norm.total / totals["latents"]
        metrics |= {
            "imagery_loss": cosine,
            "norm_loss": norm,
            "cosine": Mean(cosine.weight - cosine.total, cosine.weight),
            "norm_ratio": imagery.norm_ratio(own_BQD, targets_BQD, present_BQ),
            **imagery.batch_diagnostics(own_BQD, targets_BQD, present_BQ,
                                        batch.overlays.pool.shape[2]),
        }
    return total, metrics


def step_totals(batch: Batch) -> dict[str, Array]:
    """Weights of a whole step, known before any forward pass because masks are data."""
    return {
        "text": jnp.maximum(jnp.sum(batch.text_weights[:, 1:]), 1.0),
        "latents": jnp.maximum(jnp.sum(batch.latent_index >= 0), 1).astype(jnp.float32),
    }


def update(
    state: TrainState, batch: Batch, *, graphdef: Any, tx: optax.GradientTransformation,
    spec: DiftSpec, accumulate: int = 1,
) -> tuple[TrainState, dict[str, Mean]]:
    """One optimizer step on a global batch, ``accumulate`` microbatches one after the other."""
    totals = step_totals(batch)

    def share(params: Any, part: Batch) -> tuple[Any, dict[str, Mean]]:
        return loss(nnx.merge(graphdef, params, state.frozen), part, totals, spec)

    total, grads, metrics = gradients(share, state.params, batch, accumulate)
    state, norms = apply_gradients(state, grads, tx)
    return state, {"loss": Mean.of(total), **metrics, **norms}


def evaluate(
    params: Any, frozen: Any, batches: Iterable[Batch], *, graphdef: Any, spec: DiftSpec,
    place: Callable[[Batch], Batch],
) -> dict[str, float]:
    """Teacher-forced losses over ``batches``, without a gradient."""
    total: dict[str, Mean] = {}
    for batch in batches:
        total = metrics_lib.add(total, _losses(params, frozen, place(batch), graphdef, spec))
    return metrics_lib.compute(total)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _losses(params: Any, frozen: Any, batch: Batch, graphdef: Any, spec: DiftSpec
            ) -> dict[str, Mean]:
    return loss(nnx.merge(graphdef, params, frozen), batch, step_totals(batch), spec)[1]
