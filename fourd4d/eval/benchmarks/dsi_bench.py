"""DSI-Bench: who moves, observer or object, in videos that also come mirrored and reversed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.eval.benchmarks import fakes, tables
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Parts,
    Question,
    by_kind,
    imagery_protocol,
    mean,
    micro,
)
from fourd4d.eval.benchmarks.frames import AtRate, Shown
from fourd4d.eval.benchmarks.scoring import tagged_letter

VIEWS: Final = ("std", "reverse", "hflip", "reverse_hflip")
CATEGORIES: Final = ("Obj:static cam", "Obj:moving cam", "Cam:static scene", "Cam:dynamic scene",
                     "Obj-Cam distance", "Obj-Cam orientation")
ENOUGH: Final = 3  # Of the four views.
BEFORE: Final = (
    "You are a vision-language expert.\n"
    "You are given a clip of video and your task is to answer a question about the video.\n"
    "You only need to provide *ONE* correct answer selecting from the options listed below. \n"
    "For example, if you think the correct answer is 'A' from 'A. Above B. Under C. Front "
    "D. Behind', \nyour response should **only** be '<answer>A</answer>'.\n"
    "Please answer the question in this format strictly:\n<answer>[A, B, C, or D]</answer>\n")


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``metadatas/<view>.csv``: of all four views, or of one."""
    found: list[Question] = []
    for view in VIEWS if split == "all" else (split,):
        path = tables.find(root, f"metadatas/{view}.csv", f"**/{view}.csv", of=f"DSI-Bench {view}")
        found += tables.questions_of(
            path, ("relative_path", "question", "options", "GT", "cate"),
            lambda row, where, view=view: _question(row, where, view))
    return found


def _question(row: tables.Row, where: str, view: str) -> Question:
    number = where.rpartition(":")[2]
    path = tables.text(row, "relative_path", where)
    cate = tables.text(row, "cate", where)
    kind = CATEGORIES[int(float(cate))] if cate.replace(".", "").isdigit() and int(
        float(cate)) < len(CATEGORIES) else cate
    shown = tables.text(row, "options", where)
    # All views share relative paths: the folder of the view tells them apart.
    return tables.choice(
        row | {"view": view, "options_text": shown}, where, key=f"{view}/{number}",
        question=tables.text(row, "question", where), options=split_options(shown, where),
        answer=row["GT"], kind=kind, video_id=path,
        clips=[tables.video_clip(f"videos/{view}/{path}", f"{view}/{path}")])


def split_options(text: str, where: object) -> list[str]:
    """Options written in one text, ``A. … B. …`` in a row or one a line. Raises InputError."""
    try:
        value = tables.listed(text, where, "options")
        return list(value) if isinstance(value, list) else [f"{k}. {v}" for k, v in value.items()]
    except InputError:
        pass
    found, rest = [], text
    for letter, following in zip("ABCDEFGHIJ", "BCDEFGHIJK", strict=True):
        start = _mark(rest, letter)
        if start is None:
            break
        end = _mark(rest[start:], following)
        found.append(rest[start:][:end].strip(" \n\t,;"))
        if end is None:
            return found
        rest = rest[start:][end:]
    raise InputError(where, f"the options {text[:60]!r} are not a list", "Fetch the file again")


def _mark(text: str, letter: str) -> int | None:
    match = re.search(rf"(?:^|(?<=\s))[(\[]?{letter}[.):\]]", text)
    return match.start() if match else None


def kit_prompt(question: Question, shown: Shown) -> Parts:
    options = question.row["options_text"]
    return [*shown.media, f"{BEFORE}\nQuestion:\n{question.text} {options}"]


def write_fake(root: Path) -> None:
    rows = {view: [] for view in VIEWS}
    for view in VIEWS:
        flips = view.startswith("reverse") != view.endswith("hflip")
        rows[view] = [
            dict(relative_path="a/0.mp4", question="Which way does the square go?", cate=0,
                 options="A. Left B. Right C. Up D. Down", GT="A" if flips else "B"),
            dict(relative_path="a/0.mp4", question="How does the camera move?", cate=2,
                 options="A. Left B. Right C. Forward D. Still", GT="D"),
            dict(relative_path="b/1.mp4", question="Does it come closer?", cate=4,
                 options="A. Closer B. Farther C. Same D. Unknown", GT="C"),
        ]
        fakes.separated(root / "metadatas" / f"{view}.csv", rows[view])
        for number, path in enumerate(("a/0.mp4", "b/1.mp4")):
            fakes.video(root / "videos" / view / path, number + 2 * VIEWS.index(view))


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.key.rpartition("/")[2], []).append(question)
    whole = [group for group in groups.values() if len(group) == len(VIEWS)]
    table = {"sample_wise": micro(questions, scores)}
    if whole:
        table["group_wise"] = mean([
            float(sum(scores[q.key] == 1.0 for q in group) >= ENOUGH) for group in whole])
    return table | by_kind(questions, scores, CATEGORIES)


BENCHMARK = Benchmark(
    "dsi_bench", "DSI-Bench", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "kit": AskProtocol("SpatialVision/dsibench README.md, 5 fps", kit_prompt, AtRate(5.0),
                           tagged_letter),
    }, aggregate, splits=("all", *VIEWS))
