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
from jaxtyping import Array, Bool, Float, Int, Key

from fourd4d.core import metrics as metrics_lib
from fourd4d.core.batch import Batch, ReaderInput
from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.losses import imagery, text_loss
from fourd4d.models import Thinker
from fourd4d.models.imagery_head import Statistic
from fourd4d.train import TrainState, apply_gradients, gradients
from fourd4d.train.state import microbatches


@dataclasses.dataclass(frozen=True)
class DiftSpec:
    """What is minimised, and what is fed on the way.

    Attributes:
      text_weight, imagery_weight: weights of the two losses (0.1 and 1.0 in the paper).
      norm_weight: weight of the squared log ratio of norms; cosine alone fixes only directions.
      centred_weight: weight of the cosine loss without the mean target.
      nce_weight: weight of InfoNCE against all targets of the step.
      nce_temperature, nce_centred, nce_whole: see ``losses.info_nce``.
      self_feed_passes: forward passes in which latents are replaced by the model's own before the
        losses are taken. 0 is teacher forcing; as many passes as a row has latents feeds exactly
        what decoding would feed, and fewer approach it from the first latent on.
      self_feed_from: what the first of these passes is fed. ``targets``: with few passes, all but
        the first latents are then imagined from true ones before them, which also tell what is to
        be imagined. ``mean``, the mean target: nothing is told, as in decoding.
      self_feed_gradient: let the losses move what the model fed itself in these passes.
      reader_share: share of examples in which the reader speaks, where they have one; in the
        others the imaginer says everything. Drawn for each example and step.
      reader_gradient: let the text that the reader speaks move the latents it was fed.
      read_targets: share of examples whose reader is fed true targets in place of the model's own
        latents, in the first update; drawn likewise.
      read_targets_end, read_targets_steps: the share goes there linearly over so many updates; 0
        updates keep it where it is.
    """

    text_weight: float = 0.1
    imagery_weight: float = 1.0
    norm_weight: float = 0.0
    centred_weight: float = 0.0
    nce_weight: float = 0.0
    nce_temperature: float = 0.1
    nce_centred: bool = True
    nce_whole: bool = True
    self_feed_passes: int = 0
    self_feed_from: str = "targets"
    self_feed_gradient: bool = False
    reader_share: float = 1.0
    reader_gradient: bool = True
    read_targets: float = 0.0
    read_targets_end: float = 0.0
    read_targets_steps: int = 0

    def __post_init__(self) -> None:
        for field in ("reader_share", "read_targets", "read_targets_end"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"DiftSpec.{field}", f"bad value {getattr(self, field)}",
                                 "A share is between 0 and 1")
        for field in ("self_feed_passes", "read_targets_steps"):
            if getattr(self, field) < 0:
                raise InputError(f"DiftSpec.{field}", f"bad value {getattr(self, field)}",
                                 "Use 0 or more")
        if self.self_feed_from not in ("targets", "mean"):
            raise InputError("DiftSpec.self_feed_from", f"unknown value {self.self_feed_from!r}",
                             "Use 'targets' or 'mean'")
        if self.nce_temperature <= 0:
            raise InputError("DiftSpec.nce_temperature", f"bad value {self.nce_temperature}",
                             "Use a number above 0")

    def target_share(self, step: Any) -> Any:
        """Return the share of examples that read targets in the update after ``step`` others."""
        if not self.read_targets_steps:
            return self.read_targets
        gone = jnp.minimum(jnp.asarray(step, jnp.float32) / self.read_targets_steps, 1.0)
        return self.read_targets + (self.read_targets_end - self.read_targets) * gone


def draw_reader(batch: Batch, spec: DiftSpec, step: Int[Array, ""] | int,
                key: Key[Array, ""]) -> Batch:
    """The batch with an update's draws: whose reader speaks, and whose reads true targets.

    One draw for each example of a row, by the row's number and the example's in it; the same on
    any mesh.
    """
    if batch.reader is None:
        return batch
    reader, segments = batch.reader, jnp.asarray(batch.segment_ids)

    def drawn(number: int, share: Any) -> Bool[Array, "B L"]:
        own = jax.random.fold_in(jax.random.fold_in(key, step), number)
        chances = jax.random.uniform(own, segments.shape)  # No row holds more examples than tokens.
        return jnp.take_along_axis(chances, jnp.maximum(segments - 1, 0), axis=1) < share

    speaks = drawn(0, spec.reader_share)
    return dataclasses.replace(batch, reader=ReaderInput(
        segment_ids=jnp.where(speaks, reader.segment_ids, 0),
        speaks=reader.speaks & speaks,
        given=drawn(1, spec.target_share(step)) & (segments != 0),
    ))


def latent_places(latent_index: Int[Array, "B L"], count: int
                  ) -> tuple[Int[Array, "B Q"], Float[Array, "B Q"]]:
    """Token at which each latent is fed, and 1 where the row has that latent."""
    at_BLQ = latent_index[:, :, None] == jnp.arange(count)
    return jnp.argmax(at_BLQ, axis=1), jnp.any(at_BLQ, axis=1).astype(jnp.float32)


