"""DIFT: the step's arithmetic, and the trainer through its real entry point."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.dift_config import data, tiny  # noqa: F401  (a fixture)

from configs import dift_tiny
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.dift import step
from fourd4d.dift.__main__ import train
from fourd4d.models import DecoderConfig, ModelConfig, Thinker, VisionConfig, preset
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.train import state_from

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=1, heads=2, mlp=16, full_layers=(0,), patch_size=8,
                        window=16),
    decoder=DecoderConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp=32, vocab=64,
                          mrope_sections=(2, 1, 1), tied=True),
    dtype="float32", remat="none",
)
VISION_FROZEN = (r"(?!vision/).*",)


@pytest.fixture(scope="module")
def batch() -> Batch:
    fake = Batch.fake(BatchShape(4, 24, 3, 1, 1), CONFIG.protocol(), vocab=64)
    return jax.tree.map(jnp.asarray, fake)


@pytest.fixture(scope="module")
def split() -> Any:
    return nnx.split(Thinker(CONFIG, nnx.Rngs(0)))


@pytest.fixture(scope="module")
def one_update(split: Any, batch: Batch) -> Any:
    """accumulate → (state before, state after, metrics) with the vision encoder frozen."""
    graphdef, tree = split
    tx = optax.sgd(0.1)

    @functools.cache
    def run(accumulate: int, axes: str = "data=1") -> Any:
        mesh = make_mesh(axes, jax.devices()[:4])
        with use(mesh):
            before = state_from(tree, tx, mesh, trainable=VISION_FROZEN)
            after, metrics = jax.jit(functools.partial(
                step.update, graphdef=graphdef, tx=tx, spec=step.DiftSpec(norm_weight=0.1),
                accumulate=accumulate))(before, host_to_global(batch, mesh))
        return before, after, {k: float(m.value()) for k, m in metrics.items()}

    return run


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_total_is_the_weighted_sum_of_the_losses(one_update: Any) -> None:
    metrics = one_update(1)[2]
    norm = metrics["norm_loss"]
    assert metrics["loss"] == pytest.approx(
        0.1 * metrics["text_loss"] + metrics["imagery_loss"] + 0.1 * norm, rel=1e-5)
    assert metrics["cosine"] == pytest.approx(1 - metrics["imagery_loss"], abs=1e-5)


def test_accumulation_gives_the_update_of_the_whole_batch(one_update: Any) -> None:
    _, whole, expected = one_update(1)
    _, parts, metrics = one_update(2)
    for a, b in zip(leaves(whole.params), leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("axes", ["data=2,fsdp=2", "fsdp=2,context=2"])
def test_a_step_on_four_devices_is_the_step_on_one(one_update: Any, axes: str) -> None:
    """By rows; by rows and, for long videos, the tokens of each."""
    _, whole, expected = one_update(1)
    _, split, metrics = one_update(1, axes)
    kernel = split.params["decoder"]["blocks"]["gate"]["kernel"].get_value()
    assert kernel.size == 2 * kernel.addressable_shards[0].data.size
    for a, b in zip(leaves(whole.params), leaves(split.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert metrics == pytest.approx(expected, rel=1e-4)


def test_vision_encoder_stays_as_it_was(one_update: Any) -> None:
    before, after, _ = one_update(1)
    assert leaves(before.frozen)
    for a, b in zip(leaves(before.frozen), leaves(after.frozen), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(
        leaves(before.params), leaves(after.params), strict=True))


def test_the_state_before_a_latent_imagines_it(split: Any, batch: Batch) -> None:
    model = nnx.merge(*split)
    hidden = jnp.arange(4 * 24 * 16, dtype=jnp.float32).reshape(4, 24, 16)
    own, present = step.imagined_latents(model, hidden, batch.latent_index, 4)
    start = 12  # Where ``Batch.fake`` puts the block.
    np.testing.assert_array_equal(own, hidden[:, start - 1 : start + 3])
    np.testing.assert_array_equal(present, 1)
    _, absent = step.imagined_latents(model, hidden, jnp.full_like(batch.latent_index, -1), 4)
    np.testing.assert_array_equal(absent, 0)


def test_no_gradient_reaches_the_targets(split: Any, batch: Batch) -> None:
    """An overlay's pixels teach, and are not taught, even when the encoder trains."""
    graphdef, tree = split

    def imagery(patches: Any) -> Any:
        seen = jax.tree.map(lambda x: x, batch)
        object.__setattr__(seen.vision, "patches", patches)
        spec = step.DiftSpec(text_weight=0.0)
        return step.loss(nnx.merge(graphdef, tree), seen, step.step_totals(batch), spec)[0]

    gradient = jax.jit(jax.grad(imagery))(jnp.asarray(batch.vision.patches))
    assert float(jnp.abs(gradient[:, 0]).max()) > 0  # the video's slot
    # The last slot is the overlay: what is fed at the pads is the target, a constant.
    np.testing.assert_array_equal(np.asarray(gradient[:, -1]), 0)


