"""Our own JSONL, in either published layout: ``core.jsonl``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from fourd4d.core import jsonl
from fourd4d.core.errors import one_line
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    Benchmark,
    Clip,
    Question,
    by_kind,
    imagery_protocol,
    micro,
)


def read(root: Path, split: str) -> list[Question]:
    """Questions of the folder's one JSONL file; of several, of ``items`` or ``benchmark``."""
    path = tables.find(root, "items.jsonl", "benchmark*.jsonl", "4drl*.jsonl", "*.jsonl",
                       of="our JSONL")
    del split
    found = []
    for _, number, line in jsonl.lines_of(path):
        where = f"{path}:{number}"
        try:
            found.append(_question(jsonl.parse_line(line, where), where))
        except Exception as error:  # Whatever lies in one row.
            about = jsonl.glimpse(line)
            name, kind = about.get("id"), about.get("type")
            count = jsonl.option_count(about)
            found.append(Question(
                name if isinstance(name, str) and name else f"row {number}",
                options=tuple(LETTERS[:count]), kind=kind if isinstance(kind, str) else "",
                where=where, problem=one_line(error)))
    return found


def _question(sample: Sample, where: str) -> Question:
    if not sample.options:
        raise ValueError(f"item {sample.id!r} has no options")
    clip = Clip(sample.video, sample.frames, sample.timestamps)
    return Question(sample.id, sample.question, sample.options, (sample.answer,), kind=sample.kind,
                    clips=(clip,), video_id=sample.video_id, shown=sample.options, where=where,
                    note=tables.odd_options(sample.options))


def write_fake(root: Path) -> None:
    rows = []
    for number in range(4):
        sample = dataclasses.replace(Sample.fake(number % 2), id=f"q{number}",
                                     kind=("direction", "speed")[number % 2])
        fakes.frames(root / sample.video_id, number % 2, 4, "{}.png")
        rows.append(jsonl.rl_row(sample))
    jsonl.write(root / "items.jsonl", rows)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    return {"overall": micro(questions, scores), **by_kind(questions, scores)}


BENCHMARK = Benchmark("jsonl", "our JSONL", read, write_fake, {"4dthinker": imagery_protocol()},
                      aggregate)
