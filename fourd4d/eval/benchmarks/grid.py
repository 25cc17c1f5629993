"""Protocols, modes and runs of one benchmark: their results, and the table over all of them."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json
from fourd4d.core.storage import as_path
from fourd4d.eval.benchmarks.modes import MAPPED, MODES, check_mode
from fourd4d.eval.benchmarks.overlap import sentence
from fourd4d.eval.benchmarks.source import BenchmarkSource
from fourd4d.eval.items import Item, Record
from fourd4d.eval.statistics import clustered
from fourd4d.pages import Interval, Page, Percent

NEEDED = 0.5
"""An item needs its video where fewer blind runs than this share are right."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One evaluation of the grid.

    Attributes:
      folder: where its log and result lie.
      run: from 0; each has its own per-item seeds.
    """

    protocol: str
    mode: str
    run: int
    folder: Path


def cells(source: BenchmarkSource, out: Path, protocols: str, modes: str, runs: int
          ) -> list[Cell]:
    """The evaluations asked for; a single one lies in ``out`` itself.

    Args:
      protocols, modes: names with commas between them; by default the first protocol, in the modes
        normal and blind.

    Raises:
      InputError: an unknown name, or no run.
    """
    asked = [name.strip() for name in protocols.split(",") if name.strip()] or [source.protocol]
    inputs = [name.strip() for name in modes.split(",") if name.strip()] or ["normal", "blind"]
    for name in asked:
        if name not in source.benchmark.protocols:
            raise InputError("config.protocols", f"{source.benchmark.name} has no {name!r}",
                             f"Use some of {list(source.benchmark.protocols)}")
    for name in inputs:
        check_mode(name)
    if runs < 1:
        raise InputError("config.runs", f"{runs}", "Use 1 or more")
    grid = list(itertools.product(dict.fromkeys(asked), dict.fromkeys(inputs), range(runs)))
    return [Cell(protocol, mode, run, out if len(grid) == 1 else
                 out / protocol / mode / (f"run-{run}" if runs > 1 else ""))
            for protocol, mode, run in grid]


def read_subset(path: str) -> frozenset[str] | None:
    """Keys of a file that ``write_needs_video`` wrote, or of one with a JSON list; None of ''.

    Raises InputError.
    """
    if not path:
        return None
    try:
        value = parse_json(as_path(path).read_bytes(), path)
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})",
                         "Give a file of keys as --config.subset") from error
    value = value.get("keys") if isinstance(value, dict) else value
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise InputError(path, "it holds no list of keys", "Give a file of keys")
    return frozenset(value)


def counted(records: Sequence[Record], mode: str) -> list[Record]:
    """The records that an accuracy counts: in a mode that changes what is right, the mapped."""
    return [r for r in records if mode not in MAPPED or r.get("mapped", True)]


def summary(source: BenchmarkSource, items: Sequence[Item], records: Mapping[str, Record]
            ) -> dict[str, Any]:
    """What a cell's result has beside the usual: the benchmark's own table in each reading,
    published results, intervals by video, odd rows, items that no rule maps."""
    numbers = [item.number for item in items]
    chosen = [records[item.key] for item in items]
    kept = {r["key"] for r in counted(chosen, source.mode)}
    questions = [source.questions[n] for n in numbers if source.questions[n].key in kept]
    ask = source.benchmark.protocols[source.protocol]
    readings = {"strict": "score", "lenient": "lenient_score"}
    if ask.own is not None:
        readings["own"] = "own_score"
    table = {}
    for name, field in readings.items():
        scores = {key: float(records[key].get(field, 0.0)) for key in kept}
        table[name] = source.benchmark.aggregate(questions, scores) if questions else {}
    values = [r["score"] for r in chosen if r["key"] in kept]
    low, high = clustered(values, [r["video_id"] for r in chosen if r["key"] in kept])
    return {
        "asked": {"title": source.benchmark.title, "source": ask.source, **source.describe()},
        "benchmark_table": table,
        "published": [dataclasses.asdict(p) for p in source.benchmark.published],
        "by_video": {"accuracy_low": low, "accuracy_high": high,
                     "videos": len({r["video_id"] for r in chosen})},
        "oddities": [{"key": q.key, "note": q.problem or q.note}
                     for q in (source.questions[n] for n in numbers) if q.problem or q.note],
        "unmapped": len(chosen) - len(kept),
    }


def over_runs(runs: Sequence[Mapping[str, Record]]) -> dict[str, Any]:
    """Mean accuracy of runs over the same items, its interval by video, and how runs agree."""
    keys = list(runs[0])
    scores = np.array([[run[key].get("score", 0.0) for key in keys] for run in runs])
    low, high = clustered(scores.mean(0), [runs[0][key]["video_id"] for key in keys])
    right = (scores == 1.0).sum(0)
    pairs = list(itertools.combinations(range(len(runs)), 2))
    same = [float(np.mean([runs[a][k]["chosen"] == runs[b][k]["chosen"] for k in keys]))
            for a, b in pairs]
    return {
        "runs": len(runs), "items": len(keys), "accuracy": float(scores.mean()),
        "accuracy_low": low, "accuracy_high": high,
        "accuracy_of_runs": [float(x) for x in scores.mean(1)],
        "deviation_of_runs": float(scores.mean(1).std(ddof=1)) if len(runs) > 1 else 0.0,
        "same_answer": float(np.mean(same)) if same else 1.0,
        "right_in_all": int((right == len(runs)).sum()), "right_in_none": int((right == 0).sum()),
        "no_answer_share": _share(runs, lambda record: not record.get("chosen")),
        "truncated_share": _share(runs, lambda record: record.get("truncated", False)),
        "failed": sum(record.get("status") == "failed" for run in runs for record in run.values()),
    }


def _share(runs: Sequence[Mapping[str, Record]], has: Callable[[Record], bool]) -> float:
    """How many of all runs' responses have something."""
    return float(np.mean([bool(has(record)) for run in runs for record in run.values()]))


