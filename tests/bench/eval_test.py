"""Evaluating together beside one by one, in small."""

import json

import pytest

from fourd4d.bench.__main__ import main


@pytest.mark.slow
def test_together_the_answers_are_those_of_one_by_one(tmp_path):
    out = tmp_path / "eval.json"
    assert main(["eval", "--videos", "2", "--questions", "4", "--seconds", "2", "--height", "48",
                 "--rate", "8", "--tokens", "8", "--rows", "4", "--repeats", "1",
                 "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["token_mismatches"] == 0 and metrics["items"] == 8
    assert metrics["compiled_while_timed"] == 0
    assert metrics["mean_tokens"] > 4 and metrics["speedup_vs_sequential"] > 0
    assert metrics["items_per_second"] > 0
