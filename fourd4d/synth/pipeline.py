"""From clips to a dataset: ask, reason, draw, write, keep account."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import Progress

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.synth import base, full, short, write
from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.manifest import Entry, Manifest
from fourd4d.synth.measure import Dropped, centre
from fourd4d.synth.questions import Question, QuestionSpec, ask

SHARD_CLIPS: Final = 1000


@dataclasses.dataclass(frozen=True)
class Work:
    """One source video: its name and how to get its clips (which may raise InputError)."""

    video_id: str
    clips: Callable[[], Iterable[Clip]]


Reason = Callable[[Clip, Question, np.random.Generator, int], str]
STYLES: Final[Mapping[str, Reason]] = {"short": short.reasoning, "full": full.reasoning}


def seeded(seed: int, video_id: str) -> np.random.Generator:
    """A stream that depends on the seed and the video's name only."""
    return np.random.default_rng([seed, *video_id.encode()])


def _subjects(clip: Clip, kinds: Sequence[str]
              ) -> Iterator[tuple[str, CameraSegment | None, Track | None]]:
    """What to ask about: each span of the camera; each kind about each thing that moves."""
    names = collections.Counter(track.name for track in clip.tracks)
    moving = [t for t in clip.tracks if t.role == "dynamic" and names[t.name] == 1]
    for kind in kinds:
        if kind == "camera":
            for segment in clip.camera or (None,):
                yield kind, segment, None
        else:
            for track in moving or (None,):
                yield kind, None, track


def samples_of(clip: Clip, kinds: Sequence[str], spec: QuestionSpec, reason: Reason,
               rng: np.random.Generator, quality: int, number: int = 0
               ) -> tuple[list[write.Written], collections.Counter[str]]:
    """Samples of the clip, at most one per kind and subject, and what was dropped and why.

    ``number`` counts clips; it keeps neighbouring texts from opening alike.
    """
    encoder = write.Encoder(clip, quality)
    out: list[write.Written] = []
    dropped: collections.Counter[str] = collections.Counter()
    for kind, segment, track in _subjects(clip, kinds):
        try:
            question = ask(clip, kind, rng, spec, segment, track)
            response = reason(clip, question, rng, number + len(out))
        except Dropped as why:
            dropped[str(why)] += 1
            continue
        out.append(write.question_sample(clip, question, response, encoder))
    return out, dropped


def base_samples(clip: Clip, kinds: Sequence[str], spec: QuestionSpec, rng: np.random.Generator,
                 quality: int) -> list[write.Written]:
    """Free-text tasks of the clip for making a base model; none where it shows nothing clearly."""
    encoder = write.Encoder(clip, quality)
    every = range(len(clip.frames))
    out = []
    for kind in kinds:
        try:
            question = ask(clip, kind, rng, spec)
            task = base.describe(clip, question, rng)
            seen = [base.place(clip, rng), base.listing(clip, rng), base.listing(clip, rng)]
        except Dropped:
            continue
        out += [write.task_sample(clip, one, every, encoder) for one in (task, *seen)]
        out += [write.task_sample(clip, base.exercise(question, rng, chained), every[:2], encoder)
                for chained in (False, True)]
    return out


def shown(clip: Clip, kinds: Sequence[str]) -> Sequence[str]:
    """The kinds to ask about a clip: the one a simulated scene was made for, else all."""
    made_for = clip.provenance.get("kind")
    return (made_for,) if made_for is not None and made_for in kinds else kinds


def write_base(
    root: str | os.PathLike[str], clips: Callable[[int, int], Iterator[Clip]], count: int,
    kinds: Sequence[str], spec: QuestionSpec, seed: int, quality: int,
) -> int:
    """Shards of free-text tasks, one per SHARD_CLIPS clips; finished shards are kept.

    ``clips(start, count)`` gives a part of the sequence. Returns the number of shards.
    """

    def tasks(start: int, number: int) -> Iterator[bytes]:
        for clip in clips(start, number):
            rng = seeded(seed, clip.video_id)
            for one in base_samples(clip, shown(clip, kinds), spec, rng, quality):
                yield one.record()

    starts = range(0, count, SHARD_CLIPS)
    with Progress() as progress:
        for number, start in enumerate(progress.track(starts, description="shards")):
            name = f"base{number:04d}"
            if not list(Path(root).glob(f"{name}-*{records.SUFFIX}")):
                records.write_shards(root, name, tasks(start, min(SHARD_CLIPS, count - start)))
    return len(starts)


