"""STI-Bench: distances, speeds, poses and paths, told from a time window of a video."""

from __future__ import annotations

import json
import re
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
from fourd4d.eval.benchmarks.frames import Shown, Uniform
from fourd4d.eval.benchmarks.scoring import sti_letter, vlmevalkit_option

TASKS = ("Dimensional Measurement", "Spatial Relation", "3D Video Grounding",
         "Displacement & Path Length", "Speed & Acceleration", "Ego-Centric Orientation",
         "Trajectory Description", "Pose Estimation")


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``qa.parquet``, or of the kit's ``STIBench.tsv``."""
    if split == "parquet" and any(root.rglob("qa*.parquet")):
        path = tables.find(root, "qa*.parquet", "**/qa*.parquet", of="STI-Bench")
        columns = ("Video", "ID", "Task", "Question", "Candidates", "Answer", "time_start",
                   "time_end")
        return tables.questions_of(path, columns, _from_parquet)
    path = tables.find(root, "STI*Bench*.tsv", "**/STI*Bench*.tsv", of="STI-Bench")
    return tables.questions_of(
        path, ("video", "question", "options", "answer", "time_start", "time_end"),
        _from_tsv)


def _from_parquet(row: tables.Row, where: str) -> Question:
    name, number = tables.text(row, "Video", where), tables.text(row, "ID", where, "")
    return _question(row, where, f"{name}|{number}|{row['time_start']}|{row['time_end']}",
                     name, tables.text(row, "Question", where), row["Candidates"], row["Answer"],
                     tables.text(row, "Task", where, ""))


def _from_tsv(row: tables.Row, where: str) -> Question:
    return _question(row, where,
                     tables.text(row, "index", where, where.rpartition(":")[2]),
                     tables.text(row, "video", where), tables.text(row, "question", where),
                     row["options"], row["answer"], tables.text(row, "task_type", where, ""))


def _question(row: tables.Row, where: str, key: str, video: str, question: str,
              options: object, answer: object, kind: str) -> Question:
    window = (tables.number(row, "time_start", where), tables.number(row, "time_end", where))
    return tables.choice(
        row, where, key=key, question=question, options=options, answer=answer, kind=kind,
        clips=[tables.video_clip(video, f"video/{video}", window=window)])


def _asked(question: Question, form: str) -> str:
    options = "\n".join(form.format(letter, text) for letter, text in zip(
        question.letters, question.options, strict=True))
    return f"{question.text}\n{options}"


def kit_prompt(question: Question, shown: Shown) -> Parts:
    start, end = question.row["time_start"], question.row["time_end"]
    rate = "an unspecified frame rate" if shown.rate is None else f"about {shown.rate:.2f} FPS"
    return [*shown.media,
            "Answer the question below based on the frames provided, which are sampled at "
            f"{rate}.\nQuestion: From {start} seconds to {end} seconds. "
            f"{_asked(question, '{} {}')}\nPlease output only the option you choose!"]


def script_prompt(question: Question, shown: Shown) -> Parts:
    start, end = question.row["time_start"], question.row["time_end"]
    return [*shown.media, f"From {start} s to {end} s. {_asked(question, '({}) {}')}\n"
            "Please output only the option letter!"]


def imagery_prompt(question: Question, shown: Shown) -> Parts:
    start, end = question.row["time_start"], question.row["time_end"]
    return [*shown.media, f"From {start} seconds to {end} seconds. {question.sample().text_input}"]


def write_fake(root: Path) -> None:
    rows = [
        ("scene0_00.mp4", 1, "Dimensional Measurement", "How wide is the square?",
         ["0.1 m", "0.2 m", "0.3 m", "0.4 m", "0.5 m"], "E", 0.0, 2.0),
        ("scene0_00.mp4", 2, "Speed & Acceleration", "How fast is it?",
         ["1 m/s", "2 m/s", "3 m/s", "4 m/s", "5 m/s"], "B", 1.0, 2.5),
        ("camera1.mp4", 1, "Trajectory Description", "Which way does it go?",
         ["left", "right", "up", "down", "nowhere"], "B", 0.5, 2.0),
        ("camera1.mp4", 2, "Pose Estimation", "How does it turn?",
         ["0°", "90°", "180°", "270°", "360°"], "A", 90.0, 99.0),
        ("gone.mp4", 1, "Spatial Relation", "Is it near?", list("abcde"), "C", 0.0, 1.0),
    ]
    fakes.parquet(root / "qa.parquet", [
        dict(Video=v, ID=i, Source="fake", Task=t, Question=q, Answer=a, time_start=s, time_end=e,
             Candidates=json.dumps(dict(zip("ABCDE", o, strict=True))),
             scene=re.split(r"\d", v)[0]) for v, i, t, q, o, a, s, e in rows])
    fakes.separated(root / "STIBench.tsv", [
        dict(index=n, video=v, task_type=t, question=q, options=repr(o), answer=a, time_start=s,
             time_end=e) for n, (v, i, t, q, o, a, s, e) in enumerate(rows)])
    for seed, name in enumerate(("scene0_00.mp4", "camera1.mp4")):
        fakes.video(root / "video" / name, seed)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    return {"overall": micro(questions, scores), **by_kind(questions, scores, TASKS)}


_PAPER = "STI-Bench, arXiv 2503.23765"
BENCHMARK = Benchmark(
    "sti_bench", "STI-Bench", read, write_fake, {
        "4dthinker": AskProtocol(
            imagery_protocol().source, imagery_prompt, imagery_protocol().frames, suffix=True,
            max_pixels=imagery_protocol().max_pixels),
        "kit": AskProtocol("VLMEvalKit vlmeval/dataset/stibench.py, 30 frames of the whole video",
                           kit_prompt, Uniform(30), vlmevalkit_option),
        "paper": AskProtocol("STI-Bench opensource_test.py, 30 frames of the whole video",
                             script_prompt, Uniform(30), sti_letter),
        "window": AskProtocol("the kit's prompt, 30 frames of the question's time window",
                              kit_prompt, Uniform(30), vlmevalkit_option, windowed=True),
    }, aggregate, splits=("parquet", "tsv"),
    published=(Published("Qwen2.5-VL-7B", "overall", 33.2, _PAPER, "paper"),
               Published("Qwen2.5-VL-72B", "overall", 40.7, _PAPER, "paper")),
    invariant=frozenset({"Dimensional Measurement"}))
