"""Whether a checkpoint was trained on a benchmark's videos: by their names and by their looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from rich.progress import track

from fourd4d.checkpoint.orbax import read_specs
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.sample import Sample
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import Row, Source, open_source
from fourd4d.eval.benchmarks.base import Clip
from fourd4d.eval.benchmarks.frames import Nearest
from fourd4d.eval.benchmarks.source import BenchmarkSource
from fourd4d.pretrained.open import kind_of, located
from fourd4d.processing.media import Video
from fourd4d.synth.tools.duplicates import (
    MOMENTS,
    ClipPrint,
    alike,
    clip_name,
    hash_of,
    hash_record,
)

_SHORTEST: Final = 5  # Characters of a name that tells one video from others.
MOST_CLIPS: Final = 2000
"""Training clips that are looked at, evenly from all: each is decoded."""


def training_data(checkpoint: str, step: int | None = None) -> tuple[str, str]:
    """The training file that a checkpoint's specs name, and where its paths start; else empty."""
    directory = located(checkpoint)
    if kind_of(directory) != "trained":
        return "", ""
    config = read_specs(directory, step).get("config")
    data = config.get("data") if isinstance(config, dict) else None
    found = [data.get(name) if isinstance(data, dict) else "" for name in ("path", "root")]
    path, root = (value if isinstance(value, str) else "" for value in found)
    return path, root


def overlap(source: BenchmarkSource, data: str | os.PathLike[str],
            root: str | os.PathLike[str] = "", *, most: int = MOST_CLIPS) -> dict[str, Any]:
    """What of a benchmark a training file holds too, as JSON values.

    By name: a training row is of a benchmark's video where its video id, the name of its video
    file, or a folder of its frames is that video's name. Names of fewer than 5 characters tell
    nothing. By looks: their clips are near-duplicates, as ``synth dedup`` finds them.

    Args:
      root: where the paths of the training file start; its own folder by default.
      most: training clips looked at.
    """
    told: dict[str, Any] = {"trained_on": os.fspath(data), "by": "name and looks"}
    if not data:
        return told | {"note": "the checkpoint does not say what it was trained on"}
    try:
        rows = open_source(data, root or None, keep_bad=True)
    except InputError as error:
        return told | {"note": f"the training data cannot be read here ({one_line(error)})"}
    seen: set[str] = set()
    clips: dict[str, int] = {}
    for number in range(len(rows)):
        sample = _sample(rows, number)
        if sample is not None:
            seen.update(_names(sample))
            clips.setdefault(clip_name(sample), number)
    videos: dict[str, int] = {}
    for question in source.questions:
        for name in {PurePosixPath(question.cluster).stem, question.cluster,
                     *(PurePosixPath(clip.video).stem for clip in question.clips)} & seen:
            videos[name] = videos.get(name, 0) + 1
    names = [name for name in videos if len(name) >= _SHORTEST]
    items = sum(bool({PurePosixPath(q.cluster).stem, q.cluster, *(
        PurePosixPath(clip.video).stem for clip in q.clips)} & set(names))
        for q in source.questions)
    return told | {"videos": len(names), "items": items, "of_items": len(source.questions),
                   "names": sorted(names)[:50], "looks": _looks(source, rows, clips, most)}


def _looks(source: BenchmarkSource, rows: Source, clips: dict[str, int], most: int
           ) -> dict[str, Any]:
    """Near-duplicates, by what of both sides could be read."""
    names = list(clips)
    chosen = [names[i] for i in np.unique(
        np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))] if names else []
    theirs, ours = dict[str, ClipPrint](), dict[str, ClipPrint]()
    console = plain_console(stderr=True)
    for name in track(chosen, "training clips", console=console):
        try:
            theirs[name] = _row_print(rows[clips[name]])
        except Exception:  # Left out there, and counted here.
            continue
    shown = {_place(clip): clip for q in source.questions for clip in q.clips if not clip.still}
    for place, clip in track(shown.items() if theirs else (), "benchmark videos",
                             len(shown) if theirs else 0, console=console):
        try:
            (medium,) = source.reader.show([clip], Nearest(1e6, MOMENTS), False, place).media
            if isinstance(medium, Video):
                ours[place] = ClipPrint.of(medium.frames)
        except Exception:  # Its items fail by themselves.
            continue
    pairs = alike(ours, theirs)
    items = sum(any(_place(clip) in pairs for clip in q.clips) for q in source.questions)
    return {"videos": len(pairs), "items": items, "pairs": dict(sorted(pairs.items())[:50]),
            "clips": len(clips), "clips_compared": len(theirs), "videos_compared": len(ours)}


def _row_print(row: Row) -> ClipPrint:
    return hash_record(row.record) if row.record is not None else hash_of(
        row.sample, row.root or Path("."))


def _place(clip: Clip) -> str:
    """What tells the clips of a benchmark apart: frames of one folder may be several."""
    return clip.video or " ".join(clip.frames[:1] + clip.frames[-1:])


def _sample(rows: Source, number: int) -> Sample | None:
    try:
        return rows[number].sample
    except Exception:  # Training leaves such rows out.
        return None


def _names(sample: Sample) -> Iterator[str]:
    yield from filter(None, (sample.video_id, Path(sample.video).stem if sample.video else ""))
    if sample.frames:
        yield from PurePosixPath(sample.frames[0]).parts[:-1]


def sentence(told: dict[str, Any]) -> str:
    """The overlap in a line."""
    if "note" in told:
        return f"overlap with training data: unknown, {told['note']}"
    looks = told["looks"]
    return (f"overlap with training data, {told['trained_on']}: {told['items']} of "
            f"{told['of_items']} items ({told['videos']} videos) by name, {looks['items']} "
            f"({looks['videos']} videos) by looks; {looks['clips_compared']} of {looks['clips']} "
            f"training clips and {looks['videos_compared']} videos were compared")