def imagined_latents(
    model: Thinker, hidden_BLD: Float[Array, "B L D"], latent_index: Int[Array, "B L"], count: int
) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q"]]:
    """What the model imagines for each latent, and 1 where the row has that latent.

    The hidden state at position l - 1 imagines the latent fed at position l.
    """
    places_BQ, present_BQ = latent_places(latent_index, count)
    before_BQ = jnp.maximum(places_BQ - 1, 0)
    hidden_BQD = jnp.take_along_axis(hidden_BLD, before_BQ[:, :, None], axis=1)
    return model.imagine(hidden_BQD), present_BQ


def spoken_hidden(
    model: Thinker, batch: Batch, hidden_BLD: Float[Array, "B L D"],
    own_BQD: Float[Array, "B Q D"], targets_BQD: Float[Array, "B Q D"], spec: DiftSpec,
) -> Float[Array, "B L D"]:
    """The states that tokens are chosen from: the imaginer's, or the reader's where it speaks.

    The reader is fed what the model imagined, or the targets where they are given.
    """
    reader = batch.reader
    if reader is None:
        return hidden_BLD
    places_BQ, _ = latent_places(batch.latent_index, own_BQD.shape[1])
    given_BQ = jnp.take_along_axis(jnp.asarray(reader.given), places_BQ, axis=1)
    own_BQD = own_BQD if spec.reader_gradient else jax.lax.stop_gradient(own_BQD)
    fed_BQD = jnp.where(given_BQ[..., None], targets_BQD.astype(own_BQD.dtype), own_BQD)
    embeds = model.embed(batch.tokens, None, None, batch.latent_index, fed_BQD)
    read_BLD = model.decode(embeds, batch.positions, reader.segment_ids)[0]
    speaks_next = jnp.roll(jnp.asarray(reader.speaks), -1, axis=1)
    return jnp.where(speaks_next[..., None], read_BLD, hidden_BLD)