def test_self_feeding_ends_at_what_decoding_would_feed(
    split: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many passes as latents, each fed latent is what the state before it imagines."""
    model, fed = nnx.merge(*split), []
    embed = model.embed

    def remember(*args: Any) -> Any:
        fed.append(args[-1])
        return embed(*args)

    monkeypatch.setattr(type(model), "embed", lambda self, *args: remember(*args))
    spec = step.DiftSpec(self_feed_passes=4)
    step.loss(model, batch, step.step_totals(batch), spec)
    features = model.encode(batch.vision)
    embeds = embed(batch.tokens, batch.vision_index, features, batch.latent_index, fed[-1])
    hidden = model.decode(embeds, batch.positions, batch.segment_ids)[0]
    own, _ = step.imagined_latents(model, hidden, batch.latent_index, 4)
    np.testing.assert_allclose(fed[-1], own, atol=1e-5)
    assert np.abs(np.asarray(fed[0]) - np.asarray(own)).max() > 1e-2  # teacher forcing differs


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: Any) -> Any:
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, train(tiny(data, workdir))


def test_resuming_is_as_if_never_stopped(data: Path, straight: Any, tmp_path: Path) -> None:
    train(tiny(data, tmp_path, steps=2))
    outcome = train(tiny(data, tmp_path))
    assert outcome.step == 4
    for a, b in zip(leaves(straight[1].state), leaves(outcome.state), strict=True):
        np.testing.assert_array_equal(a, b)
    timed = ("seconds_per_step", "tokens_per_second")
    assert [{k: v for k, v in row.items() if k not in timed} for row in lines(tmp_path)] == [
        {k: v for k, v in row.items() if k not in timed} for row in lines(straight[0])]
    # It would go on with its own weights, whatever these are.
    with pytest.raises(InputError, match="start was"):
        train(tiny(data, tmp_path, steps=5, preset="", init=str(straight[0] / "checkpoints")))


def test_losses_fall_and_what_should_be_logged_is(straight: Any) -> None:
    rows = lines(straight[0])
    steps = [row for row in rows if "loss" in row]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"text_loss", "imagery_loss", "cosine", "norm_ratio", "grad_norm",
            "tokens_per_second"} <= set(steps[-1])
    assert [row["step"] for row in rows if "held_out/text_loss" in row] == [2, 4]
    assert list(straight[0].glob("events*"))


def test_checkpoint_opens_for_the_next_stage(straight: Any) -> None:
    mesh = make_mesh("data=1")
    with use(mesh):
        bundle = open_checkpoint(straight[0] / "checkpoints", mesh)
    assert bundle.processor.protocol.suffix == "fourd4d"
    wanted = leaves(nnx.merge_state(straight[1].state.params, straight[1].state.frozen))
    for a, b in zip(leaves(bundle.tree), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_family_with_times_as_text_trains_and_opens(data: Path, tmp_path: Path) -> None:
    train(tiny(data, tmp_path, preset="tiny3", steps=3, **{"data.held_out": ""}))
    rows = lines(tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]
    mesh = make_mesh("data=1")
    with use(mesh):
        bundle = open_checkpoint(tmp_path / "checkpoints", mesh)
    assert bundle.config.vision == preset("tiny3").vision
    assert bundle.processor.protocol.times == "text"


def test_text_only_mode_reads_the_same_rows_without_imagery(data: Path, tmp_path: Path) -> None:
    train(tiny(data, tmp_path, imagery=False, steps=1, **{"data.held_out": ""}))
    (row,) = lines(tmp_path)
    assert "text_loss" in row and "imagery_loss" not in row


def test_each_process_reads_its_own_rows(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def reads(*_: Any, shard: Any, shape: Any, **__: Any) -> Any:
        raise InputError("read", f"share {shard.index} of {shard.count}, {shape.rows} rows")

    monkeypatch.setattr(jax, "process_index", lambda *_: 1)
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    monkeypatch.setattr("fourd4d.dift.__main__.dift_pipeline", reads)
    with pytest.raises(InputError, match="share 1 of 2, 2 rows"):
        train(tiny(data, tmp_path))


@pytest.mark.slow
def test_muon_resumes_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    changes = {"imagery": False, "data.held_out": "", "optimizer.name": "muon"}
    for steps in (1, 2):
        assert train(tiny(data, tmp_path, steps=steps, **changes)).step == steps
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]


def test_bad_configs_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config.init"):
        train(tiny(data, tmp_path, preset=""))
    with pytest.raises(InputError, match="matches none"):
        train(tiny(data, tmp_path, trainable=("eyes/.*",)))
    with pytest.raises(InputError, match="no such directory"):
        train(tiny(data, tmp_path, preset="", init=str(tmp_path / "nowhere")))
    config = dift_tiny.get_config()
    config.dift.text_wait = 1.0
    config.update_from_flattened_dict({
        "init": "", "preset": "tiny", "data.path": str(data), "workdir": str(tmp_path)})
    with pytest.raises(InputError, match="text_wait"):
        train(config)


def test_a_checkpoint_of_another_size_is_refused(data: Path, straight: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(straight[0], tmp_path / "run")
    with pytest.raises(InputError, match="trainable was .*now"):
        train(tiny(data, tmp_path / "run", trainable=(".*",), steps=5))


@pytest.mark.slow
def test_a_run_goes_on_with_the_data_and_weights_it_began_with(
        data: Path, straight: Any, tmp_path: Path) -> None:
    import shutil

    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(straight[0], run)
    shutil.copytree(data.parent, moved)
    less = moved / "less.jsonl"
    less.write_text("\n".join(data.read_text().splitlines()[1:]))
    for changes, words in (({"imagery": False}, "config.imagery was true, now false"),
                           ({"data.pack": 2}, "config.data.pack was 0, now 2"),
                           ({"seed": 1}, "start was"),
                           ({"protocol.suffix": "none"}, "protocol was .*fourd4d"),
                           ({"data.path": str(less)}, "data was 12 rows .*, now 11 rows")):
        with pytest.raises(InputError, match=words):
            train(tiny(data, run, steps=5, **changes))
    # The same rows elsewhere, another batch, another rate: these may change.
    outcome = train(tiny(data, run, steps=5, **{
        "data.path": str(moved / data.name), "optimizer.learning_rate": 1e-5,
        "batch": 2, "data.held_out": ""}))
    assert outcome.step == 5


@pytest.mark.slow
def test_bad_rows_are_left_out_of_a_run_named_and_counted(data: Path, straight: Any,
                                                          tmp_path: Path, caplog: Any) -> None:
    """A malformed line, a missing image: the rest is read as if they had never been there."""
    import shutil

    shutil.copytree(data.parent, tmp_path / "data")
    path, rows = tmp_path / "data" / data.name, data.read_text().splitlines()
    (path.parent / json.loads(rows[3])["image_input"][0]).unlink()
    path.write_text("\n".join([*rows[:7], rows[7][:40], *rows[8:]]) + "\n")
    changes = {"data.held_out": "", "steps": 3, "mesh": "data=1"}
    assert train(tiny(path, tmp_path / "run", **changes)).step == 3
    counts = [row["rows_left_out"] for row in lines(tmp_path / "run") if "rows_left_out" in row]
    assert counts == sorted(counts) and counts[-1] == 2
    for line, words in ((4, "is missing"), (8, "malformed JSON")):
        assert f"left out: {path}:{line}: " in caplog.text and words in caplog.text
    assert "2 rows were left out of training in all" in caplog.text
    train(tiny(path, tmp_path / "stopped", **changes | {"steps": 2}))
    train(tiny(path, tmp_path / "stopped", **changes))
    timed = ("seconds_per_step", "tokens_per_second")
    for one, two in zip(lines(tmp_path / "run"), lines(tmp_path / "stopped"), strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in two.items() if k not in timed}
    with pytest.raises(InputError, match=r":\d+: 1 rows of 12 failed.*max_failed_rows \(now 0"):
        train(tiny(path, tmp_path / "strict", **changes | {
            "data.max_failed_rows": 0, "data.max_failed_share": 0.0}))


def test_what_steers_a_resumed_run_is_told(data: Path, straight: Any, tmp_path: Path,
                                           caplog: Any) -> None:
    import shutil

    shutil.copytree(straight[0], tmp_path / "run")
    assert train(tiny(data, tmp_path / "run", steps=4, **{
        "optimizer.learning_rate": 1e-5, "data.held_out": ""})).step == 4
    assert "from step 4 on with config.optimizer.learning_rate 1e-05; it was 0.0007" in caplog.text
    with pytest.raises(InputError, match="config.optimizer.name was adamw, now muon"):
        train(tiny(data, tmp_path / "run", **{"optimizer.name": "muon"}))
