"""MMSI-Video-Bench: space and motion over one or several videos, with reference pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
    micro,
)
from fourd4d.eval.benchmarks.frames import Pooled, Shown
from fourd4d.eval.benchmarks.scoring import mmsi_letter
from fourd4d.processing.media import Image, Video

TYPES: Final = (
    "(Cross-Video) Memory Update", "(Cross-Video) Multi-View Integration", "Planning",
    "Prediction", "(Motion Understanding) Camera Motion", "(Motion Understanding) Instance Motion",
    "(Motion Understanding) Interactive Motion",
    "(Spatial Construction) Instance-Instance Spatial Relationship",
    "(Spatial Construction) Instance-Scene Spatial Relationship",
    "(Spatial Construction) Scene-Scene Spatial Relationship",
    "(Spatial Construction) Instance/Scene Attribute",
    "(Spatial Construction) Camera-Instance Spatial Relationship",
    "(Spatial Construction) Camera-Scene Spatial Relationship")
_OPTION: Final = re.compile(r"^\s*\(?([A-F])[.):：]\s*(.*)$", re.MULTILINE)


def read(root: Path, split: str) -> list[Question]:
    """Questions of ``mmsivideo.json`` or of lmms-eval's parquet of the same rows."""
    del split
    path = tables.find(root, "mmsivideo.json", "**/mmsivideo.json", "**/test*.parquet",
                       of="MMSI-Video-Bench")
    return tables.questions_of(path, ("frames_list", "video_list", "user_prompt"),
                               lambda row, where: _question(row, where))


def _question(row: tables.Row, where: str) -> Question:
    videos = tables.listed(row["video_list"], where, "video_list")
    lists = tables.listed(row["frames_list"], where, "frames_list")
    if not isinstance(videos, list) or len(videos) != len(lists):
        raise InputError(where, f"{len(videos)} videos, {len(lists)} lists of frames",
                         "Fetch the file again")
    clips = []
    for about, names in zip(videos, lists, strict=True):
        rate = tables.number(about, "base_fps", where) if "base_fps" in about else 1.0
        start = float(about.get("start") or 0.0)
        clips.append(Clip(frames=tuple(f"frames/{name}" for name in names),
                          timestamps=tuple(start + n / rate for n in range(len(names)))))
    pictures = tables.listed(row.get("ref_images") or [], where, "ref_images")
    clips += [Clip(frames=(f"ref_images/{name}",), still=True) for name in pictures]
    asked = tables.text(row, "ori_question", where, tables.text(row, "user_prompt", where))
    options = row.get("options") or [
        f"{m[1]}. {m[2]}" for m in _OPTION.finditer(tables.text(row, "user_prompt", where))]
    answer = tables.text(row, "ground_truth", where, tables.text(row, "answer", where, ""))
    answer = answer.strip()[:1] if re.match(r"\s*[A-Fa-f]\b", answer) else answer
    kind = tables.text(row, "type", where, tables.text(row, "question_type", where, ""))
    return tables.choice(
        row, where, key=tables.text(row, "id", where, where.rpartition(":")[2]), question=asked,
        options=options, answer=answer,
        kind=kind.replace("Memoery", "Memory"), clips=clips,
        video_id=str(videos[0].get("path", "")) if videos else "")


def _texts(row: Mapping[str, object]) -> str:
    tail = "".join(str(row.get(name) or "") for name in ("task_prompt", "user_prompt",
                                                        "format_prompt"))
    system = str(row.get("system_prompt") or "")
    return f"{system}\n{tail}" if system else tail


