"""Arms that differ in one thing, a run that resumes, a table that counts right."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data import write_dataset
from rich.console import Console

from configs import dift_imagery_tiny, experiments_imagery, experiments_rows
from fourd4d.config.commands import Stage
from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.source import JsonlSource
from fourd4d.eval.probes.recordings import ArrayStore, Recordings
from fourd4d.eval.probes.run import Outcome, ProbeSpec
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.probes.tables import Material
from fourd4d.experiments import imagery, report, rows
from fourd4d.experiments.__main__ import main_rows
from fourd4d.experiments.arms import ARMS, chosen, write_rows
from fourd4d.processing.latent_spans import insert_spans, span
from fourd4d.processing.media import read_image
from fourd4d.processing.tokenizer import tiny_tokenizer

PAUSE = rows.pause_text(tiny_tokenizer(), 9)
QUIET = Console(quiet=True)
PLACE = re.compile(r" at \d,\d size \d\.")


def short(number: int = 0) -> Sample:
    """A row of the style ``short``, with findings."""
    base = Sample.fake(number)
    return dataclasses.replace(
        base, masks=tuple(f"clip{number}/m{i}.png" for i in range(2)),
        response="<think>Watch the red cube. 0.0s <output_image> at 2,7 size 4. 1.5s <output_image>"
        " at 5,7 size 4. Shift right 3, up 0, size +0. So its motion is Right. A. Left: no."
        f"</think>\n<answer>{base.answer}. {base.answer_text}</answer>")


@pytest.mark.parametrize("aloud", [True, False])
def test_arms_differ_in_what_stands_at_the_images(aloud: bool) -> None:
    """Take that away, and they are one text; no findings are left in any."""
    bare = set()
    for arm in ARMS.values():
        made = arm.row(short(), aloud, PAUSE)
        text = made.response
        assert text.count("<output_image>") == len(made.overlays) == len(made.masks) == (
            2 if arm.imagines else 0)
        assert len(PLACE.findall(text)) == (2 if aloud or arm.told else 0)
        assert text.count(PAUSE) == (2 if arm.paused else 0)
        assert "Shift" not in text and text.endswith(short().response[-30:])
        assert (set(made.frames) == {rows.BLANK}) == (not arm.sees)
        assert (made.question, made.options, made.answer) == (
            short().question, short().options, short().answer)
        bare.add(PLACE.sub("", text.replace(" <output_image>", "").replace(PAUSE, "")))
    assert len(bare) == 1


@pytest.mark.parametrize("size", [4, 9])
def test_a_pause_is_as_long_as_a_mental_image(size: int) -> None:
    words = tiny_tokenizer()
    pause = rows.pause_text(words, size)
    text = "<think>Watch it. 0.0s{} 1.5s{} So up.</think>"
    block = insert_spans(" <output_image>", size)
    assert span(size) in block
    lengths = [len(words.encode(text.format(x, x))) for x in (block, pause)]
    assert lengths[0] == lengths[1]


def test_rows_of_another_style_are_refused() -> None:
    other = dataclasses.replace(short(), response=short().response.replace(" at 2,7 size 4.", ""))
    with pytest.raises(InputError, match="style=short"):
        rows.imagined(other)


def test_blind_rows_have_their_grey_frame(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    write_dataset(source, [short(i) for i in range(3)])
    path = tmp_path / "rows" / "blind.jsonl"
    root = write_rows(ARMS["blind"], JsonlSource(source / "dift.jsonl"), path, False, "")
    made = list(jsonl.read(path))
    assert len(made) == 3 and root == path.parent
    assert read_image(root / made[0].frames[0]).pixels.shape == read_image(
        source / short().frames[0]).pixels.shape
    assert np.unique(read_image(root / made[0].frames[0]).pixels).tolist() == [128]


def test_a_lesson_has_every_row_once_an_arm(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_dataset(tmp_path / "data", [short(i) for i in range(3)])
    plan = experiments_rows.get_config()
    plan.update(dict(data=str(tmp_path / "data" / "dift.jsonl"), output=str(tmp_path / "out"),
                     arms=("imagery", "pause"), together=True))
    main_rows(plan)
    made = JsonlSource(tmp_path / "out" / "lesson.jsonl")
    before = JsonlSource(tmp_path / "data" / "dift.jsonl")
    assert len(made) == 6
    for index in range(6):
        sample, arm = made[index].sample, ARMS[("imagery", "pause")[index % 2]]
        want = arm.row(before[index // 2].sample, True, PAUSE)
        assert sample.id == f"{want.id}_{arm.name}"
        assert (sample.response, sample.overlays, sample.frames) == (
            want.response, want.overlays, want.frames)
    plan.arms = ("text", "blind")
    with pytest.raises(InputError, match="'blind' shows grey frames"):
        main_rows(plan)


def test_unknown_arms_are_named() -> None:
    with pytest.raises(InputError, match="'imagine'"):
        chosen(["imagine"])
    assert set(ARMS) == set(dift_imagery_tiny.ARMS)
    with pytest.raises(ValueError, match="unknown arm 'imagine'"):
        dift_imagery_tiny.get_config("imagine")


def config(workdir: Path, **changes: Any) -> Any:
    value = experiments_imagery.get_config()
    value.lock()
    value.update_from_flattened_dict({
        "workdir": str(workdir), "arms": ("imagery", "text", "blind"), "seeds": (0, 1),
        "phases": ("aloud:2", "silent:3"), "train_clips": 4, "probe": "probe", **changes})
    return value


def test_every_stage_sets_fields_that_its_config_has(tmp_path: Path) -> None:
    plan = config(tmp_path, probe="probe_tiny", arms=tuple(ARMS))
    stages = imagery.data_stages(plan, tmp_path)
    roots = dict(train=tmp_path, test=tmp_path)
    for run in imagery.runs(plan):
        stages += imagery.run_stages(plan, tmp_path, run, roots)
    probes = [stage for stage in stages if stage.verb == "probe"]
    assert [stage.name for stage in probes] == [  # Of those that imagine, each seed.
        f"probe-{arm}-{seed}" for seed in (0, 1) for arm in ("imagery", "published", "markers")]
    assert len(stages) == 2 + 2 * 7 * 3 + len(probes)
    for stage in stages:
        name, _, arm = stage.config.partition(":")
        section = importlib.import_module(f"configs.{name}").get_config(*filter(None, [arm]))
        section.lock()
        for field in stage.fields:
            at = section
            for part in field.split("."):
                at = at[part]  # A misspelt field raises KeyError.
    second = next(s for s in stages if s.name == "dift-imagery-1-1")
    assert second.fields["init"] == tmp_path / "runs" / "imagery-1" / "phase0" / "checkpoints"
    assert second.fields["data.path"].name == "train-silent.jsonl" and second.fields["steps"] == 3


@pytest.mark.parametrize("changes, told", [
    ({"seeds": (0, 0)}, "config.seeds"), ({"phases": ("loud:3",)}, "bad phase 'loud:3'"),
    ({"phases": ("silent:0",)}, "bad phase"), ({"arms": ("text", "text")}, "each once"),
    ({"start": 3}, "a clip to learn from"),
])
def test_bad_values_are_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        imagery.carry_out(config(tmp_path, **changes), QUIET)


def test_a_probe_asks_what_the_evaluation_asked(tmp_path: Path) -> None:
    """The same checkpoint, rows and budget, so that its plain answers are the evaluation's."""
    plan = config(tmp_path, probe="probe_tiny", budget={"max_tokens": 99, "max_latents": 36})
    run = imagery.runs(plan)[0]
    *_, asked, probed = imagery.run_stages(plan, tmp_path, run, dict(train=tmp_path, test=tmp_path))
    assert (asked.name, probed.name) == ("eval-imagery-0", "probe-imagery-0")
    same = set(asked.fields) - {"out", "title", "eval.imagery"}
    assert {key: probed.fields[key] for key in same} == {key: asked.fields[key] for key in same}
    assert probed.fields["eval.max_latents"] == 36 and probed.fields["eval.max_tokens"] == 99
    assert probed.fields["out"] != asked.fields["out"]
    assert "python -m fourd4d.eval probe --config=configs/probe_tiny.py" in probed.shown()


