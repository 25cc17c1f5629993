"""DIFT's levers: who speaks, what the reader reads, what is told apart, where gradients flow."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from flax import nnx
from helpers import batches
from helpers.data import sample, write_dataset
from helpers.dift_config import tiny
from ml_collections import ConfigDict

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.data.collate import collate, shape_for
from fourd4d.dift import step as dift
from fourd4d.dift.__main__ import train
from fourd4d.losses import cosine_loss, norm_loss, norm_ratio
from fourd4d.models import DecoderConfig, ImageryConfig, ModelConfig, Thinker, VisionConfig
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.processing.media import Image
from fourd4d.train import state_from

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=1, heads=2, mlp=16, full_layers=(0,), patch_size=4,
                        window=16),
    decoder=DecoderConfig(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=32, vocab=64,
                          mrope_sections=(2, 1, 1), tied=True),
    dtype="float32", remat="none",
)
PROTOCOL = batches.READING
SIZE = PROTOCOL.latent_size
CURE = dift.DiftSpec(nce_weight=0.5, centred_weight=0.3, norm_weight=0.1, read_targets=0.5)


def example(seed: int, overlays: int = 1) -> Example:
    """Two frame slots, mental images, and text before, between and after."""
    made = batches.with_reader(batches.make(seed, length=22, overlays=overlays))
    text = (made.vision_slot < 0) & (made.latent_index < 0)
    return dataclasses.replace(made, text_weights=text.astype(np.float32))


EXAMPLES = [example(seed, overlays=1 + seed % 2) for seed in range(8)]


def batch_of(examples: Any = EXAMPLES, pack: bool = False, protocol: Any = PROTOCOL) -> Batch:
    per = 2 if pack else 1
    shape = BatchShape(len(examples) // per, 24 * per, 4 * per, 1, 2 * per)
    return jax.tree.map(jnp.asarray, collate(examples, shape, protocol, pack=pack))


@pytest.fixture(scope="module")
def split() -> Any:
    return nnx.split(Thinker(CONFIG, nnx.Rngs(0)))


@functools.cache
def jitted(spec: dift.DiftSpec, graphdef: Any) -> Any:
    return jax.jit(lambda tree, batch: dift.loss(
        nnx.merge(graphdef, tree), batch, dift.step_totals(batch), spec))


def losses(split: Any, batch: Batch, spec: dift.DiftSpec = CURE) -> dict[str, float]:
    total, metrics = jitted(spec, split[0])(split[1], batch)
    return {"loss": float(total), **{k: float(m.value()) for k, m in metrics.items()}}


@pytest.fixture(scope="module")
def updates(split: Any) -> Any:
    """(accumulate, mesh) → (weights after an update, metrics)."""
    graphdef, tree = split
    tx = optax.sgd(0.1)

    @functools.cache
    def run(accumulate: int, axes: str = "data=1") -> Any:
        mesh = make_mesh(axes, jax.devices()[:4])
        with use(mesh):
            state = state_from(tree, tx, mesh, trainable=(r"(?!vision/).*",))
            after, metrics = jax.jit(functools.partial(
                dift.update, graphdef=graphdef, tx=tx, spec=CURE, accumulate=accumulate, seed=3))(
                state, host_to_global(jax.tree.map(np.asarray, batch_of()), mesh))
        return ([np.asarray(x) for x in jax.tree.leaves(after.params)],
                {k: float(m.value()) for k, m in metrics.items()})

    return run


@pytest.mark.parametrize("accumulate, axes", [(2, "data=1"), (1, "data=2,fsdp=2")],
                         ids=["accumulated", "on four devices"])
def test_an_update_is_the_same_however_it_is_split(updates: Any, accumulate: int,
                                                   axes: str) -> None:
    """Negatives, mean target and draws are those of the whole step."""
    params, expected = updates(1)
    split_params, metrics = updates(accumulate, axes)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert 0 < expected["retrieval"] < 1 and expected["nce_loss"] > 0.1
    for a, b in zip(params, split_params, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


def test_packed_is_unpacked(split: Any) -> None:
    spec = dataclasses.replace(CURE, read_targets=0.0)
    packed = batch_of(pack=True)
    assert packed.segment_ids.max() == 2
    assert losses(split, packed, spec) == pytest.approx(
        losses(split, batch_of(), spec), rel=1e-4, abs=1e-5)


def spoken(split: Any, batch: Batch, given: bool = False, **spec: Any) -> Any:
    """(frames) → text loss of what the reader says alone."""
    assert batch.reader is not None
    weights = jnp.where(batch.reader.speaks, batch.text_weights, 0.0)
    reader = dataclasses.replace(
        batch.reader, given=jnp.full_like(batch.reader.given, given))
    batch = dataclasses.replace(batch, text_weights=weights, reader=reader)
    only_text = dift.DiftSpec(text_weight=1.0, imagery_weight=0.0, **spec)

    def of(patches: Any) -> Any:
        seen = dataclasses.replace(
            batch, vision=dataclasses.replace(batch.vision, patches=patches))
        return dift.loss(nnx.merge(*split), seen, dift.step_totals(batch), only_text)[0]

    return jax.jit(jax.grad(of))(batch.vision.patches)


def test_frames_reach_the_readers_words_only_through_latents(split: Any) -> None:
    batch = batch_of()
    through = np.asarray(spoken(split, batch))
    assert np.abs(through[:, :2]).max() > 0  # the video's slots
    assert not np.asarray(spoken(split, batch, given=True)).any()
    assert not np.asarray(spoken(split, batch, reader_gradient=False)).any()


def test_the_reader_reads_as_if_there_were_no_frames(split: Any) -> None:
    """Rows without their vision tokens give the same states, as decoding would make them."""
    model, batch = nnx.merge(*split), batch_of()
    assert batch.reader is not None
    own = jax.random.normal(jax.random.key(0), (8, 2 * SIZE, 16))
    hidden = jnp.zeros((8, 24, 16))
    spoken = jax.jit(lambda m: dift.spoken_hidden(m, batch, hidden, own, own, dift.DiftSpec()))(
        model)
    keep = np.asarray(batch.reader.segment_ids[0]) != 0
    assert keep.sum() == 22 - 4 and (np.asarray(batch.reader.segment_ids) != 0).sum() == 8 * 18
    embeds = model.embed(batch.tokens, None, None, batch.latent_index, own)[:, keep]
    bare, _ = model.decode(embeds, batch.positions[:, :, keep], jnp.ones((8, 18), jnp.int32))
    chosen = np.roll(np.asarray(batch.reader.speaks), -1, axis=1)
    np.testing.assert_allclose(spoken[:, keep][chosen[:, keep]], bare[chosen[:, keep]], atol=1e-5)
    assert not np.asarray(spoken)[~chosen].any() and chosen.sum() > 30


def test_the_imaginer_speaks_where_there_is_no_reader(split: Any) -> None:
    plain = batch_of(protocol=batches.PROTOCOL)
    assert plain.reader is None
    spec = dataclasses.replace(CURE, reader_share=0.0)
    drawn = dift.draw_reader(batch_of(), spec, 0, jax.random.key(0))
    without, none = losses(split, plain, spec), losses(split, drawn, spec)
    assert none == pytest.approx(without, rel=1e-5)
    assert losses(split, batch_of(), spec)["text_loss"] != pytest.approx(
        without["text_loss"], rel=1e-3)


def test_given_targets_are_read(split: Any) -> None:
    batch = batch_of()
    assert batch.reader is not None
    given = dataclasses.replace(batch, reader=dataclasses.replace(
        batch.reader, given=jnp.ones_like(batch.reader.given)))
    graphdef, tree = split
    model = nnx.merge(graphdef, tree)
    fed = []

    class Remembering(Thinker):
        def embed(self, *args: Any) -> Any:
            fed.append(args[-1])
            return super().embed(*args)

    model.__class__ = Remembering
    dift.loss(model, given, dift.step_totals(given), dift.DiftSpec())
    targets = model.pool(model.encode(batch.vision), batch.overlays)
    np.testing.assert_allclose(fed[-1], targets, atol=1e-6)
    dift.loss(model, batch, dift.step_totals(batch), dift.DiftSpec())
    present = np.asarray(batch.overlays.slot) >= 0
    assert (np.abs(np.asarray(fed[-1] - targets)).max(-1).reshape(8, -1, SIZE)[present] > 1e-2
            ).all()


def test_draws_are_one_for_each_example() -> None:
    batch = batch_of(EXAMPLES * 16, pack=True)
    assert batch.reader is not None
    spec = dift.DiftSpec(reader_share=0.25, read_targets=0.75)
    drawn = dift.draw_reader(batch, spec, 5, jax.random.key(0)).reader
    assert drawn is not None
    reads, given = [], []
    for row in range(len(batch.tokens)):
        for segment in (1, 2):
            mine = np.asarray(batch.segment_ids[row]) == segment
            sees = np.asarray(drawn.segment_ids[row])[mine] != 0
            before = np.asarray(batch.reader.segment_ids[row])[mine] != 0
            assert (sees == before).all() or not sees.any()
            assert (np.asarray(drawn.speaks[row])[mine]).any() == sees.any()
            reads.append(sees.any())
            given += np.unique(np.asarray(drawn.given[row])[mine]).tolist()
    assert len(given) == len(reads) == 128
    pairs = np.asarray(given).reshape(-1, 2)
    assert (pairs[:, 0] != pairs[:, 1]).any()  # Neighbours in a row are drawn apart.
    assert 0.13 < np.mean(reads) < 0.4 and 0.6 < np.mean(given) < 0.87
    again = dift.draw_reader(batch, spec, 5, jax.random.key(0)).reader
    later = dift.draw_reader(batch, spec, 6, jax.random.key(0)).reader
    assert again is not None and later is not None
    np.testing.assert_array_equal(again.given, drawn.given)
    assert (np.asarray(later.given) != np.asarray(drawn.given)).any()
    whole = dift.draw_reader(batch, dift.DiftSpec(read_targets=1.0), 5, jax.random.key(0)).reader
    assert whole is not None
    np.testing.assert_array_equal(whole.segment_ids, batch.reader.segment_ids)
    np.testing.assert_array_equal(whole.given, np.asarray(batch.segment_ids) != 0)


def test_the_share_of_targets_is_annealed() -> None:
    spec = dift.DiftSpec(read_targets=0.8, read_targets_end=0.2, read_targets_steps=100)
    shares = [float(spec.target_share(step)) for step in (0, 50, 100, 900)]
    assert shares == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert dift.DiftSpec(read_targets=0.8).target_share(7) == 0.8


def test_gradient_flows_through_what_is_self_fed_if_wanted(split: Any) -> None:
    batch = batch_of(protocol=batches.PROTOCOL)
    graphdef, tree = split

    def gradient(**spec: Any) -> Any:
        chosen = dift.DiftSpec(self_feed_passes=2, **spec)
        return jax.jit(jax.value_and_grad(lambda tree: dift.loss(
            nnx.merge(graphdef, tree), batch, dift.step_totals(batch), chosen)[0]))(tree)

    (stopped, one), (flowing, other) = gradient(), gradient(self_feed_gradient=True)
    assert float(stopped) == pytest.approx(float(flowing), rel=1e-6)
    gap = max(float(jnp.abs(a - b).max()) for a, b in zip(
        jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert gap > 1e-4


@pytest.mark.parametrize("fed, told", [("targets", True), ("mean", False)])
def test_from_the_mean_nothing_tells_what_is_to_be_imagined(
        split: Any, monkeypatch: pytest.MonkeyPatch, fed: str, told: bool) -> None:
    """Two rows exchange their targets: what is fed, and so what is said, must not change."""
    graphdef, tree = split
    batch, pool = batch_of(EXAMPLES[1:4:2]), Thinker.pool
    spec = dift.DiftSpec(self_feed_passes=1, self_feed_from=fed)

    def text_loss() -> float:
        _, metrics = dift.loss(nnx.merge(graphdef, tree), batch, dift.step_totals(batch), spec)
        return float(metrics["text_loss"].value())

    own = text_loss()
    monkeypatch.setattr(Thinker, "pool", lambda *args: jnp.flip(pool(*args), 0))
    assert (abs(text_loss() - own) > 1e-6) == told


@pytest.mark.parametrize("field", [
    {"self_feed_from": "nothing"}, {"read_targets": 1.5}, {"reader_share": -0.1},
    {"nce_temperature": 0.0}, {"read_targets_steps": -1}, {"self_feed_passes": -1},
])
def test_bad_values_are_named(field: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"DiftSpec.{next(iter(field))}"):
        dift.DiftSpec(**field)


def test_what_an_overlay_adds_is_left_without_its_frame(split: Any) -> None:
    model = nnx.merge(*split)
    overlays = batch_of(protocol=batches.PROTOCOL).overlays
    features = jax.random.normal(jax.random.key(0), (8, 4, 4, 16))
    plain = jnp.where(overlays.slot >= 0, 1, -1)
    left = model.pool(features, dataclasses.replace(overlays, plain=plain))
    painted = model.pool(features, overlays)
    under = model.pool(features, dataclasses.replace(overlays, slot=plain))
    np.testing.assert_allclose(left, painted - under, atol=1e-6)
    np.testing.assert_array_equal(
        model.pool(features, dataclasses.replace(overlays, plain=overlays.slot)), 0)


@pytest.mark.parametrize("parts", [1, 2])
def test_targets_of_a_step_are_those_of_its_parts(split: Any, parts: int) -> None:
    model, batch = nnx.merge(*split), batch_of(protocol=batches.PROTOCOL)
    plain = jnp.where(batch.overlays.slot >= 0, 1, -1)
    batch = dataclasses.replace(batch, overlays=dataclasses.replace(batch.overlays, plain=plain))
    found = jax.jit(dift.step_targets, static_argnums=2)(model, batch, parts)
    np.testing.assert_allclose(
        found, model.pool(model.encode(batch.vision), batch.overlays), atol=1e-5)


CENTRED = dataclasses.replace(CONFIG, imagery=ImageryConfig(centred=SIZE))


@pytest.mark.slow
def test_the_mean_target_is_collected_and_taken_off() -> None:
    graphdef, tree = nnx.split(Thinker(CENTRED, nnx.Rngs(0)))
    bare = nnx.merge(*nnx.split(Thinker(CONFIG, nnx.Rngs(0))))
    halves = [batch_of(EXAMPLES[:4]), batch_of(EXAMPLES[4:])]
    raw = [bare.pool(bare.encode(half.vision), half.overlays) for half in halves]
    there = [np.asarray(half.overlays.slot) >= 0 for half in halves]
    images = np.concatenate([np.asarray(r).reshape(4, -1, SIZE, 16)[t]
                             for r, t in zip(raw, there, strict=True)])
    assert len(images) == 12
    tx = optax.sgd(0.0)
    state = state_from(tree, tx, make_mesh("data=1", jax.devices()[:1]),
                       trainable=(r"(?!vision/).*",))
    assert "imagery" not in state.params  # A statistic is not trained.
    for accumulate, half in zip((1, 2), halves, strict=True):
        state, metrics = jax.jit(functools.partial(
            dift.update, graphdef=graphdef, tx=tx, spec=CURE, accumulate=accumulate))(state, half)
    model = nnx.merge(graphdef, state.params, state.frozen)
    np.testing.assert_allclose(model.imagery.mean[...], images.mean(0), atol=1e-5)
    assert float(model.imagery.seen[...]) == 12
    targets = np.asarray(model.pool(model.encode(halves[1].vision), halves[1].overlays))
    expected = (np.asarray(raw[1]).reshape(4, -1, SIZE, 16) - images.mean(0))
    np.testing.assert_allclose(targets.reshape(expected.shape),
                               expected * there[1][..., None, None], atol=1e-5)
    own = losses((graphdef, nnx.state(model)), dift.draw_reader(
        halves[1], CURE, 1, jax.random.key(0)))
    assert own["cosine"] == pytest.approx(float(metrics["cosine"].value()), abs=1e-5)


@pytest.mark.parametrize("head, reached", [("identity", False), ("mlp", True)])
def test_a_head_can_match_the_targets_length(head: str, reached: bool) -> None:
    """Behind the final norm, only a trained head can change a hidden state's length."""
    width = CONFIG.decoder.width
    config = dataclasses.replace(CONFIG, imagery=ImageryConfig(head, 32 if reached else 0))
    graphdef, tree = nnx.split(Thinker(config, nnx.Rngs(0)).imagery)
    hidden = jax.random.normal(jax.random.key(0), (64, width))
    hidden /= jnp.sqrt(jnp.mean(hidden**2, -1, keepdims=True))
    targets = hidden / 0.6 + 0.1 * jax.random.normal(jax.random.key(1), hidden.shape)
    tx = optax.adam(2e-3)

    def loss(tree: Any) -> Any:
        own, ones = nnx.merge(graphdef, tree)(hidden), jnp.ones(64)
        return cosine_loss(own, targets, ones).value() + 0.1 * norm_loss(
            own, targets, ones).value()

    def one(carry: Any, _: None) -> Any:
        tree, state = carry
        updates, state = tx.update(jax.grad(loss)(tree), state)
        return (optax.apply_updates(tree, updates), state), None

    (tree, _), _ = jax.jit(lambda t: jax.lax.scan(one, (t, tx.init(t)), None, 300))(tree)
    ratio = float(norm_ratio(nnx.merge(graphdef, tree)(hidden), targets, jnp.ones(64)).value())
    assert ratio == pytest.approx(1.0 if reached else 0.6, abs=0.05)