def placed(text: str, question: Question, shown: Shown) -> Iterator[str | Video | Image]:
    """The text with each video and picture where its ``<video>`` or ``<image>`` stands.

    A mark beyond the question's own media stays text; media without a mark come first. Without
    media, their marks go.
    """
    stills = sum(clip.still for clip in question.clips)
    own = {"<video>": len(question.clips) - stills, "<image>": stills}
    media = {"<video>": [m for m in shown.media if not isinstance(m, Image)],
             "<image>": [m for m in shown.media if isinstance(m, Image)]}
    for mark, queue in media.items():
        unmarked = max(len(queue) - text.count(mark), 0)
        yield from queue[:unmarked]
        del queue[:unmarked]
    for part in re.split("(<video>|<image>)", text):
        if own.get(part, 0) > 0:
            own[part] -= 1
            if media[part]:
                yield media[part].pop(0)
        else:
            yield part


def kit_prompt(question: Question, shown: Shown) -> Parts:
    return list(placed(_texts(question.row), question, shown))


def imagery_prompt(question: Question, shown: Shown) -> Parts:
    text = str(question.row.get("user_prompt") or question.text)
    return list(placed(text, question, shown))


def write_fake(root: Path) -> None:
    def row(number: int, kind: str, videos: int, pictures: int, options: Sequence[str],
            answer: str) -> dict[str, object]:
        lists = [[f"v{v}/{name}" for name in fakes.frames(
            root / "frames" / f"v{v}", v, 20 + 20 * v, "{:05d}.jpg")] for v in range(videos)]
        refs = [f"r{n}.jpg" for n in range(pictures)]
        if pictures:
            fakes.frames(root / "ref_images", 9, pictures, "r{:d}.jpg")
        asked = "<video>" * videos + "<image>" * pictures + "Which way does it go?"
        text = "\n".join([asked, *(f"{x}. {o}" for x, o in zip("ABCDEF", options, strict=False))])
        return dict(
            id=f"q{number}", type=kind, frames_list=lists, ref_images=refs, ori_question=asked,
            video_list=[dict(path=f"v{v}.mp4", start=0.0, end=10.0, base_fps=2.0)
                        for v in range(videos)],
            system_prompt="You look at videos.", task_prompt="Think of space. ", user_prompt=text,
            format_prompt="\nAnswer with one letter.", ground_truth=answer)

    fakes.json_file(root / "mmsivideo.json", [
        row(0, "(Motion Understanding) Camera Motion", 1, 0, ("left", "right", "up", "down"), "B"),
        row(1, "(Cross-Video) Memoery Update", 2, 1, ("a", "b", "c", "d", "e", "f"), "F"),
        row(2, "Planning", 1, 1, ("<image>", "right"), "B"),
    ])


def aggregate(questions: Sequence[Question], scores: Mapping[str, float]) -> dict[str, float]:
    return {"overall": micro(questions, scores), **by_kind(questions, scores, TYPES)}


_TABLE = "MMSI-Video-Bench README.md (arXiv 2512.10863)"
_SOURCE = "MMSI-Video-Bench dataset.py, lmms-eval 0.7.3 tasks/mmsi_video/utils.py"
BENCHMARK = Benchmark(
    "mmsi_video", "MMSI-Video-Bench", read, write_fake, {
        "4dthinker": AskProtocol(imagery_protocol().source, imagery_prompt,
                                 imagery_protocol().frames, suffix=True,
                                 max_pixels=imagery_protocol().max_pixels),
        "u50": AskProtocol(f"{_SOURCE}, 50 frames of all videos", kit_prompt, Pooled(50),
                           mmsi_letter),
        "sc": AskProtocol(f"{_SOURCE}, up to 300 frames of all videos", kit_prompt, Pooled(300),
                          mmsi_letter),
    }, aggregate,
    published=(Published("Qwen2.5-VL-7B", "overall", 29.66, _TABLE, "u50"),
               Published("Qwen2.5-VL-7B", "overall", 28.84, _TABLE, "sc"),
               Published("Qwen2.5-VL-72B", "overall", 32.73, _TABLE, "u50"),
               Published("GPT-5", "overall", 36.80, _TABLE, "u50"),
               Published("random guessing", "overall", 24.10, _TABLE)))
