"""ReVSI: VSI-Bench's questions asked anew of videos cut to a number of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Question,
    by_kind,
    imagery_protocol,
    mean,
)
from fourd4d.eval.benchmarks.frames import EveryFrame
from fourd4d.eval.benchmarks.scoring import stripped_first_word
from fourd4d.eval.benchmarks.vsi_bench import prompt_with, scored_question

CHOICES: Final = ("object_rel_direction_forward_easy", "object_rel_direction_backward_easy",
                  "object_rel_direction_forward_hard", "object_rel_direction_backward_hard",
                  "object_rel_distance_closest", "object_rel_distance_farthest", "route_planning")
NUMBERS: Final = ("object_counting_single", "object_counting_multiple", "object_abs_distance",
                  "object_size_estimation", "room_size_estimation_single",
                  "room_size_estimation_multiple")
TOGETHER: Final = ("object_rel_direction", "object_rel_distance", "object_counting",
                   "room_size_estimation")
SPLITS: Final = ("64_frame", "16_frame", "32_frame", "all_frame")
AFTER_NUMBER: Final = "Answer the question using a single integer or decimal number."


def read(root: Path, split: str) -> list[Question]:
    """Questions of the split's table; its videos are ``<frames>_frame/<scene_id>.mp4``."""
    path = tables.find(root, f"{split}/*.parquet", f"**/*{split}*.parquet", f"**/{split}/*.parquet",
                       f"**/*{split}*.jsonl", of=f"ReVSI {split}")

    def question(row: tables.Row, where: str) -> Question:
        frames = tables.text(row, "num_frames", where)
        scene = tables.text(row, "scene_id", where)
        name = f"{frames}_frame/{scene}.mp4"
        return scored_question(row, where, tables.video_clip(name, f"videos/{name}"),
                               NUMBERS, CHOICES)

    return tables.questions_of(path, ("scene_id", "num_frames", "question_type", "question",
                                      "ground_truth", "options"), question)


def write_fake(root: Path) -> None:
    for split in ("16_frame", "64_frame"):
        frames = split.split("_")[0]
        rows = [dict(
            id=f"{split}-{number}", scene_id=f"s{number % 2}", num_frames=frames,
            question_type=kind, question=f"Question {number}?",
            ground_truth=str(number + 1) if kind in NUMBERS else "ABCD"[number % 4],
            options=None if kind in NUMBERS else ["A. left", "B. right", "C. back", "D. front"])
            for number, kind in enumerate((*CHOICES, *NUMBERS))]
        fakes.parquet(root / split / "test-00000-of-00001.parquet", rows)
        for number in range(2):
            fakes.video(root / split / f"s{number}.mp4", number, count=16)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    table: dict[str, list[float]] = {}
    for kind, value in by_kind(questions, scores, (*CHOICES, *NUMBERS)).items():
        name = next((name for name in TOGETHER if kind.startswith(name)), kind)
        table.setdefault(name, []).append(value)
    means = {name: mean(values) for name, values in table.items()}
    return {"overall": mean(list(means.values())), **means}


BENCHMARK = Benchmark(
    "revsi", "ReVSI", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol("lmms-eval 0.7.3 tasks/revsi/utils.py, every frame of the cut video",
                           prompt_with(AFTER_NUMBER), EveryFrame(), stripped_first_word),
    }, aggregate, splits=SPLITS,
    invariant=frozenset(NUMBERS) | {"object_rel_distance_closest", "object_rel_distance_farthest"})
