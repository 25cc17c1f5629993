"""The table of an experiment: terminal, JSON and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from fourd4d.core.environment import environment
from fourd4d.core.files import read_object, replacing
from fourd4d.eval.items import Record, read_log
from fourd4d.eval.statistics import Difference, paired_bootstrap
from fourd4d.experiments.arms import ARMS, BASELINE
from fourd4d.experiments.imagery import Run
from fourd4d.pages import Bar, Bars, Interval, Number, Page

PROBED: Final = ("probe_swap_delta", "donor_follow_rate", "probe_zero_delta", "retrieval_top1",
                 "cosine", "constant_cosine")
"""Names under ``metrics`` of a probe's ``probe.json`` that the table takes over."""
_LOG: Final = "items-00000-of-00001.jsonl"
_DRAWS: Final = 4000


def read_records(workdir: Path, run: Run) -> dict[str, Record] | None:
    """The evaluation's records by item; None where it is not finished."""
    out = workdir / "runs" / run.name / "eval"
    if not (out / "result.json").is_file():
        return None
    return read_log(out / _LOG)[1]


def read_probe(workdir: Path, run: Run) -> dict[str, float]:
    """What the probe of a run measured; empty where there is none."""
    path = workdir / "runs" / run.name / "probe" / "probe.json"
    if not path.is_file():
        return {}
    metrics = read_object(path, "Probe again").get("metrics", {})
    return {name: float(metrics[name]) for name in PROBED if metrics.get(name) is not None}


def difference(before: Sequence[Mapping[str, Record] | None],
               after: Sequence[Mapping[str, Record]], kinds: Sequence[str] = ()) -> Difference:
    """What ``after`` gains in accuracy over ``before``, seed by seed on the same items.

    Clips are resampled whole, with all seeds of all their questions: the interval is of the
    questions, for these seeds.

    Args:
      before: None stands for no right answer: the gain is the accuracy itself.
      kinds: only these question types.
    """
    a, b, groups = [], [], []
    for old, new in zip(before, after, strict=True):
        for key, record in new.items():
            if kinds and record["kind"] not in kinds:
                continue
            a.append(0.0 if old is None else float(old[key]["correct"]))
            b.append(float(record["correct"]))
            groups.append(record["video_id"] or key)
    return paired_bootstrap(a, b, groups, _DRAWS)