class Commands:
    """In place of real commands: writes what they would write."""

    def __init__(self, broken: str = ""):
        self.ran: list[str] = []
        self.broken = broken

    def __call__(self, stage: Stage, workdir: Path, console: Console) -> float:
        del workdir, console
        self.ran.append(stage.name)
        if stage.name == self.broken:
            raise InputError(stage.name, "it broke")
        if stage.package == "synth":
            stage.fields["output"].mkdir(parents=True)
            write_dataset(stage.fields["output"], [short(i) for i in range(4)])
        if stage.package == "eval":
            assert Path(stage.fields["data"]).is_file()
            self.evaluate(stage)
        return 2.0

    def evaluate(self, stage: Stage) -> None:
        out = Path(stage.fields["out"])
        out.mkdir(parents=True)
        if stage.verb == "probe":
            metrics = dict.fromkeys(report.PROBED, 0.5)
            (out / "probe.json").write_text(json.dumps({"metrics": metrics}))
            return
        right = {"imagery": 4, "text": 2, "blind": 1}[stage.name.split("-")[1]]
        log = [{"evaluation": {"seed": 0}}] + [{
            "key": f"q{i}", "status": "answered", "correct": i < right, "video_id": f"clip{i}",
            "kind": "direction", "tokens": 10, "blocks": 2} for i in range(4)]
        (out / "items-00000-of-00001.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in log))
        (out / "result.json").write_text("{}")


def test_a_failed_run_ends_no_other_and_is_tried_again(tmp_path: Path, monkeypatch: Any) -> None:
    plan, commands = config(tmp_path), Commands(broken="dift-imagery-0-1")
    monkeypatch.setattr(imagery, "run_stage", commands)
    failed = imagery.carry_out(plan, QUIET)
    assert list(failed) == ["imagery-0"]
    assert "eval-imagery-0" not in commands.ran and "probe-imagery-1" in commands.ran
    assert {f"eval-{arm}-{seed}" for arm in ("text", "blind") for seed in (0, 1)} <= set(
        commands.ran)
    result = report.summarise(tmp_path, imagery.runs(plan), failed, imagery.Ledger(tmp_path).done)
    assert result["arms"]["imagery"]["seeds"] == [1] and "it broke" in result["failed"]["imagery-0"]

    monkeypatch.setattr(imagery, "run_stage", again := Commands())
    assert imagery.carry_out(plan, QUIET) == {}
    assert again.ran == ["dift-imagery-0-1", "eval-imagery-0", "probe-imagery-0"]

    monkeypatch.setattr(imagery, "run_stage", Commands())
    with pytest.raises(InputError, match="'dift-imagery-0-0' of another command"):
        imagery.carry_out(config(tmp_path, **{"phases": ("aloud:9",)}), QUIET)


def test_the_table_counts_right(tmp_path: Path, monkeypatch: Any) -> None:
    plan = config(tmp_path)
    monkeypatch.setattr(imagery, "run_stage", Commands())
    imagery.carry_out(plan, QUIET)
    result = report.summarise(tmp_path, imagery.runs(plan), {"text-9": "why"},
                              imagery.Ledger(tmp_path).done)
    arms = result["arms"]
    assert [arms[name]["accuracy"] for name in ("imagery", "text", "blind")] == [1.0, 0.5, 0.25]
    assert arms["imagery"]["minus_text"] == 0.5 and arms["blind"]["minus_text"] == -0.25
    assert arms["imagery"]["minus_text_low"] <= 0.5 <= arms["imagery"]["minus_text_high"]
    assert "minus_text" not in arms["text"]
    assert arms["text"]["accuracy_low"] == 0.0 and arms["text"]["accuracy_high"] == 1.0
    assert arms["imagery"]["train_seconds"] == [4.0, 4.0]
    assert arms["imagery"]["probe_swap_delta"] == [0.5, 0.5] and "cosine" not in arms["text"]
    report.write(result, tmp_path)
    report.show(result, tmp_path, QUIET)
    assert json.loads((tmp_path / "result.json").read_text())["arms"] == arms
    page = (tmp_path / "page.html").read_text()
    assert "text-9" in page and "+50.0" in page


def test_the_table_takes_the_probe_command_s_numbers(tmp_path: Path) -> None:
    """From the file that the command writes, by the names that it gives them; gaps are no zeros."""
    run = imagery.runs(config(tmp_path))[0]
    out = tmp_path / "runs" / run.name / "probe"
    assert report.read_probe(tmp_path, run) == {}
    out.mkdir(parents=True)
    material = Material(Recordings(tmp_path), ArrayStore(tmp_path), {}, {}, np.zeros((0, 9, 1)),
                        np.zeros(1), 9)
    metrics = summarise(Outcome([], {}, {}, {}, material, {}), ProbeSpec(linear=False))["metrics"]
    assert set(report.PROBED) <= set(metrics)
    metrics |= dict.fromkeys(report.PROBED, 0.25) | {"retrieval_top1": None}
    (out / "probe.json").write_text(json.dumps({"metrics": metrics}))
    assert report.read_probe(tmp_path, run) == {
        name: 0.25 for name in report.PROBED if name != "retrieval_top1"}


def test_rows_are_written_by_a_command(tmp_path: Path) -> None:
    """The experiment's own rows, of the arms that are asked for."""
    source = tmp_path / "data"
    source.mkdir()
    write_dataset(source, [short(i) for i in range(3)])
    value = experiments_rows.get_config()
    value.lock()
    value.update_from_flattened_dict({
        "data": str(source / "dift.jsonl"), "output": str(tmp_path / "rows"),
        "arms": ("imagery", "pause"), "aloud": False})
    main_rows(value)
    for name in value.arms:
        made = list(jsonl.read(tmp_path / "rows" / f"{name}.jsonl"))
        assert made == [ARMS[name].row(short(i), False, PAUSE) for i in range(3)]
    value.data = ""
    with pytest.raises(InputError, match="config.data"):
        main_rows(value)
