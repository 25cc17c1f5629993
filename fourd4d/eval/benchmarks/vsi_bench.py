"""VSI-Bench: sizes, distances, counts, routes and orders in scans of rooms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Clip,
    Parts,
    Published,
    Question,
    by_kind,
    imagery_protocol,
    mean,
)
from fourd4d.eval.benchmarks.frames import Shown, Uniform
from fourd4d.eval.benchmarks.scoring import first_word, first_word_or_number

CHOICES: Final = ("object_rel_direction_easy", "object_rel_direction_medium",
                  "object_rel_direction_hard", "object_rel_distance", "route_planning",
                  "obj_appearance_order")
NUMBERS: Final = ("object_abs_distance", "object_counting", "object_size_estimation",
                  "room_size_estimation")
BEFORE: Final = "These are frames of a video."
AFTER_CHOICE: Final = "Answer with the option's letter from the given choices directly."
AFTER_NUMBER: Final = "Please answer the question using a single word or phrase."
_COLUMNS: Final = ("dataset", "scene_name", "question_type", "question", "ground_truth", "options")


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``test-*.parquet`` or ``test.jsonl``; debiased and pruned of files of that name,
    else by the full table's ``pruned`` column or ``pruned_ids.txt``."""

    def questions(path: Path) -> list[Question]:
        return tables.questions_of(path, _COLUMNS, _question)

    if split != "full":
        for pattern in (f"**/*{split}*.parquet", f"**/*{split}*.jsonl"):
            if found := sorted(root.glob(pattern)):
                return questions(found[0])
    full = [path for pattern in ("test*.parquet", "**/test*.parquet", "test*.jsonl",
                                 "**/test*.jsonl") for path in sorted(root.glob(pattern))
            if "debiased" not in path.name and "pruned" not in path.name]
    if not full:
        raise InputError(root, "no file of VSI-Bench here (test*.parquet, test*.jsonl)",
                         "Give the folder that holds it as --config.root")
    found = questions(full[0])
    if split == "full":
        return found
    ids = root / "pruned_ids.txt"
    listed = set(ids.read_text(encoding="utf-8").split()) if ids.is_file() else None
    if listed is None and not any("pruned" in question.row for question in found):
        raise InputError(full[0], f"nothing tells which rows are {split}",
                         f"Fetch the {split} file, or pruned_ids.txt")

    def pruned(question: Question) -> bool:
        return (bool(question.row.get("pruned")) if listed is None
                else str(question.row.get("id")) in listed)
    return [question for question in found if pruned(question) == (split == "pruned")]


def _question(row: tables.Row, where: str) -> Question:
    dataset, scene = (tables.text(row, name, where) for name in ("dataset", "scene_name"))
    path = f"{dataset}/{scene}.mp4"
    return scored_question(row, where, tables.video_clip(path, f"videos/{path}"), NUMBERS,
                           CHOICES)


def scored_question(row: tables.Row, where: str, clip: Clip, numbers: Sequence[str],
                    choices: Sequence[str]) -> Question:
    """A question whose type says whether it asks for a number. Raises InputError."""
    key = tables.text(row, "id", where, where.rpartition(":")[2])
    kind, asked = (tables.text(row, name, where) for name in ("question_type", "question"))
    if kind in numbers:
        return Question(key, asked, number=tables.number(row, "ground_truth", where), kind=kind,
                        clips=(clip,), row=row, where=where)
    if kind not in choices:
        raise InputError(where, f"question_type {tables.brief(kind)} is unknown",
                         f"Known: {[*numbers, *choices]}")
    return tables.choice(row, where, key=key, question=asked, options=row["options"],
                         answer=row["ground_truth"], kind=kind, clips=[clip])


def prompt_with(after_number: str) -> Callable[[Question, Shown], Parts]:
    """lmms-eval's prompt, with its wording after questions that ask for a number."""

    def prompt(question: Question, shown: Shown) -> Parts:
        lines = [BEFORE, question.text]
        if question.number is None:
            lines += ["Options:", *question.shown, AFTER_CHOICE]
        else:
            lines.append(after_number)
        return [*shown.media, "\n".join(lines)]
    return prompt


def write_fake(root: Path) -> None:
    rows = []
    for number, kind in enumerate((*CHOICES, *NUMBERS)):
        scene = f"scene{number % 2:04d}_00" if number != 5 else "scene_gone"
        rows.append(dict(
            id=number, dataset="scannet", scene_name=scene, question_type=kind,
            question=f"Question {number} about the square?", pruned=number % 4 == 0,
            ground_truth=f"{number}.5" if kind in NUMBERS else "ABCD"[number % 4],
            options=None if kind in NUMBERS else ["A. left", "B. right", "C. back", "D. front"]))
    fakes.parquet(root / "test-00000-of-00001.parquet", rows)
    for number in range(2):
        fakes.video(root / "scannet" / f"scene{number:04d}_00.mp4", number)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    kinds = by_kind(questions, scores, (*CHOICES, *NUMBERS))
    directions = [kinds.pop(kind) for kind in CHOICES[:3] if kind in kinds]
    table = ({"object_rel_direction": mean(directions)} if directions else {}) | kinds
    return {"overall": mean(list(table.values())), **table}


_PAPER = "VSI-Bench leaderboard (arXiv 2412.14171)"
_LMMS = "lmms-eval's own runs"
BENCHMARK = Benchmark(
    "vsi_bench", "VSI-Bench", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol("lmms-eval 0.7.3 tasks/vsibench/utils.py, 32 frames",
                           prompt_with(AFTER_NUMBER), Uniform(32), first_word_or_number),
        "paper": AskProtocol("VSI-Bench's released code: the first word, letter or number",
                             prompt_with(AFTER_NUMBER), Uniform(32), first_word),
    }, aggregate, splits=("full", "debiased", "pruned"),
    published=(Published("Qwen2.5-VL-3B", "overall", 26.8, _PAPER, "paper"),
               Published("Qwen2.5-VL-7B", "overall", 33.5, _PAPER, "paper"),
               Published("Qwen2.5-VL-3B", "overall", 29.6, _LMMS, "kit"),
               Published("Qwen2.5-VL-7B", "overall", 38.7, _LMMS, "kit")),
    invariant=frozenset(NUMBERS) | {"object_rel_distance"})
