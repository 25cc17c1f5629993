"""Results in the layouts of other kits, so that their own scorers run on them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fourd4d.core.files import replacing
from fourd4d.core.sample import LETTERS
from fourd4d.eval.benchmarks.base import Question
from fourd4d.eval.benchmarks.frames import Uniform
from fourd4d.eval.benchmarks.source import BenchmarkSource
from fourd4d.eval.items import Item, Record

VLMEVALKIT: Final = {"dsr_bench": "DSRBench", "sti_bench": "STI-Bench"}
_LAST: Final = 5  # The place of F, the last letter that the kit reads.
COLUMNS: Final = ("index", "video", "question", "options", "answer", "task_type", "prediction")


def write(source: BenchmarkSource, items: Sequence[Item], records: Mapping[str, Record],
          folder: Path, model: str) -> list[Path]:
    """Files below ``folder`` that the benchmark's kit scores; none where it has no kit.

    Args:
      model: a name for them; what a file name cannot hold becomes ``_``.
    """
    name = re.sub(r"[^\w.-]+", "_", model).strip("._") or "model"
    rows = [(source.questions[item.number], records[item.key]) for item in items]
    if source.benchmark.name == "vlm4d":
        return _vlm4d(source, rows, folder, name)
    if source.benchmark.name in VLMEVALKIT:
        return [_vlmevalkit(rows, folder / f"{name}_{VLMEVALKIT[source.benchmark.name]}.tsv")]
    return []


def _vlmevalkit(rows: Sequence[tuple[Question, Record]], path: Path) -> Path:
    """A table as VLMEvalKit leaves it after inference; its ``evaluate`` reads it."""
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(COLUMNS)
        for number, (question, record) in enumerate(rows):
            # The kit counts what it cannot read as right where it cannot read the key either.
            none = LETTERS[min(len(question.options), _LAST)]
            writer.writerow([
                number, question.clips[0].video if question.clips else "", question.text,
                json.dumps(list(question.shown or question.options), ensure_ascii=False),
                question.answers[0] if question.answers else none, question.kind,
                record["response"]])
    return path


def _vlm4d(source: BenchmarkSource, rows: Sequence[tuple[Question, Record]], folder: Path,
           name: str) -> list[Path]:
    """``outputs/…`` for its judge, and ``processed_outputs/…`` for its statistics, in which the
    lenient reading stands for the judge's."""
    prompt = "direct-output" if source.protocol == "kit_direct" else "cot"
    rule = source.benchmark.protocols[source.protocol].frames
    shown = f"{rule.count}frame" if isinstance(rule, Uniform) else "1fps"
    written = []
    for split in ("real", "synthetic"):
        asked, judged = [], []
        for question, record in rows:
            if not question.where.rpartition(":")[0].endswith(f"{split}_mc.json"):
                continue
            row: dict[str, Any] = dict(question.row)
            asked.append(row | {"response": record["response"]})
            read, own, key = record.get("lenient"), row.get("id"), row.get("answer")
            judged.append({  # Its statistics read a number off each id, and synthetic keys as text.
                "id": str(own) if re.search(r"(?:^|_)\d+$", str(own)) else f"{own}_0",
                "question": row.get("question"), "choices": row.get("choices"),
                "response": record["response"],
                "ground_truth_answer": key if split == "real" else str(key),
                "extracted_answer": f"{read}: {question.options[question.letters.index(read)]}"
                if read else "No Valid Answer",
                "correct": bool(record["lenient_correct"])})
        for place, value in (("outputs", asked), ("processed_outputs", judged)):
            if value:
                path = folder / place / f"{split}_mc_{prompt}" / f"{name}_{shown}.json"
                with replacing(path) as file:
                    file.write_text(json.dumps(value, ensure_ascii=False, indent=4),
                                    encoding="utf-8")
                written.append(path)
    return written
