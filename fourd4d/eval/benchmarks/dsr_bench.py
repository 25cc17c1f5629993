"""DSR-Bench: how directions, distances, speeds and orientations change in web videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Parts,
    Published,
    Question,
    by_kind,
    imagery_protocol,
    micro,
)
from fourd4d.eval.benchmarks.frames import AtRate, Shown, Uniform
from fourd4d.eval.benchmarks.scoring import vlmevalkit_option

TYPES = ("abs_dis", "abs_dir", "abs_ori", "abs_spd", "abs_spd_comp", "abs_dir_pred", "rel_dis",
         "rel_dir", "rel_ori", "rel_spd", "rel_spd_comp", "rel_dir_pred", "non_temp")
BEFORE = ("\nThese are the frames of a video. Select the best answer to the following "
          "multiple-choice question based on the video. Respond with only the letter (A, B, C, or "
          "D) of the correct option.\n")


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``benchmark.parquet``, or of the kit's ``DSRBench.tsv``."""
    if split == "tsv" or not any(root.rglob("benchmark*.parquet")):
        path = tables.find(root, "DSRBench*.tsv", "**/DSRBench*.tsv", of="DSR-Bench")
        return tables.questions_of(path, ("question", "options", "answer", "video"),
                                   _from_tsv)
    path = tables.find(root, "benchmark*.parquet", "**/benchmark*.parquet", of="DSR-Bench")
    return tables.questions_of(path, ("videoID", "question", "options", "answer", "type"),
                               _from_parquet)


def _from_parquet(row: tables.Row, where: str) -> Question:
    video = tables.text(row, "videoID", where)
    return tables.choice(
        row, where, key=f"{where.rpartition(':')[2]}:{video}",
        question=tables.text(row, "question", where), options=row["options"],
        answer=row["answer"], kind=tables.text(row, "type", where, ""), video_id=video,
        clips=[tables.video_clip(f"{video}.mp4", f"videos/{video}.mp4",
                                 f"dsr-bench/{video}.mp4")])


def _from_tsv(row: tables.Row, where: str) -> Question:
    video = tables.text(row, "video", where)
    return tables.choice(
        row, where, key=tables.text(row, "index", where, where.rpartition(":")[2]),
        question=tables.text(row, "question", where), options=row["options"],
        answer=row["answer"],
        kind=tables.text(row, "task_type", where, tables.text(row, "type", where, "")),
        video_id=Path(video).stem,
        clips=[tables.video_clip(video, f"dsr-bench/{video}", f"videos/{video}")])


def kit_prompt(question: Question, shown: Shown) -> Parts:
    options = "\n".join(question.shown)
    return [BEFORE, *shown.media, f"Question: {question.text}\n{options}\nAnswer: "]


def write_fake(root: Path) -> None:
    rows = [
        ("v0", "Which way does the square go?", ["A. Left", "B. Right", "C. Up", "D. Down"], "B",
         "abs_dir"),
        ("v0", "How does its distance change?", ["A. Closer", "B. Farther", "C. Same"], "C",
         "abs_dis"),
        ("v1", "Which way does it go,\nas the <b>camera</b> sees it?",
         ["A. <image>", "B. <|latent_start|>", "C. Right", "D. Down"], "C", "rel_dir"),
        ("gone", "Is there a square?", ["A. Yes", "B. No"], "A", "non_temp"),
        ("v1", "How fast is it?", ["A. Slow", "B. Fast", "C. Slow", "D. Still"], "E", "abs_spd"),
    ]
    fakes.parquet(root / "benchmark.parquet", [
        dict(videoID=v, question=q, options=o, answer=a, type=t) for v, q, o, a, t in rows])
    fakes.separated(root / "DSRBench.tsv", [
        dict(index=n, video=f"{v}.mp4", question=q, options=repr(o), answer=a, task_type=t)
        for n, (v, q, o, a, t) in enumerate(rows)])
    for number in range(2):
        fakes.video(root / f"v{number}.mp4", number)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    return {"overall": micro(questions, scores), **by_kind(questions, scores, TYPES)}


_KIT = "VLMEvalKit vlmeval/dataset/dsrbench.py"
_PAPER = "DSR Suite, arXiv 2512.20557"
BENCHMARK = Benchmark(
    "dsr_bench", "DSR-Bench", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol(f"{_KIT}, 1 fps", kit_prompt, AtRate(1.0), vlmevalkit_option),
        "paper": AskProtocol(f"{_KIT}, 32 frames as in the paper", kit_prompt, Uniform(32),
                             vlmevalkit_option),
        "kit64": AskProtocol(f"{_KIT}, 64 frames", kit_prompt, Uniform(64), vlmevalkit_option),
    }, aggregate, splits=("parquet", "tsv"), invariant=frozenset({"non_temp"}),
    published=(
        Published("Qwen2.5-VL-7B", "overall", 23.5, _PAPER, "paper"),
        Published("GPT-5", "overall", 30.8, _PAPER, "paper"),
        Published("Gemini-2.5-Pro", "overall", 31.7, _PAPER, "paper"),
        Published("4DThinker-3B DIFT", "overall", 31.07,
                  "released result files, 1,413 of 1,450 items", "4dthinker"),
        Published("4DThinker-3B 4DRL", "overall", 34.18,
                  "released result files, 1,413 of 1,450 items", "4dthinker"),
        Published("7B, fine-tuned on DSR-Train", "overall", 58.9, _PAPER, "paper"),
        Published("fine-tuned on DSR-Train, no video", "overall", 68.0,
                  "a user's report, DSR_Suite issue 9"),
    ))