def summarise(workdir: Path, planned: Sequence[Run], failed: Mapping[str, str],
              stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``result.json`` holds: numbers of every arm that has one finished run or more.

    Arms are compared with ``text`` over the seeds that both have.

    Args:
      failed: why, by the run's name.
      stages: by name, with the ``seconds`` each took.
    """
    found = {run.name: read_records(workdir, run) for run in planned}
    base = {run.seed: found[run.name] for run in planned if run.arm.name == BASELINE}
    arms = {}
    for name in dict.fromkeys(run.arm.name for run in planned):
        own = [(run, records) for run in planned
               if run.arm.name == name and (records := found[run.name]) is not None]
        if own:
            arms[name] = _arm(workdir, own, base, stages)
    return {"arms": arms, "failed": dict(failed), **environment()}


def _arm(workdir: Path, own: Sequence[tuple[Run, dict[str, Record]]],
         base: Mapping[int, dict[str, Record] | None],
         stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    records = [each for _, each in own]
    nothing: list[None] = [None] * len(records)
    flat = [record for each in records for record in each.values()]
    kinds = sorted({record["kind"] for record in flat})
    probes = [probe for run, _ in own if (probe := read_probe(workdir, run))]
    value: dict[str, Any] = {
        **_named("accuracy", difference(nothing, records)),
        "seeds": [run.seed for run, _ in own],
        "accuracy_by_seed": [float(np.mean([r["correct"] for r in each.values()]))
                             for each in records],
        "by_type": {kind: _named("accuracy", difference(nothing, records, [kind]))
                    for kind in kinds},
        "items": len(records[0]),
        "tokens_per_answer": float(np.mean([record["tokens"] for record in flat])),
        "blocks_per_answer": float(np.mean([record["blocks"] for record in flat])),
        "train_seconds": [round(sum(stage["seconds"] for key, stage in stages.items()
                                    if key.startswith(f"dift-{run.name}-")), 1)
                          for run, _ in own],
        **{key: [probe[key] for probe in probes] for key in PROBED
           if probes and all(key in probe for probe in probes)},
    }
    both = [(old, each) for run, each in own if (old := base.get(run.seed)) is not None]
    if own[0][0].arm.name != BASELINE and both:
        olds, news = [old for old, _ in both], [each for _, each in both]
        value |= _named("minus_text", difference(olds, news))
        value["minus_text_by_type"] = {kind: _named("minus_text", difference(olds, news, [kind]))
                                       for kind in kinds}
    return value


def _named(name: str, found: Difference) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table, as text."""
    header = ["arm", "seeds", "accuracy", "95 %", "minus text", "95 %", "swap", "follow", "tokens"]
    lines = []
    for name, arm in result["arms"].items():
        delta = "minus_text" in arm
        lines.append([
            name, str(len(arm["seeds"])), _points(arm["accuracy"]),
            f"{_points(arm['accuracy_low'])} to {_points(arm['accuracy_high'])}",
            _points(arm["minus_text"], "+") if delta else "",
            f"{_points(arm['minus_text_low'], '+')} to {_points(arm['minus_text_high'], '+')}"
            if delta else "",
            _mean(arm, "probe_swap_delta", "+"), _mean(arm, "donor_follow_rate"),
            f"{arm['tokens_per_answer']:.0f}"])
    return header, lines


def _points(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def _mean(arm: Mapping[str, Any], name: str, sign: str = "") -> str:
    return _points(float(np.mean(arm[name])), sign) if arm.get(name) else ""


def show(result: Mapping[str, Any], workdir: Path, console: Console) -> None:
    """The table on the terminal, and where the page is."""
    header, lines = rows(result)
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for name, reason in result["failed"].items():
        console.print(f"{name} failed: {reason.splitlines()[0]}", soft_wrap=True)
    console.print(f"{workdir / 'page.html'}  {workdir / 'result.json'}", soft_wrap=True)


def write(result: Mapping[str, Any], workdir: Path) -> None:
    """``result.json`` and ``page.html``, each under a temporary name first."""
    with replacing(workdir / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = Page("Does it matter what is imagined?",
                "The same clips, questions, steps and optimizer; arms differ in what stands where "
                "a mental image would stand.")
    arms = result["arms"]
    if arms:
        _charts(page, arms)
    header, lines = rows(result)
    page.add_table("Arms", header, lines, "Accuracies in per cent, differences in points. 95 %: "
                   "bootstrap that draws whole clips, with all seeds of their questions. swap: "
                   "accuracy with the latents of a clip of another answer, minus plain; follow: "
                   "how often that clip's answer is given then.")
    page.add_table("What the arms are", ["arm", ""],
                   [[name, ARMS[name].about] for name in arms])
    if result["failed"]:
        page.add_table("Failed", ["run", "why"],
                       [[name, reason] for name, reason in result["failed"].items()])
    page.write(workdir / "page.html")


def _charts(page: Page, arms: Mapping[str, Mapping[str, Any]]) -> None:
    page.add_numbers([Number(name, f"{_points(arm['accuracy'])} %",
                             f"{arm['items']} questions, {len(arm['seeds'])} seeds")
                      for name, arm in arms.items()])
    page.add_chart("Accuracy", Bars(
        [Bar(name, arm["accuracy"], arm["accuracy_low"], arm["accuracy_high"])
         for name, arm in arms.items()], ("chance", 0.25)))
    kinds = sorted({kind for arm in arms.values() for kind in arm["by_type"]})
    page.add_table("By question type", ["type", *arms], [
        [kind, *(_interval(arm["by_type"].get(kind)) for arm in arms.values())]
        for kind in kinds])


def _interval(part: Mapping[str, float] | None) -> Interval | None:
    if part is None:
        return None
    return Interval(part["accuracy"], part["accuracy_low"], part["accuracy_high"])
