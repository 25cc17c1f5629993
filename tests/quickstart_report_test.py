"""The quickstart's report, from folders such as its stages leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation import PROTOCOL, RIGHT, benchmark

from fourd4d.core.errors import InputError
from fourd4d.eval.items import read_items
from fourd4d.eval.report import summarise
from fourd4d.quickstart import report

ADDED = ("text_only_accuracy", "probe_swap_delta", "probe_zero_delta", "donor_follow_rate",
         "retrieval_top1", "cosine", "constant_cosine")
RIGHTS = {"base": 1, "text": 5, "dift": 6, "rl": 7}  # Of eight questions.
STAGES = {"synth-scenes": {"seconds": 30.0, "command": "python -m fourd4d.synth …"},
          "dift": {"seconds": 200.5, "command": "python -m fourd4d.dift …"}}


def spread(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


LIKENESS = {"images": 16, "warnings": [], **spread("cosine", 0.9),
            **spread("constant_cosine", 0.7), **spread("centred_cosine", 0.6),
            **spread("retrieval_top1", 0.8), "retrieval_top1_chance": 1 / 16}
ALIKE = {"images": 16, "warnings": ["The latents of different clips are alike: their cosine is "
                                    "0.990."], "self_similarity": 0.99}
PROBE = {
    "items": 8, "imagining_share": 1.0, "warnings": [], "content": LIKENESS,
    "verdict": "The answer depends on the latents: they were swapped.",
    "arms": {"zero": {"items": 8, **spread("accuracy_delta", -0.2)},
             "swap_other": {"items": 8, **spread("accuracy_delta", -0.5),
                            **spread("follow_before", 0.1), **spread("follow_after", 0.7)}},
    "metrics": {**spread("probe_swap_delta", -0.5), **spread("probe_zero_delta", -0.2),
                **spread("donor_follow_rate", 0.7), **spread("retrieval_top1", 0.8),
                **spread("cosine", 0.9), **spread("constant_cosine", 0.7)},
}


def write(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    source = benchmark(tmp_path / "data")
    items = read_items(source)
    for name, right in RIGHTS.items():
        records = {item.key: {
            "key": item.key, "number": item.number, "kind": item.kind, "video_id": f"clip{i}",
            "options": 4, "answer": "ABCD"[i % 4], "status": "answered", "reason": "",
            "chosen": "ABCD"[i % 4] if i < right else None, "correct": i < right,
            "lenient": None, "lenient_correct": i < right, "well_formed": True,
            "truncated": False, "blocks": 0 if name == "text" else 2, "tokens": 40,
            "response": RIGHT} for i, item in enumerate(items)}
        write(tmp_path / f"eval-{name}" / "items-00000-of-00001.jsonl",
              {"evaluation": {"seed": 0}}, *records.values())
        write(tmp_path / f"eval-{name}" / "result.json", {
            **summarise(items, records), "benchmark": str(source.path),
            "protocol": PROTOCOL.to_json(),
            "imagery": ALIKE if name == "base" else LIKENESS})
    losses = {"text_loss": 0.5, "cosine": 0.9, "centred_cosine": 0.6, "constant_cosine": 0.7,
              "retrieval": 0.5}
    write(tmp_path / "dift" / "metrics.jsonl", *({"step": i, **losses} for i in (10, 20)))
    write(tmp_path / "dift-text" / "metrics.jsonl",
          *({"step": i, "text_loss": 0.4} for i in (10, 20)))
    write(tmp_path / "rl" / "metrics.jsonl",
          *({"step": i, "reward/answer": 0.5, "logp_diff_max": 1e-4} for i in (1, 2)))
    write(tmp_path / "probe" / "probe.json", PROBE)
    return tmp_path


def test_the_result_gains_these_keys_and_keeps_the_others(workdir: Path) -> None:
    result = report.summarise(workdir, STAGES)
    for name in ADDED:
        assert result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
    assert result["text_only_accuracy"] == 5 / 8 and result["dift_accuracy"] == 6 / 8
    assert result["probe_swap_delta"] == -0.5 and result["donor_follow_rate"] == 0.7
    kept = {f"{stage}_{kind}" for stage in ("base", "dift", "rl")
            for kind in ("accuracy", "lenient_accuracy")}
    kept |= {"chance", "items", "seconds", "stage_seconds"}
    new = {f"{name}{end}" for name in ADDED for end in ("", "_low", "_high")}
    assert kept | new <= set(result) and result["seconds"] == 230.5
    told = "\n".join(report.lines(result))
    assert "text alone: 62.5 %" in told and "-50.0 [-60.0, -40.0] points" in told
    assert "of a constant 0.700" in told


def test_the_page_shows_text_alone_the_probe_and_no_cosine_by_itself(workdir: Path) -> None:
    result = report.summarise(workdir, STAGES)
    page = report.write(workdir, result, STAGES, real_video=False).read_text()
    order = ["Held-out accuracy", "What is gained", "text alone → after DIFT", "+12.5",
             "Does the answer depend on what is imagined?", "The answer depends on the latents",
             "-50.0 [-60.0, -40.0]", "Look out", "Base: The latents of different clips are alike",
             "What is imagined, against what should be", "the best constant&#x27;s cosine",
             "centred cosine (a constant: 0)", "own target nearest among all", "Learning curves",
             "By question type", "What the model thinks after 4DRL", "Where the time went"]
    places = [page.find(words) for words in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_what_cannot_be_told_is_left_out(workdir: Path) -> None:
    """No item imagined anything: no effects, no cosines."""
    nothing = dict.fromkeys(PROBE["metrics"])
    write(workdir / "probe" / "probe.json", PROBE | {
        "metrics": nothing, "arms": {"zero": {"items": 0, "failed": 0}}, "imagining_share": 0.0,
        "verdict": "Nothing can be said: no item has mental images."})
    for name in report.STAGES:
        path = workdir / f"eval-{name}" / "result.json"
        write(path, json.loads(path.read_text()) | {"imagery": {"images": 0, "warnings": []}})
    result = report.summarise(workdir, STAGES)
    assert result["probe_swap_delta"] is None and result["cosine_low"] is None
    assert len(report.lines(result)) == 4
    page = report.write(workdir, result, STAGES, real_video=False).read_text()
    assert "Nothing can be said" in page and "What is imagined, against" not in page


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"overall": 1' + "0" * 400 + "}",
                                  '{"overall": ' + "[" * 100_000])
def test_a_damaged_result_is_told(workdir: Path, text: str) -> None:
    path = workdir / "eval-rl" / "result.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}: .*Delete its folder"):
        report.summarise(workdir, STAGES)