@pytest.mark.parametrize("flows", [True, False])
def test_a_constant_head_feeds_one_trained_vector(flows: bool) -> None:
    config = dataclasses.replace(CONFIG, imagery=ImageryConfig("constant"))
    graphdef, tree = nnx.split(Thinker(config, nnx.Rngs(0)))
    model = nnx.merge(graphdef, tree)
    latents = model.imagine(jax.random.normal(jax.random.key(0), (3, 5, config.decoder.width)))
    np.testing.assert_array_equal(latents, jnp.broadcast_to(model.imagery.constant[...],
                                                            latents.shape))
    batch = batch_of(protocol=batches.PROTOCOL)
    spec = dift.DiftSpec(text_weight=1.0, imagery_weight=0.0, self_feed_passes=1,
                         self_feed_gradient=flows)
    gradient = jax.jit(jax.grad(lambda tree: dift.loss(
        nnx.merge(graphdef, tree), batch, dift.step_totals(batch), spec)[0]))(tree)
    assert (float(jnp.abs(gradient["imagery"]["constant"][...]).max()) > 1e-6) == flows


@pytest.fixture(scope="module")
def painted(tmp_path_factory: Any) -> Path:
    """Rows whose overlays know their frames and masks."""
    root, rows = tmp_path_factory.mktemp("painted"), []
    for number in range(8):
        row = sample(number, frames=4)
        masks = tuple(f"clip{number}/m{i}.png" for i in range(len(row.overlays)))
        rows.append(dataclasses.replace(row, overlay_timestamps=(0.0, 1.5), masks=masks))
    path = write_dataset(root, rows)
    for row in rows:
        for name in row.masks:
            PIL.Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(root / name)
    return path