def loss(
    model: Thinker, batch: Batch, totals: dict[str, Array], spec: DiftSpec,
    bank: imagery.Bank | None = None, rows: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """The batch's share of the whole step's loss, and its metrics.

    ``totals`` holds the weights of the whole step (``text`` tokens, ``latents``, ``images``):
    shares of microbatches then add up to the loss of one big batch.

    Args:
      bank: the whole step's targets; by default the batch's own.
      rows: the batch's rows among those of the whole step, which the bank lists in order.
    """
    features = model.encode(batch.vision)
    images, size = batch.overlays.slot.shape[1], batch.overlays.pool.shape[2]
    count = images * size
    targets_BQD: Any = None
    if count:
        targets_BQD = jax.lax.stop_gradient(model.pool(features, batch.overlays))
        if bank is None or rows is None:
            bank = imagery.Bank.of(targets_BQD, batch.overlays.present(), size)
            rows = jnp.arange(len(batch.tokens))

    def hidden_for(model: Thinker, latents: Any) -> Float[Array, "B L D"]:
        embeds = model.embed(
            batch.tokens, batch.vision_index, features, batch.latent_index, latents
        )
        return model.decode(embeds, batch.positions, batch.segment_ids)[0]

    latents = targets_BQD
    if count and spec.self_feed_passes:
        feeding = model
        if not spec.self_feed_gradient:
            # Weights that carry no gradient: stopped at its end only, each pass would cost double.
            graphdef, weights = nnx.split(model)
            feeding = nnx.merge(graphdef, jax.lax.stop_gradient(weights))
        if spec.self_feed_from == "mean":
            assert bank is not None
            latents = jnp.broadcast_to(jnp.tile(bank.mean(), (images, 1)), targets_BQD.shape
                                       ).astype(targets_BQD.dtype)
        for _ in range(spec.self_feed_passes):
            latents, _ = imagined_latents(
                feeding, hidden_for(feeding, latents), batch.latent_index, count)
    hidden_BLD = hidden_for(model, latents)
    own_BQD: Any = None
    spoken_BLD = hidden_BLD
    if count:
        own_BQD, present_BQ = imagined_latents(model, hidden_BLD, batch.latent_index, count)
        spoken_BLD = spoken_hidden(model, batch, hidden_BLD, own_BQD, targets_BQD, spec)

    text = text_loss(spoken_BLD, model.head(), batch.tokens, batch.text_weights,
                     valid_vocab=model.config.decoder.valid_vocab)
    total = spec.text_weight * text.total / totals["text"]
    metrics = {"text_loss": text}
    if not count:
        return total, metrics

    cosine = imagery.cosine_loss(own_BQD, targets_BQD, present_BQ)
    norm = imagery.norm_loss(own_BQD, targets_BQD, present_BQ)
    total += spec.imagery_weight * cosine.total / totals["latents"]
    total += spec.norm_weight * norm.total / totals["latents"]
    metrics |= {
        "imagery_loss": cosine,
        "norm_loss": norm,
        "cosine": Mean(cosine.weight - cosine.total, cosine.weight),
        "norm_ratio": imagery.norm_ratio(own_BQD, targets_BQD, present_BQ),
    }

    assert bank is not None and rows is not None
    own_NRD = own_BQD.reshape(-1, size, own_BQD.shape[-1])
    told_apart = dict(
        own=(rows[:, None] * images + jnp.arange(images)).reshape(-1), bank=bank,
        weights=batch.overlays.present().reshape(-1))
    if spec.centred_weight:
        centred = imagery.centred_cosine_loss(own_NRD, **told_apart)
        total += spec.centred_weight * centred.total / totals["latents"]
    else:  # Only watched: what has no weight leaves the gradient's program as it was.
        centred = imagery.centred_cosine_loss(jax.lax.stop_gradient(own_NRD), **told_apart)
    if spec.nce_weight:
        nce = imagery.info_nce(own_NRD, temperature=spec.nce_temperature,
                               centred=spec.nce_centred, whole=spec.nce_whole, **told_apart)
        total += spec.nce_weight * nce.total / totals["images" if spec.nce_whole else "latents"]
        metrics["nce_loss"] = nce
    return total, metrics | {
        "centred_cosine": Mean(centred.weight - centred.total, centred.weight),
        "constant_cosine": imagery.constant_cosine(bank, told_apart["weights"]),
        "retrieval": imagery.retrieval(own_NRD, **told_apart),
    }


def step_totals(batch: Batch) -> dict[str, Array]:
    """Weights of a whole step, known before any forward pass because masks are data."""
    return {
        "text": jnp.maximum(jnp.sum(batch.text_weights[:, 1:]), 1.0),
        "latents": jnp.maximum(jnp.sum(batch.latent_index >= 0), 1).astype(jnp.float32),
        "images": jnp.maximum(jnp.sum(batch.overlays.present()), 1.0),
    }


def step_targets(model: Thinker, batch: Batch, parts: int) -> Float[Array, "B Q D"]:
    """The targets of a whole step before centring, ``parts`` microbatches one after the other.

    Only overlays are encoded: frame slots do not see each other.
    """

    def targets(part: Batch) -> Float[Array, "B Q D"]:
        overlays, (rows, count) = part.overlays, part.overlays.slot.shape
        slots = jnp.concatenate([jnp.asarray(x) for x in (overlays.slot, overlays.plain)
                                 if x is not None], axis=1)
        vision = jax.tree.map(lambda x: jnp.take_along_axis(
            x, jnp.maximum(slots, 0).reshape(*slots.shape, *(1,) * (x.ndim - 2)), axis=1),
            part.vision)
        places = jnp.broadcast_to(jnp.arange(2 * count), (rows, 2 * count))
        return model.pool(model.encode(vision), dataclasses.replace(
            overlays, slot=places[:, :count],
            plain=None if overlays.plain is None else places[:, count:]), raw=True)

    dealt = jax.lax.map(targets, microbatches(batch, parts))
    return jnp.moveaxis(dealt, 0, 1).reshape(-1, *dealt.shape[2:])  # Row i was in part i % parts.


def prepared(
    graphdef: Any, state: TrainState, batch: Batch, parts: int
) -> tuple[Any, imagery.Bank | None]:
    """What the losses of a step need of all its microbatches.

    Returns:
      The frozen weights, whose statistics have seen the step's targets; and the step's bank, None
      where the one microbatch makes its own.
    """
    model = nnx.merge(graphdef, *jax.lax.stop_gradient((state.params, state.frozen)))
    overlays = batch.overlays
    centred = model.imagery.centred is not None
    if not overlays.slot.shape[1] or not (centred or parts > 1):
        return state.frozen, None
    raw, present = step_targets(model, batch, parts), overlays.present()
    frozen = state.frozen
    if centred:
        model.imagery.observe(raw, present)
        collected = nnx.state(model, Statistic)
        frozen = nnx.merge_state(frozen, collected)
    return frozen, imagery.Bank.of(
        model.imagery.centre(raw, present), present, overlays.pool.shape[2])


def update(
    state: TrainState, batch: Batch, *, graphdef: Any, tx: optax.GradientTransformation,
    spec: DiftSpec, accumulate: int = 1, seed: int = 0,
) -> tuple[TrainState, dict[str, Mean]]:
    """One optimizer step on a global batch, ``accumulate`` microbatches one after the other.

    ``seed``: of the draws of ``draw_reader``.
    """
    batch = draw_reader(batch, spec, state.step, jax.random.key(seed))
    totals = step_totals(batch)
    frozen, bank = prepared(graphdef, state, batch, accumulate)
    state = dataclasses.replace(state, frozen=frozen)

    def share(params: Any, own: tuple[Batch, Array]) -> tuple[Any, dict[str, Mean]]:
        part, rows = own
        return loss(nnx.merge(graphdef, params, frozen), part, totals, spec, bank, rows)

    total, grads, metrics = gradients(
        share, state.params, (batch, jnp.arange(len(batch.tokens))), accumulate)
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