def run(root: str | os.PathLike[str], works: Iterable[Work], total: int | None,
        kinds: Sequence[str], spec: QuestionSpec, seed: int, quality: int = 95,
        config: Mapping[str, Any] | None = None,
        with_records: bool = False) -> dict[str, Entry]:
    """Makes ``dift.jsonl``, ``rl.jsonl`` and the images they name under ``root``.

    Videos already in the manifest are skipped; a bad one is recorded with its reason.
    ``with_records`` writes the same samples as ArrayRecord shards too.
    """
    root = Path(root)
    manifest = Manifest(root, config or {})
    with Progress() as progress:
        tracked = progress.track(works, total=total, description="videos")
        for number, work in enumerate(tracked):
            if work.video_id in manifest.entries:
                continue
            manifest.add(_one(root, work, number, kinds, spec, seed, quality))
    manifest.close()
    entries = dict(sorted(manifest.entries.items()))
    rows = [records.sample_from_json(dict(s), root) for e in entries.values() for s in e.samples]
    jsonl.write(root / "dift.jsonl", (jsonl.dift_row(s) for s in rows))
    jsonl.write(root / "rl.jsonl", (jsonl.rl_row(s) for s in rows))
    if with_records and rows:
        records.write_shards(root, "dift", (_packed(root, s) for s in rows))
    return entries


def _packed(root: Path, sample: Any) -> bytes:
    return records.encode_sample(sample, [(root / p).read_bytes() for p in sample.frames],
                                 [(root / p).read_bytes() for p in sample.overlays])


def _one(root: Path, work: Work, number: int, kinds: Sequence[str], spec: QuestionSpec, seed: int,
         quality: int) -> Entry:
    dropped: collections.Counter[str] = collections.Counter()
    rows: list[Mapping[str, Any]] = []
    pictures: dict[str, Any] = {}
    try:
        for clip in work.clips():
            rng = seeded(seed, clip.video_id)
            samples, lost = samples_of(clip, shown(clip, kinds), spec, STYLES[spec.style], rng,
                                       quality, number * len(kinds) + len(rows))
            for one in samples:
                write.write_files(root, one.files)
            rows += [records.sample_to_json(one.sample) for one in samples]
            dropped += lost
            pictures[clip.video_id] = drawing(clip)
    except InputError as error:
        return Entry(work.video_id, "failed", str(error), dict(dropped))
    except OSError:  # A full disk is not the video's fault.
        raise
    except Exception as error:  # One odd video must not end a run of thousands.
        reason = f"unexpected {type(error).__name__}: {error}"
        return Entry(work.video_id, "failed", reason, dict(dropped))
    if not rows:
        why = "; ".join(dropped) or "nothing to ask"
        return Entry(work.video_id, "empty", why, dict(dropped), drawing=pictures)
    return Entry(work.video_id, "done", "", dict(dropped), tuple(rows), pictures)


def drawing(clip: Clip) -> dict[str, Any]:
    """Camera spans, camera path (x, z) and screen tracks of a clip, as JSON values."""
    path = [] if clip.poses is None else clip.poses[:, [0, 2], 3].round(3).tolist()
    tracks = [{"name": t.name, "role": t.role,
               "points": [[round(float(v), 3) for v in p] for p in centre(t)[t.seen]]}
              for t in clip.tracks]  # fmt: skip
    spans = [[round(s.start, 3), round(s.end, 3), list(s.moves)] for s in clip.camera]
    return {"camera": spans, "path": path, "tracks": tracks}