def needs_video(blind: Sequence[Mapping[str, Record]]) -> list[str]:
    """Keys of the items that fewer than ``NEEDED`` of the blind runs answer rightly."""
    return [key for key in blind[0]
            if np.mean([run[key].get("score", 0.0) for run in blind]) < NEEDED]


def hardest(runs: Sequence[Mapping[str, Record]], most: int = 20) -> list[dict[str, Any]]:
    """The items with the lowest mean score over all evaluations that count them, JSON values.

    Those counted in more evaluations first among equals, then in file order.
    """
    scores: dict[str, list[float]] = {}
    said: dict[str, collections.Counter[str]] = {}
    about: dict[str, Record] = {}
    for run in runs:
        for key, record in run.items():
            scores.setdefault(key, []).append(float(record.get("score", 0.0)))
            said.setdefault(key, collections.Counter())[record.get("chosen") or "none"] += 1
            about.setdefault(key, record)
    lowest = sorted((key for key in scores if np.mean(scores[key]) < 1.0), key=lambda key: (
        np.mean(scores[key]), -len(scores[key]), about[key]["number"]))
    return [{"key": key, "kind": about[key]["kind"], "video": about[key]["video_id"],
             "answer": about[key]["answer"], "score": float(np.mean(scores[key])),
             "evaluations": len(scores[key]), "said": dict(said[key].most_common())}
            for key in lowest[:most]]


def table(results: Sequence[tuple[Cell, Mapping[str, Record]]]) -> dict[str, Any]:
    """The grid's numbers, JSON values: per protocol and mode over runs and types, and the subset
    that needs its video."""
    groups: dict[tuple[str, str], list[Mapping[str, Record]]] = collections.defaultdict(list)
    for cell, records in results:
        kept = {r["key"] for r in counted(list(records.values()), cell.mode)}
        groups[cell.protocol, cell.mode].append({k: r for k, r in records.items() if k in kept})
    rows = []
    for (protocol, mode), runs in groups.items():
        kinds = sorted({r["kind"] for r in runs[0].values()})
        total = len(next(records for cell, records in results
                         if (cell.protocol, cell.mode) == (protocol, mode)))
        rows.append({
            "protocol": protocol, "mode": mode, "of": total,
            **(over_runs(runs) if runs[0] else {"items": 0, "runs": len(runs), "failed": 0}),
            "first_failure": next((record["reason"] for run in runs for record in run.values()
                                   if record.get("status") == "failed"), ""),
            "by_type": {kind: over_runs([{k: r for k, r in run.items() if r["kind"] == kind}
                                         for run in runs]) for kind in kinds},
        })
    found: dict[str, Any] = {"rows": rows, "hardest": {
        protocol: hardest([run for (other, mode), runs in groups.items()
                           if other == protocol and mode not in MAPPED for run in runs])
        for protocol in dict.fromkeys(protocol for protocol, _ in groups)}}
    needed = {protocol: needs_video(runs) for (protocol, mode), runs in groups.items()
              if mode == "blind" and runs[0]}
    if needed:
        found["needs_video"] = {
            protocol: {"keys": keys, "rule": f"right in fewer than {NEEDED:g} of the blind runs"}
            for protocol, keys in needed.items()}
        for row in rows:
            keys = set(needed.get(row["protocol"], ()))
            runs = [{k: r for k, r in run.items() if k in keys}
                    for run in groups[row["protocol"], row["mode"]]]
            if runs[0]:
                row["on_needs_video"] = over_runs(runs)
    return found


