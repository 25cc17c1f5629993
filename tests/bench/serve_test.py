"""The server's benchmark: its keys, and that every answer is the right one."""

import importlib.util
import json

import pytest

from fourd4d.bench.__main__ import main


@pytest.mark.slow
def test_clients_at_once_get_the_answers_of_one_by_one(tmp_path):
    out = tmp_path / "serve.json"
    assert main(["serve", "--clients", "8", "--rounds", "2", "--questions", "8", "--tokens", "32",
                 "--decode_slots", "8", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    metrics = result["metrics"]
    assert result["bench"] == "serve" and metrics["requests"] == 16
    assert metrics["wrong_answers"] == 0
    assert 0 < metrics["p50_seconds"] <= metrics["p95_seconds"]
    assert metrics["speedup_vs_generate"] == pytest.approx(
        metrics["requests_per_second"] / metrics["generate_requests_per_second"])
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        assert metrics["unlike_transformers"] == 0
        assert metrics["speedup_vs_sequential"] == pytest.approx(
            metrics["requests_per_second"] / metrics["sequential_requests_per_second"])
