"""The benchmark of the RL update: the shared prompt's and the packed responses' gradients."""

import json

from fourd4d.bench.__main__ import main

SMALL = ["--layers", "1", "--prompts", "2", "--group", "4", "--length", "96", "--tokens", "16",
         "--repeats", "1"]


def test_packed_responses_are_compared_with_plain_rows(tmp_path, capsys):
    out = tmp_path / "update.json"
    assert main(["update", *SMALL, "--lengths", "tail", "--mean", "6", "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["max_abs_grad_diff"] < 1e-6 < 1e-3 < metrics["max_abs_grad"]
    assert 0 < metrics["speedup_vs_naive"] and 0 < metrics["padding_share"] < 1
    assert 4 < metrics["mean_length"] < 9
    shown = capsys.readouterr()
    assert "padding_share" in shown.out and "packed:" in shown.err


def test_a_mean_beyond_the_budget_is_refused(capsys):
    assert main(["update", *SMALL, "--lengths", "tail", "--mean", "12"]) == 2
    assert "--mean" in capsys.readouterr().err