@pytest.mark.slow
def test_levers_from_the_command_to_the_checkpoint(painted: Path, tmp_path: Path) -> None:
    """What a run was trained with, decoding finds in the checkpoint; a run resumes with it."""
    def config(steps: int) -> Any:
        made = tiny(painted, tmp_path, steps=steps, **{"data.pack": 2, "mesh": "data=1"})
        made.unlock()
        made.protocol.update(reader="blind", target="difference", region="mask", pooling="grid",
                             latent_size=9)
        made.model.imagery = ConfigDict(dict(centred=9))
        made.dift.update(nce_weight=0.5, centred_weight=0.5, read_targets=0.5,
                         read_targets_steps=2, self_feed_passes=1, self_feed_gradient=True)
        made.lock()
        return made

    assert train(config(1)).step == 1
    assert train(config(2)).step == 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {"retrieval", "centred_cosine", "constant_cosine", "norm_ratio", "cosine", "nce_loss"}
    assert logged <= set(rows[-1]) | set(rows[-2])
    assert "held_out/retrieval" in {key for row in rows for key in row}

    mesh = make_mesh("data=1")
    with use(mesh):
        bundle = open_checkpoint(tmp_path / "checkpoints", mesh)
        headed = open_checkpoint(tmp_path / "checkpoints", mesh,
                                 imagery={"head": "mlp", "mlp": 8})
    assert bundle.processor.protocol.reader == "blind"
    assert float(bundle.model.imagery.seen[...]) == 2 * 4 * 2
    hidden = jnp.ones((1, bundle.config.decoder.width), headed.config.dtype)
    np.testing.assert_array_equal(headed.model.imagine(hidden), hidden)
    np.testing.assert_array_equal(headed.model.imagery.mean[...], bundle.model.imagery.mean[...])
    prompt = bundle.processor.prompt("Which way?", [Image(np.zeros((32, 32, 3), np.uint8))])
    batch = collate([prompt], shape_for([prompt]), bundle.processor.protocol)
    assert batch.reader is not None and batch.reader.segment_ids.any()

    other = config(3)
    with other.unlocked():
        other.protocol.latent_size = 4
        other.workdir = str(tmp_path / "other")
    with pytest.raises(InputError, match="keeps the means of 9 latents"):
        train(other)
