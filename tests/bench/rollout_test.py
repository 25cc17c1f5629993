"""The rollout benchmark: tail lengths by the engine and by the static loop, token for token."""

import json

from fourd4d.bench.__main__ import main

SMALL = ["rollout", "--lengths", "tail", "--layers", "1", "--prompts", "6", "--group", "2",
         "--length", "32", "--tokens", "16", "--repeats", "1", "--no-torch"]


def test_tail_lengths_say_the_same_in_fewer_turns(tmp_path):
    out = tmp_path / "rollout.json"
    assert main([*SMALL, "--decode_slots", "4", "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["token_mismatches"] == 0 and metrics["max_abs_logp_diff"] < 1e-5
    assert metrics["turns"] < metrics["static_turns"]
    assert 0.5 < metrics["busy_share"] <= 1 and metrics["speedup_vs_static"] > 0
    assert metrics["latents_share"] > 0


def test_slots_that_break_groups_are_refused(capsys):
    assert main([*SMALL, "--decode_slots", "5"]) == 2
    assert "--decode_slots" in capsys.readouterr().err
