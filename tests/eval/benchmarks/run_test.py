"""Benchmarks from the command's config to results, tables and pages, with the tiny model."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.bundles import save_as_a_trainer

from configs import eval_heldout
from fourd4d.core.errors import InputError
from fourd4d.eval.__main__ import evaluate, show
from fourd4d.eval.benchmarks import TABLE
from fourd4d.eval.compare import main as compare

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_as_a_trainer(tmp_path_factory.mktemp("checkpoint"))


def config_for(name, checkpoint, root, out, **changes):
    config = eval_heldout.get_config()
    config.checkpoint, config.root, config.out = str(checkpoint), str(root), str(out)
    config.benchmark, config.mesh, config.page_items = name, "data=1", 4
    # A few shapes for whatever fakes ask.
    config.eval.update(max_tokens=12, rows=4, temperature=1.0, length_step=256, slot_step=16)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def dsr(checkpoint, tmp_path_factory):
    """DSR-Bench in every mode, as the command leaves it."""
    root = TABLE["dsr_bench"].fake(tmp_path_factory.mktemp("dsr"))
    out = tmp_path_factory.mktemp("out")
    config = config_for("dsr_bench", checkpoint, root, out,
                        modes="normal,blind,one_frame,shuffled,reversed,mirrored")
    return evaluate(config), out, root


def test_a_blind_line_stands_beside_every_number(dsr):
    found, out, _ = dsr
    rows = {row["mode"]: row for row in found["rows"]}
    assert rows["normal"]["items"] == rows["blind"]["items"] == 5
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(found))
    page = (out / "table.html").read_text()
    assert "blind" in page and "Qwen2.5-VL-7B" in page and "hardest items" in page
    assert "overlap with training data: unknown" in page
    hard = found["hardest"]["4dthinker"]
    assert [one["score"] for one in hard] == sorted(one["score"] for one in hard)
    gone = next(one for one in hard if one["key"] == "4:gone")
    assert gone["evaluations"] == 4 and sum(gone["said"].values()) == 4  # Not the mapped modes.
    assert rows["mirrored"]["items"] < rows["mirrored"]["of"] == 5
    kept = json.loads((out / "needs_video_4dthinker.json").read_text())["keys"]
    assert set(kept) <= {"1:v0", "2:v0", "3:v1", "4:gone", "row 5"} and "row 5" in kept


def test_what_cannot_be_asked_is_listed_and_counted(dsr):
    _, out, _ = dsr
    result = json.loads((out / "4dthinker" / "normal" / "result.json").read_text())
    assert result["overall"]["items"] == 5
    assert {f["key"] for f in result["failed"]} == {"4:gone", "row 5"}
    assert [o["key"] for o in result["oddities"]] == ["row 5"]
    assert "gone.mp4: no such file" in str(result["failed"])
    blind = json.loads((out / "4dthinker" / "blind" / "result.json").read_text())
    assert {f["key"] for f in blind["failed"]} == {"row 5"}  # No video is needed.
    assert result["benchmark_table"]["strict"]["overall"] == result["overall"]["accuracy"]
    page = (out / "4dthinker" / "normal" / "page.html").read_text()
    assert "own table" in page and "Odd rows" in page and "<b>camera</b>" not in page


def test_compare_pairs_two_folders(dsr, capsys, tmp_path):
    _, out, _ = dsr
    folders = [str(out / "4dthinker" / mode) for mode in ("normal", "blind")]
    assert compare([*folders, "--out", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "compare.json").read_text())["all"]
    assert told["items"] == 5 and sum(told["agreement"][k] for k in ("cc", "cw", "wc", "ww")) == 5
    said = capsys.readouterr().out
    assert ("nothing tells" if told["detectable"] is None else "would show a difference") in said
    assert "<table" in (tmp_path / "compare.html").read_text()
    assert compare([folders[0], str(tmp_path)]) == 2
    assert "no items-*.jsonl" in capsys.readouterr().err


def test_runs_have_seeds_of_their_own_and_two_shards_make_one(dsr, checkpoint, tmp_path):
    _, out, root = dsr
    several = evaluate(config_for("dsr_bench", checkpoint, root, tmp_path / "runs", modes="blind",
                                  runs=2))
    (row,) = several["rows"]
    assert row["runs"] == 2 and len(row["accuracy_of_runs"]) == 2
    said = [[json.loads(line).get("response") for line in (
        tmp_path / "runs" / "4dthinker" / "blind" / f"run-{n}" / "items-00000-of-00001.jsonl"
    ).read_text().splitlines()[1:]] for n in (0, 1)]
    assert said[0] != said[1]
    part = dict(modes="blind", shards=2)
    assert evaluate(config_for("dsr_bench", checkpoint, root, tmp_path / "s", shard=1,
                               **part)) is None
    merged = evaluate(config_for("dsr_bench", checkpoint, root, tmp_path / "s", shard=0, **part))
    whole = json.loads((out / "4dthinker" / "blind" / "result.json").read_text())
    for field in ("overall", "benchmark_table", "by_video", "failed", "by_type"):
        assert json.loads(json.dumps(merged[field])) == whole[field]
    with pytest.raises(InputError, match="temperature 0"):
        cold = config_for("dsr_bench", checkpoint, root, tmp_path / "cold", runs=2)
        cold.eval.temperature = 0.0
        evaluate(cold)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(dsr, checkpoint, tmp_path):
    _, _, root = dsr
    changes = dict(modes="blind,one_frame")
    whole = config_for("dsr_bench", checkpoint, root, tmp_path / "whole", **changes)
    whole.eval.rows = 1
    evaluate(whole)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "fourd4d.eval", f"--config={ROOT / 'configs' / 'eval_heldout.py'}",
         *(f"--config.{name}={value}" for name, value in dict(
             checkpoint=checkpoint, root=root, out=killed, benchmark="dsr_bench", mesh="data=1",
             page_items=4, modes="blind,one_frame").items()),
         *(f"--config.eval.{name}={value}" for name, value in dict(
             max_tokens=12, rows=1, temperature=1.0, length_step=1024, slot_step=32).items())],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = killed / "4dthinker" / "blind" / "items-00000-of-00001.jsonl"
    until = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < until and (
            not log.exists() or log.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    told = log.read_bytes().count(b"\n")
    assert 3 <= told and not (killed / "table.json").exists()
    again = config_for("dsr_bench", checkpoint, root, killed, **changes)
    again.eval.rows = 1
    evaluate(again)
    for mode in ("blind", "one_frame"):
        parts = [folder / "4dthinker" / mode / log.name for folder in (killed, tmp_path / "whole")]
        assert parts[0].read_bytes() == parts[1].read_bytes()
    one, other = (json.loads((folder / "table.json").read_text())
                  for folder in (killed, tmp_path / "whole"))
    assert one == other


def test_a_subset_asks_its_items_alone(dsr, checkpoint, tmp_path):
    _, _, root = dsr
    (tmp_path / "keys.json").write_text(json.dumps({"keys": ["1:v0", "3:v1"]}))
    result = evaluate(config_for("dsr_bench", checkpoint, root, tmp_path / "out", modes="blind",
                                 subset=str(tmp_path / "keys.json")))
    assert result["overall"]["items"] == 2


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in ("dyn_bench", "revsi") else name
    for name in sorted(set(TABLE) - {"dsr_bench"})])
def test_every_benchmark_runs_as_its_kit_asks(name, checkpoint, tmp_path, capsys):
    benchmark = TABLE[name]
    root = benchmark.fake(tmp_path / "files")
    protocol = next((p for p in ("kit", "u50") if p in benchmark.protocols), "4dthinker")
    result = evaluate(config_for(name, checkpoint, root, tmp_path / "out", modes="normal",
                                 protocols=protocol))
    rows = benchmark.open(root)
    assert result["overall"]["items"] == len(rows) and result["asked"]["protocol"] == protocol
    broken = [f["reason"] for f in result["failed"]]
    assert all("no such file" in reason for reason in broken), broken
    assert set(result["benchmark_table"]) >= {"strict", "lenient"}
    show(result, "out")
    printed = capsys.readouterr().out
    for known in benchmark.published:
        assert f"published: {known.model}" in printed and known.source in printed
