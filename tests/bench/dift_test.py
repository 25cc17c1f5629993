"""The DIFT benchmark: real steps on the devices here, and what they should cost."""

import json

import pytest

from fourd4d.bench.__main__ import main


def test_steps_are_timed_beside_their_operations(tmp_path):
    out = tmp_path / "dift.json"
    assert main(["dift", "--rows", "8", "--frames", "2", "--text", "32", "--overlays", "1",
                 "--steps", "3", "--mesh", "fsdp=8", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    metrics, shape = result["metrics"], result["context"]["batch"]
    assert result["context"]["mesh"]["fsdp"] == 8 and len(result["context"]["seconds"]) == 3
    assert metrics["tokens_per_second"] == pytest.approx(
        shape["rows"] * shape["length"] / sorted(result["context"]["seconds"])[1])
    # Rematerialisation runs the forward pass again: one part in four more, at most.
    assert metrics["model_flops"] < metrics["hardware_flops"] < 1.4 * metrics["model_flops"]
    assert 0 < metrics["loss"] < 3