def page(title: str, found: Mapping[str, Any], chance: float, published: Sequence[Any]) -> Page:
    """Normal beside the other modes, all and by type, for each protocol."""
    made = Page(title, "Every input mode beside the normal one. A benchmark asks for its video as "
                "far as normal stands above blind.")
    for protocol, rows in _by_protocol(found["rows"]):
        modes = [row["mode"] for row in rows]
        kinds = list(dict.fromkeys(kind for row in rows for kind in row["by_type"]))
        mapped = ", ".join(f"{row['mode']} {row['items']} of {row['of']}" for row in rows
                           if row["mode"] in MAPPED)
        needs = any("on_needs_video" in row for row in rows)
        made.add_table(
            f"Protocol {protocol}: accuracy, %",
            ["mode", "items", "all", *(["those that need their video"] if needs else []),
             "no answer, %", "cut off, %"],
            [[row["mode"], row["items"], _part(row if row["items"] else None, chance),
              *([_part(row.get("on_needs_video"), chance)] if needs else []),
              *(Percent(row[name]) if row["items"] else None
                for name in ("no_answer_share", "truncated_share"))] for row in rows],
            "Whiskers: 95 % intervals, questions of one video taken together; the dashed line is "
            "chance. No answer: none could be read; cut off: by the token budget. "
            + " ".join(f"{mode}: {MODES[mode]}." for mode in modes)
            + "".join(f" {line}" for line in failures(rows))
            + (f" Counted where the new answer is known: {mapped}." if mapped else "")
            + (f" An item needs its video where fewer than {NEEDED:g} of the blind runs are right."
               if needs else ""))
        made.add_table(
            f"Protocol {protocol}: accuracy by type, %", ["type", "items", *modes],
            [[kind or "untyped", max(row["by_type"][kind]["items"] for row in rows
                                     if kind in row["by_type"]),
              *(_mean(row["by_type"].get(kind)) for row in rows)] for kind in kinds],
            "Intervals and runs are in table.json, whole pages below each mode's folder.")
        if any(row["runs"] > 1 for row in rows):
            made.add_table(
                f"Protocol {protocol}: runs", ["mode", "runs", "deviation of runs, %",
                                               "same answer, %", "right in all", "in none"],
                [[row["mode"], row["runs"], Percent(row["deviation_of_runs"]),
                  Percent(row["same_answer"]), row["right_in_all"], row["right_in_none"]]
                 for row in rows if row["items"]])
        if found["hardest"].get(protocol):
            made.add_table(
                f"Protocol {protocol}: hardest items",
                ["item", "type", "video", "right", "score, %", "evaluations", "said"],
                [[one["key"], one["kind"] or "untyped", one["video"], one["answer"],
                  Percent(one["score"]), one["evaluations"],
                  ", ".join(f"{what} ({count})" for what, count in one["said"].items())]
                 for one in found["hardest"][protocol]],
                "Lowest mean score over runs and modes in which the answer is the file's own. What "
                "no model gets right may be hard, or wrong in the file.")
    if published:
        made.add_table("Known results", ["model", "metric", "%", "protocol", "source"],
                       [[p.model, p.metric, Percent(p.value / 100), p.protocol or "not stated",
                         p.source] for p in published])
    if "overlap" in found:
        made.add_text("Trained on it?", sentence(found["overlap"]))
    return made


def _by_protocol(rows: Sequence[Mapping[str, Any]]
                 ) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for name in dict.fromkeys(row["protocol"] for row in rows):
        yield name, [row for row in rows if row["protocol"] == name]


def _mean(part: Mapping[str, Any] | None) -> Percent | None:
    return None if part is None else Percent(part["accuracy"])


def _part(part: Mapping[str, Any] | None, chance: float) -> Any:
    if not part:
        return None
    return Interval(part["accuracy"], part["accuracy_low"], part["accuracy_high"], chance)


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each row of the table some of whose items could not be run."""
    return [f"{row['protocol']}, {row['mode']}: {row['failed']} of {row['items'] * row['runs']} "
            f"could not be run and count as wrong; the first: {row['first_failure']}"
            for row in rows if row["failed"]]


def keys_json(keys: Collection[str], rule: str) -> str:
    """The text of a subset's file."""
    return json.dumps({"rule": rule, "keys": sorted(keys)}, ensure_ascii=False, indent=1) + "\n"
