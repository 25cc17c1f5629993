"""VLM4D: which way things and cameras move, in real and in synthetic videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Parts,
    Published,
    Question,
    imagery_protocol,
    mean,
    micro,
)
from fourd4d.eval.benchmarks.frames import AtRate, Shown, Uniform

LAST_EXOCENTRIC = 922  # Real items by the number in their id; those above are egocentric.
SECTIONS = ("real_exo", "real_ego", "synthetic_directional", "synthetic_false_positive")
COT = ("Answer the given multiple-choice question step by step. Begin by explaining your reasoning "
       "process clearly. In the last sentence of your response, you must conclude by stating the "
       "final answer using the following format: 'Therefore, the final answer is: $LETTER' "
       "(without quotes), where $LETTER must be only one of the options (A or B or C or D). Think "
       "step by step before answering.")
DIRECT = ("Do not generate any intermediate reasoning process. Answer directly with the option "
          "letter from the given choices.\n")


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``real_mc.json`` and ``synthetic_mc.json``; of one of them by the split."""
    found: list[Question] = []
    for name in ("real", "synthetic") if split == "all" else (split,):
        path = tables.find(root, f"{name}_mc.json", f"*/{name}_mc.json", of="VLM4D")
        found += tables.questions_of(
            path, ("id", "video", "question", "choices", "answer"),
            lambda row, where, name=name: _question(row, where, name))
    return found


def _question(row: tables.Row, where: str, split: str) -> Question:
    # The file gives an address; below it lies the path in the dataset.
    path = tables.text(row, "video", where).split("/resolve/main/")[-1]
    name = tables.text(row, "id", where)
    answer = tables.text(row, "answer", where)
    if split == "synthetic":
        said = answer.strip().lower()
        kind = SECTIONS[3] if said in ("no", "false") or said.startswith("no ") else SECTIONS[2]
    else:
        tail = re.search(r"(\d+)$", name)
        kind = SECTIONS[int(tail is not None and int(tail[1]) > LAST_EXOCENTRIC)]
    return tables.choice(
        row, where, key=f"{split}/{name}", question=tables.text(row, "question", where),
        options=row["choices"], answer=row["answer"], kind=kind, texts_first=True,
        clips=[tables.video_clip(path, path.split("/", 1)[-1])])


def _prompt(tail: str) -> Callable[[Question, Shown], Parts]:
    def prompt(question: Question, shown: Shown) -> Parts:
        options = "\n".join(f"{letter}: {text}" for letter, text in zip(
            question.letters, question.shown, strict=True))
        return [*shown.media, f"\nQuestion: {question.text}\n{options}\n\n{tail}"]
    return prompt


def write_fake(root: Path) -> None:
    at = "https://huggingface.co/datasets/shijiezhou/VLM4D/resolve/main/"
    real = [
        ("validation_1", "videos_real/davis/bus.mp4", "What direction is the bus moving towards?",
         ["not moving", "there are no buses in the video", "right", "left"], "right"),
        ("validation_3", "videos_real/davis/bus.mp4", "How many times does it turn?",
         [1, 2, 3, 0], 3),
        ("validation_633", "videos_real/davis/snake.mp4", "What direction does it move towards?",
         ["not sure", "not moving", "away from the camera", "away from the camera"],
         "away from the camera"),
        ("validation_1000", "videos_real/ego4d/gone.mp4", "Which way do I walk?",
         ["left", "right", "forward", "backward"], "forward"),
    ]
    synthetic = [
        ("validation_1", "videos_synthetic/synth_001.mp4", "Which direction is the arm moving?",
         ["left", "no arm there", "not moving", "right"], "right"),
        ("validation_2", "videos_synthetic/synth_001.mp4", "Which direction is the dog moving?",
         ["left", "no dog there", "up", "right"], "no dog there"),
    ]
    for name, rows in (("real", real), ("synthetic", synthetic)):
        fakes.json_file(root / "QA" / f"{name}_mc.json", [
            dict(id=i, video=at + v, question_type="multiple-choice", question=q,
                 choices=dict(zip("ABCD", c, strict=True)), answer=a) for i, v, q, c, a in rows])
    for seed, path in enumerate(("videos_real/davis/bus", "videos_real/davis/snake",
                                 "videos_synthetic/synth_001")):
        fakes.video(root / f"{path}.mp4", seed)


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    of = {kind: [scores[q.key] for q in questions if q.kind == kind] for kind in SECTIONS}
    real, synthetic = of["real_exo"] + of["real_ego"], sum((of[k] for k in SECTIONS[2:]), [])
    table = {"real": real, "synthetic": synthetic, "real_ego": of["real_ego"],
             "real_exo": of["real_exo"], **{kind: of[kind] for kind in SECTIONS[2:]}}
    return {"overall": micro(questions, scores),
            **{name: mean(values) for name, values in table.items() if values}}


_KIT = "VLM4D utils/constant.py"
_TABLE = "VLM4D, arXiv 2508.02095, its processed_outputs_paper_results"
BENCHMARK = Benchmark(
    "vlm4d", "VLM4D", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol(f"{_KIT}, chain of thought, 1 fps", _prompt(COT), AtRate(1.0)),
        "kit_direct": AskProtocol(f"{_KIT}, direct output, 1 fps", _prompt(DIRECT), AtRate(1.0)),
        "kit_32": AskProtocol(f"{_KIT}, chain of thought, 32 frames", _prompt(COT), Uniform(32)),
    }, aggregate, splits=("all", "real", "synthetic"),
    published=(
        *(Published("Qwen2.5-VL-7B", metric, value, _TABLE, "kit")
          for metric, value in (("overall", 43.8), ("real", 43.3), ("synthetic", 45.6))),
        *(Published("Qwen2.5-VL-7B", metric, value, _TABLE, "kit_direct")
          for metric, value in (("overall", 44.5), ("real", 43.3), ("synthetic", 48.1))),
        Published("Qwen2.5-VL-72B", "overall", 53.0, _TABLE, "kit"),
        Published("GPT-4o, 32 frames", "overall", 57.5, _TABLE, "kit_32"),
        Published("Gemini-2.5-Pro", "overall", 61.9, _TABLE, "kit"),
    ))
