"""Dyn-Bench, its questions (VQA): camera and object, objects, object and scene.

Its other half asks for masks, which are not claimed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import InputError, one_line
from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Clip,
    Parts,
    Question,
    by_kind,
    imagery_protocol,
    mean,
)
from fourd4d.eval.benchmarks.frames import EveryFrame, Shown
from fourd4d.eval.benchmarks.scoring import first_token

CATEGORIES: Final = {"cameraqa": "Camera-Object", "qa": "Inter-Object", "sceneqa": "Object-Scene"}
RATE: Final = 2.0  # Frames a second that the kits take lists of frames for; none are stated.
AFTER: Final = "Answer with the option's letter from the given choices directly."


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``multi_json/<dataset>/<scene>_<suffix>.json``; a bad file is one bad row."""
    del split
    base = next((path for path in (root, root / "Dyn-Bench") if (path / "multi_json").is_dir()),
                None)
    if base is None:
        raise InputError(root, "no folder multi_json here", "Give Dyn-Bench's folder")
    found: list[Question] = []
    for path in sorted((base / "multi_json").glob("*/*.json")):
        scene, _, suffix = path.stem.rpartition("_")
        if suffix not in CATEGORIES:
            continue  # Masks, and lists of sampled frames.
        folder = f"{base.relative_to(root) / 'frames' / path.parent.name / scene}".removeprefix(
            "./")
        files = (tables.frame_files(root, folder, "frame_*.jpg", "*.jpg", "*.png"))
        clip = Clip(frames=files, timestamps=tuple(n / RATE for n in range(len(files))))
        name = f"{path.parent.name}/{path.stem}"
        try:
            rows = tables.load_json(path)
            if not isinstance(rows, list):
                raise InputError(path, "it holds no list of questions", "Fetch it again")
        except InputError as error:
            found.append(Question(name, kind=CATEGORIES[suffix], where=str(path),
                                  problem=one_line(error)))
            continue
        for number, row in enumerate(rows):
            def make(row: Any, where: str, number: int = number, clip: Clip = clip,
                     name: str = name, suffix: str = suffix, folder: str = folder) -> Question:
                return tables.choice(
                    row, where, key=f"{name}#{number}",
                    question=tables.text(row, "question", where), options=row["options"],
                    answer=row["answer"], kind=CATEGORIES[suffix], clips=[clip], video_id=folder)
            row = row if isinstance(row, dict) else {"": row}
            found.append(tables.question_of(row, f"{path}:{number + 1}", make))
    return found


def kit_prompt(question: Question, shown: Shown) -> Parts:
    return [*shown.media, "\n".join([question.text, *question.shown, AFTER])]


def write_fake(root: Path) -> None:
    for number, (dataset, scene) in enumerate((("davis", "a_cat"), ("ytvos", "b"))):
        for suffix in CATEGORIES:
            fakes.json_file(root / "multi_json" / dataset / f"{scene}_{suffix}.json", [
                dict(question=f"Which way, {suffix}?", answer="ABCD"[number + 1],
                     options=["A. Left", "B. Right", "C. Up", "D. Down"]),
                dict(question="Does it rest?", options=["A. Yes", "B. No"], answer="B")])
        fakes.json_file(root / "multi_json" / dataset / f"{scene}_objmask.json", {
            "object_1": dict(question="Segment the square.")})
        names = fakes.frames(root / "frames" / dataset / scene, number)
        for name in names:
            fakes.frames(root / "masks" / dataset / scene, number, 1,
                         name.removesuffix(".jpg") + "_obj1.png")


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    table = by_kind(questions, scores, tuple(CATEGORIES.values()))
    return {"overall": mean(list(table.values())), **table}


BENCHMARK = Benchmark(
    "dyn_bench", "Dyn-Bench (VQA)", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol("Dyn-Bench utils/run_qa_task.py, every frame", kit_prompt, EveryFrame(),
                           first_token),
    }, aggregate)
