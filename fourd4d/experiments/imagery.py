"""Arms × seeds of the imagery experiment: data, rows, trainings, evaluations, one table.

Every step is the command a user would type. What is done is not done again, and an arm that fails
ends nothing but itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fourd4d.config.commands import Stage, run_stage
from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object, replacing
from fourd4d.core.storage import local_only
from fourd4d.data.source import JsonlSource
from fourd4d.experiments import rows
from fourd4d.experiments.arms import Arm, chosen, write_rows
from fourd4d.pretrained.open import SHIPPED
from fourd4d.processing import load_processor


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-{self.seed}"


def runs(config: Any) -> list[Run]:
    """All runs, seed by seed, so that a stopped experiment has whole rows of the table.

    Raises InputError on arms that there are not, and on repeated or no seeds.
    """
    seeds = tuple(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError("config.seeds", f"bad value {seeds}", "Give different whole numbers")
    arms = chosen(config.arms)
    return [Run(arm, seed) for seed in seeds for arm in arms]


def data_stages(config: Any, workdir: Path) -> list[Stage]:
    """The commands that make the clips: to learn from, and of other numbers to be asked about."""
    if config.start < config.train_clips:
        raise InputError("config.start", f"{config.start} is a clip to learn from",
                         f"Use {config.train_clips} or more")
    return [
        Stage("synth-train", "synth", config.synth,
              {"output": workdir / "train", "clips": config.train_clips, "start": 0}),
        Stage("synth-test", "synth", config.synth,
              {"output": workdir / "test", "clips": config.test_clips, "start": config.start}),
    ]


def run_stages(config: Any, workdir: Path, run: Run, roots: dict[str, Path]) -> list[Stage]:
    """The commands of one run: a training for each phase, an evaluation, and a probe.

    Args:
      roots: where the paths of the arm's ``train`` and ``test`` rows start.
    """
    at, arm = workdir / "runs" / run.name, run.arm
    made, start = [], config.base
    for number, (aloud, steps) in enumerate(phases(config)):
        folder = at / f"phase{number}"
        made.append(Stage(f"dift-{run.name}-{number}", "dift", f"{config.recipe}:{arm.name}", {
            "init": start, "workdir": folder, "seed": run.seed, "steps": steps,
            "data.path": rows_file(workdir, arm, "train", aloud),
            "data.root": roots["train"], **config.training.to_dict()}))
        start = folder / "checkpoints"
    asked = {"checkpoint": start, "root": roots["test"],
             "data": rows_file(workdir, arm, "test", phases(config)[-1][0])}
    # The probe's plain run is the evaluation's only with the same room for images.
    asked |= {f"eval.{key}": value for key, value in config.budget.items()}
    made.append(Stage(f"eval-{run.name}", "eval", config.evaluation, {
        **asked, "out": at / "eval", "eval.imagery": arm.imagines,
        "title": f"{arm.name}, seed {run.seed}"}))
    if config.probe and arm.imagines:
        made.append(Stage(f"probe-{run.name}", "eval", config.probe,
                          {**asked, "out": at / "probe"}, verb="probe"))
    return made


def phases(config: Any) -> list[tuple[bool, int]]:
    """(whether places are read aloud, steps) of each phase.

    Raises InputError on a malformed section.
    """
    found = []
    for phase in config.phases:
        kind, _, steps = str(phase).partition(":")
        if kind not in ("aloud", "silent") or not steps.isdecimal() or not int(steps):
            raise InputError("config.phases", f"bad phase {phase!r}",
                             "Write 'aloud:STEPS' or 'silent:STEPS'")
        found.append((kind == "aloud", int(steps)))
    if not found:
        raise InputError("config.phases", "no phase", "Write 'aloud:STEPS' or 'silent:STEPS'")
    return found


def rows_file(workdir: Path, arm: Arm, split: str, aloud: bool) -> Path:
    """Where an arm's rows of a split are."""
    return workdir / "rows" / arm.name / f"{split}-{'aloud' if aloud else 'silent'}.jsonl"


def write_all_rows(config: Any, workdir: Path, arm: Arm, pause: str) -> dict[str, Path]:
    """Write the rows of an arm; returns the root of each split's paths."""
    roots = {}
    for split in ("train", "test"):
        source = JsonlSource(workdir / split / "dift.jsonl")
        for aloud in sorted({aloud for aloud, _ in phases(config)}):
            roots[split] = write_rows(arm, source, rows_file(workdir, arm, split, aloud), aloud,
                                      pause)
    return roots


def pause_of(config: Any) -> str:
    """Dots of as many tokens as a mental image of the recipe."""
    processor = load_processor(_folder(config.base) if not _trained(config.base)
                               else _folder(config.base) / "processor")
    return rows.pause_text(processor.tokenizer, config.latent_size)


def _folder(base: str) -> Path:
    return Path(SHIPPED.get(base, base))


def _trained(base: str) -> bool:
    return (_folder(base) / "processor").is_dir()


class Ledger:
    """Which commands are done, and what they took: ``stages.json`` in the work directory."""

    def __init__(self, workdir: Path):
        self._path = workdir / "stages.json"
        self.done: dict[str, dict[str, Any]] = (
            read_object(self._path, "Delete it to start anew") if self._path.is_file() else {})

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise InputError where a stage was done by another command."""
        for stage in stages:
            before = self.done.get(stage.name)
            if before and before["command"] != stage.shown():
                raise InputError(self._path.parent, f"holds {stage.name!r} of another command:\n"
                                 f"  {before['command']}", "Delete it, or choose another workdir")

    def run(self, stage: Stage, workdir: Path, console: Console) -> None:
        """Run a stage that is not done yet. Raises InputError where it fails."""
        if stage.name in self.done:
            console.print(f"{stage.name}: done before")
            return
        console.print(f"$ {stage.shown()}", soft_wrap=True)
        seconds = run_stage(stage, workdir, console)
        self.done[stage.name] = {"command": stage.shown(), "seconds": seconds}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self.done, indent=2))
        console.print(f"    {seconds:.0f} s")


def carry_out(config: Any, console: Console) -> dict[str, str]:
    """Run what is not done yet. Returns the runs that failed, and why.

    Raises:
      InputError: bad config, a work directory of another experiment, no data.
    """
    workdir = local_only(config.workdir, "the experiments' folder").expanduser().resolve()
    planned, making = runs(config), data_stages(config, workdir)
    pause = pause_of(config) if any(run.arm.paused for run in planned) else ""
    phases(config)  # Bad ones are told before anything is made.
    workdir.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(workdir)
    ledger.check(making)
    for stage in making:
        ledger.run(stage, workdir, console)
    roots = {run.arm.name: write_all_rows(config, workdir, run.arm, pause)
             for run in planned if run.seed == planned[0].seed}
    stages = {run.name: run_stages(config, workdir, run, roots[run.arm.name]) for run in planned}
    for own in stages.values():
        ledger.check(own)
    failed = {}
    for number, (name, own) in enumerate(stages.items(), 1):
        console.print(f"{number}/{len(stages)} {name}")
        try:
            for stage in own:
                ledger.run(stage, workdir, console)
        except InputError as error:
            failed[name] = str(error)
            console.print(f"{name} failed: {error}", style="red", soft_wrap=True)
    return failed
