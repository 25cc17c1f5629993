"""Writes free-text tasks for pretraining a tiny base model, as record shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.progress import Progress

from fourd4d.core import records
from fourd4d.core.terminal import plain_console
from fourd4d.synth.clip import Clip
from fourd4d.synth.dataset import encode
from fourd4d.synth.dataset.build import SHARD_CLIPS, seeded, shown
from fourd4d.synth.questions import pretraining_tasks
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous


def base_samples(clip: Clip, kinds: Sequence[str], spec: QuestionSpec, rng: np.random.Generator,
                 quality: int, practice: pretraining_tasks.Practice = pretraining_tasks.DESCRIBED
                 ) -> list[encode.EncodedSample]:
    """Return free-text tasks of a clip; none where it shows nothing clearly."""
    encoder = encode.Encoder(clip, quality)
    every = range(len(clip.frames))
    out = []
    for kind in kinds:
        try:
            question = ask(clip, kind, rng, spec)
            task = pretraining_tasks.describe(clip, question, rng)
            seen = [pretraining_tasks.place(clip, rng), pretraining_tasks.listing(clip, rng),
                    pretraining_tasks.listing(clip, rng)]
        except Ambiguous:
            continue
        out += [encode.task_sample(clip, one, every, encoder) for one in (task, *seen)]
        out += [encode.task_sample(clip, pretraining_tasks.exercise(question, rng, chained),
                                   every[:2], encoder)
                for chained in (False, True)]
        for _ in range(practice.reasoned):
            try:
                question = ask(clip, kind, rng, spec)
                pair = ((pretraining_tasks.tell(clip, question), every),
                        (pretraining_tasks.work(clip, question), every[:2]))
            except Ambiguous:
                continue
            out += [encode.task_sample(clip, one, frames, encoder) for one, frames in pair]
        for number in range(practice.choices + practice.conclusions):
            even = number % 2 == 0
            try:
                question = ask(clip, kind, rng, spec)
                one = (pretraining_tasks.exercise(question, rng, chained=even)
                       if number < practice.choices
                       else pretraining_tasks.conclude(clip, question, whole=even))
            except Ambiguous:
                continue
            out.append(encode.task_sample(clip, one, every[:2], encoder))
    return out


def write_base(
    root: str | os.PathLike[str], clips: Callable[[int, int], Iterator[Clip]], count: int, *,
    kinds: Sequence[str], spec: QuestionSpec, seed: int, quality: int,
    practice: pretraining_tasks.Practice = pretraining_tasks.DESCRIBED,
) -> int:
    """Write shards of free-text tasks, one for SHARD_CLIPS clips; finished shards are kept.

    ``clips(start, count)`` returns a part of the sequence. Returns the number of shards.
    """

    def tasks(start: int, number: int) -> Iterator[bytes]:
        for clip in clips(start, number):
            rng = seeded(seed, clip.video_id)
            asked = shown(clip, kinds)
            for one in base_samples(clip, asked, spec, rng, quality, practice):
                yield one.record()

    starts = range(0, count, SHARD_CLIPS)
    with Progress(console=plain_console()) as progress:
        for number, start in enumerate(progress.track(starts, description="shards")):
            name = f"base{number:04d}"
            if not list(Path(root).glob(f"{name}-*{records.SUFFIX}")):
                records.write_shards(root, name, tasks(start, min(SHARD_CLIPS, count - start)))
    return len(starts)
