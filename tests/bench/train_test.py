"""The benchmark of a DIFT step beside PyTorch's."""

import json

import pytest

from fourd4d.bench import fit, train
from fourd4d.bench.__main__ import main
from fourd4d.core.batch import Batch
from fourd4d.models import preset, preset_protocol

SMALL = ["--rows", "2", "--frames", "4", "--overlays", "1", "--text", "64", "--repeats", "1"]


def test_the_pytorch_step_is_an_update():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    protocol = preset_protocol("tiny")
    rows = Batch.fake(fit.budget(protocol, 2, 4, 1, 64), protocol)
    once = train.torch_step(preset("tiny"), rows, 0)
    losses = [once() for _ in range(4)]
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[3] > 0.01


@pytest.mark.slow
def test_the_three_steps_are_timed(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert main(["train", *SMALL, "--json", str(tmp_path / "out.json")]) == 0
    metrics = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert 0 < metrics["speedup_vs_torch"] and 0 < metrics["padding_share"] < 1
    assert metrics["speedup_vs_torch_cached"] == pytest.approx(
        metrics["speedup_vs_torch"] * metrics["speedup_cached"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [
    ("train", ["--rows", "2", "--repeats", "1"]),  # Sixteen frames: of one size in both.
    ("rollout", ["--prompts", "2", "--group", "2", "--tokens", "16", "--slots", "1", "--length",
                 "32", "--repeats", "1"])])
def test_another_preset_is_timed_beside(name, flags, tmp_path):
    command = [name, "--no-torch", "--beside", "tiny3", *flags, "--json", str(tmp_path / "out")]
    assert main(command) == 0
    metrics = json.loads((tmp_path / "out").read_text())["metrics"]
    assert 0.8 < metrics["beside_flops"] / metrics["flops"] < 1.3  # The sizes are nearly equal.
    seconds = metrics.get("seconds_per_step", metrics.get("seconds"))
    beside = metrics.get("beside_seconds_per_step", metrics.get("beside_seconds"))
    assert metrics["seconds_per_flop_ratio"] == pytest.approx(
        beside / metrics["beside_flops"] / (seconds / metrics["flops"]))
