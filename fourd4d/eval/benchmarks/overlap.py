"""Whether a checkpoint was trained on a benchmark's videos: by the names of both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fourd4d.checkpoint.orbax import read_specs
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.sample import Sample
from fourd4d.data.source import open_source
from fourd4d.eval.benchmarks.source import BenchmarkSource
from fourd4d.pretrained.open import kind_of, located

_SHORTEST: Final = 5  # Characters of a name that tells one video from others.


def training_data(checkpoint: str, step: int | None = None) -> str:
    """The training file that a checkpoint's specs name; empty where they name none."""
    directory = located(checkpoint)
    if kind_of(directory) != "trained":
        return ""
    config = read_specs(directory, step).get("config")
    data = config.get("data") if isinstance(config, dict) else None
    path = data.get("path") if isinstance(data, dict) else None
    return path if isinstance(path, str) else ""


def overlap(source: BenchmarkSource, data: str | os.PathLike[str]) -> dict[str, Any]:
    """What of a benchmark a training file holds too, as JSON values.

    A training row is of a benchmark's video where its video id, the name of its video file, or a
    folder of its frames is that video's name. Names of fewer than 5 characters tell nothing.
    """
    told: dict[str, Any] = {"trained_on": os.fspath(data), "by": "name"}
    if not data:
        return told | {"note": "the checkpoint does not say what it was trained on"}
    try:
        rows = open_source(data, keep_bad=True)
        seen = {name for number in range(len(rows)) for name in _row_names(rows, number)}
    except InputError as error:
        return told | {"note": f"the training data cannot be read here ({one_line(error)})"}
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
                   "names": sorted(names)[:50]}


def _row_names(rows: Any, number: int) -> Iterator[str]:
    try:
        sample: Sample = rows[number].sample
    except Exception:  # Training leaves such rows out.
        return
    yield from filter(None, (sample.video_id, Path(sample.video).stem if sample.video else ""))
    if sample.frames:
        yield from PurePosixPath(sample.frames[0]).parts[:-1]


def sentence(told: dict[str, Any]) -> str:
    """The overlap in a line."""
    if "note" in told:
        return f"overlap with training data: unknown, {told['note']}"
    return (f"overlap with training data: {told['items']} of {told['of_items']} items, "
            f"{told['videos']} videos of {told['trained_on']} by name")
