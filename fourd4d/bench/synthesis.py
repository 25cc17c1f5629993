"""How good are synthesis's labels, and how fast is it? Simulated clips against their truth.

    python -m fourd4d.bench synthesis --clips 500 --json synthesis.json

Clips come from a seed range of their own, with texture, fog, motion blur, sensor noise, shake and
H.264; each is written as a video file and read back by the same code that reads anybody's videos,
and asked what the configuration for videos asks.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import track as progress

from fourd4d.bench.common.result import Result
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.synth.annotate import AnnotateSpec, iter_clips
from fourd4d.synth.camera.pose_backends import open_named
from fourd4d.synth.clip import MOVES, Clip, Track
from fourd4d.synth.dataset import build
from fourd4d.synth.questions import geometry, reasoning_full
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import Question
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.questions.types.direction import direction_of
from fourd4d.synth.questions.types.distance import distance_change
from fourd4d.synth.questions.types.speed import speed_change
from fourd4d.synth.simulator import clips
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.codec import encode_video
from fourd4d.synth.simulator.render import render
from fourd4d.synth.simulator.spec import SceneSpec

SEED: Final = 990_001
SCENES: Final = SceneSpec(
    height=256, width=256, frames=32, fps=8.0, fine=1, things=6, movers=2, occlusion=True,
    combos=0.25, moving_camera=0.35, shake=0.2, detail=1.0, fog=0.35, blur=0.5, blur_steps=2,
    noise=5.0, weights=(0.4, 0.25, 0.15, 0.1, 0.1),
)
CRF: Final = 24
DIGEST: Final = AnnotateSpec(fps=4.0)  # The clips last four seconds only.
# What configs/synth_video.py asks.
QUESTIONS: Final = QuestionSpec(
    style="full", varying=True, parts=3,
    overlays={"camera": 2, "direction": 4, "distance": 4, "speed": 5, "box_direction": 3})
_MOST_IN_VAIN: Final = 3  # Pools of workers in a row of which none finishes anything.
# Borders themselves, without a margin: the truth always answers.
FORCED: Final = Margins(angle=0.0, still=0.06, moving=0.06, same=1.2, changed=1.2, steady=1.45,
                        pace=1.45, straight=0.0)
SMALLEST: Final = 0.0012  # Share of the frame below which nothing is looked for.
SAME: Final = 0.5, 0.3  # Overlap with the truth that finds a thing; that makes it the thing.


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=500, help="simulated clips to digest")
    parser.add_argument("--poses", nargs="+", default=["features"], choices=("features", "colmap"),
                        help="sources of poses; the first one's clips are asked about")
    parser.add_argument("--questions", type=int, default=5000, help="questions put to the guessers")
    parser.add_argument("--rendered", type=int, default=10_000,
                        help="clips rendered, asked about and forgotten, to see memory stay flat")
    parser.add_argument("--speed", type=int, default=2, help="batches timed at each picture size")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes that digest")


def main(args: argparse.Namespace) -> Result:
    metrics: dict[str, float] = {}
    context: dict[str, Any] = {"clips": args.clips, "seed": SEED, "crf": CRF,
                               "workers": args.workers, "scenes": dataclasses.asdict(SCENES),
                               "questions": dataclasses.asdict(QUESTIONS)}
    if args.rendered:  # First, while the process is small.
        metrics |= endurance(args.rendered)
    if args.speed:
        metrics |= speed(args.speed)
    for number, poses in enumerate(args.poses if args.clips else ()):
        scores = digest_all(poses, args.clips, args.workers)
        metrics |= scores.camera(poses)
        if number == 0:
            metrics |= scores.metrics()
            context["dropped"] = dict(scores.dropped.most_common())
    if args.questions:
        metrics |= guessers(args.questions)
    return Result("synthesis", metrics, context)


@dataclasses.dataclass
class Scores:
    """Sums over clips.

    Attributes:
      hits, false, missed: moments of 0.1 s, by camera move.
      told: whether each moment has moves at all.
      ious: overlap of the main thing found with the moving thing it fits best; 0 where missed.
      followed: of each thing held to be moving, its best overlap with one that is.
      answers: whether each answer is right, by kind.
      kept: whether a clip led to a question.
      seconds: spent digesting.
    """

    hits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    false: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    missed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    told: list[bool] = dataclasses.field(default_factory=list)
    ious: list[float] = dataclasses.field(default_factory=list)
    followed: list[float] = dataclasses.field(default_factory=list)
    answers: dict[str, list[bool]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list))
    kept: list[bool] = dataclasses.field(default_factory=list)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0

    def __iadd__(self, other: Scores) -> Scores:
        for name in ("hits", "false", "missed", "dropped"):
            getattr(self, name).update(getattr(other, name))
        for name in ("told", "ious", "followed", "kept"):
            getattr(self, name).extend(getattr(other, name))
        for kind, given in other.answers.items():
            self.answers[kind] += given
        self.seconds += other.seconds
        return self

    def camera(self, poses: str) -> dict[str, float | int]:
        f1 = {move: _f1(self.hits[move], self.false[move], self.missed[move]) for move in MOVES}
        shown = [f1[m] for m in MOVES if self.hits[m] + self.missed[m]]
        out = {f"camera_macro_f1_{poses}": float(np.mean(shown)) if shown else 0.0}
        out |= {f"camera_f1_{poses}_{m.lower().replace(' ', '_')}": v for m, v in f1.items()}
        return out | {f"camera_told_share_{poses}": _mean(self.told)}

    def metrics(self) -> dict[str, float | int]:
        found, same = SAME
        out = {"object_found": _mean([iou >= found for iou in self.ious]),
               "mask_iou_median": float(np.median(self.ious)) if self.ious else 0.0,
               "object_true_share": _mean([iou >= same for iou in self.followed])}
        for kind in ("direction", "distance", "speed", "camera"):
            out |= {f"{kind}_accuracy": _mean(self.answers[kind]),
                    f"{kind}_answers": len(self.answers[kind])}
        return out | {"kept_share": _mean(self.kept),
                      "clips_per_minute": 60 * len(self.kept) / max(self.seconds, 1e-9)}


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def _f1(hits: int, false: int, missed: int) -> float:
    return 2 * hits / max(2 * hits + false + missed, 1)


def digest_all(poses: str, count: int, workers: int = 1) -> Scores:
    """Return the scores of ``count`` simulated clips, each annotated from a video file.

    ``clips_per_minute`` is then that of one worker. Clips of a worker that the system ended are
    annotated again. Raises InputError where workers keep ending.
    """
    starts = range(0, count, 8)
    parts = [(poses, start, min(8, count - start)) for start in starts]
    scores = Scores()
    if workers <= 1:
        for part in progress(parts, f"clips, {poses}"):
            scores += digest_part(*part)
        return scores
    # Fresh processes, since threads of JAX do not survive a fork; one thread of BLAS in each.
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        for one in _by_workers(parts, workers, f"clips, {poses}"):
            scores += one
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return scores


def _by_workers(parts: Sequence[tuple[str, int, int]], workers: int, name: str) -> list[Any]:
    """Return the scores of each part, in order."""
    found: dict[int, Scores] = {}
    in_vain = 0
    while len(found) < len(parts):
        before = len(found)
        with concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn")) as pool:
            jobs: dict[concurrent.futures.Future[Scores], int] = {}
            # A lost worker takes all unfinished jobs of its pool with it, and those to come.
            with contextlib.suppress(BrokenProcessPool):
                for number in range(len(parts)):
                    if number not in found:
                        jobs[pool.submit(digest_part, *parts[number])] = number
            for job in progress(concurrent.futures.as_completed(jobs), name, total=len(jobs)):
                with contextlib.suppress(BrokenProcessPool):
                    found[jobs[job]] = job.result()
        in_vain = in_vain + 1 if len(found) == before else 0
        if in_vain == _MOST_IN_VAIN:
            raise InputError("--workers", "the system keeps ending worker processes, as it does "
                             "for want of memory", "Use fewer workers")
        if len(found) < len(parts):
            say("a worker process was ended by the system; its clips are annotated again",
                stderr=True)
    return [found[number] for number in range(len(parts))]


def digest_part(poses: str, start: int, count: int, scenes: SceneSpec = SCENES) -> Scores:
    """Scores of the simulated clips number ``start`` … ``start + count - 1``."""
    scores = Scores()
    spec = dataclasses.replace(DIGEST, poses=open_named(poses), max_clips=1)
    with tempfile.TemporaryDirectory() as folder:
        for truth in clips.simulate_clips(scenes, SEED, start, count, "bench"):
            path = Path(folder) / f"{truth.video_id}.mp4"
            path.write_bytes(encode_video(truth.frames, scenes.fps, CRF))
            begin = time.perf_counter()
            try:
                seen = next(iter_clips(path, spec))
            except InputError as error:
                scores.dropped[f"clip: {error.what}"] += 1
                scores.kept.append(False)
                continue
            finally:
                scores.seconds += time.perf_counter() - begin
                path.unlink()
            add(scores, truth, seen)
    return scores


def add(scores: Scores, truth: Clip, seen: Clip) -> None:
    """Counts one digested clip against its truth."""
    _count_moves(scores, truth, seen)
    overlaps = {id(track): _best(truth, track, seen) for track in seen.tracks
                if track.role == "dynamic"}
    scores.followed += [overlap for overlap, _ in overlaps.values()]
    if any(_goes_somewhere(t, truth) and _in_view(t) for t in truth.tracks):
        scores.ious.append(overlaps[id(seen.dynamic)][0] if seen.dynamic is not None else 0.0)
    rng, kept = build.seeded(SEED, truth.video_id), False
    for kind, subject in build.subjects(seen, tuple(QUESTION_TYPES)):
        try:
            question = ask(seen, kind, rng, QUESTIONS, subject)
            reasoning_full.reasoning(seen, question, rng)
        except Ambiguous as why:
            scores.dropped[str(why)] += 1
            continue
        kept = True
        right = _true_answer(truth, seen, question, overlaps)
        name = "direction" if kind == "box_direction" else kind
        scores.answers[name].append(right == question.answer_text)
    scores.kept.append(kept)


def _true_answer(truth: Clip, seen: Clip, question: Question,
                 overlaps: Mapping[int, tuple[float, Track | None]]) -> str:
    """The true answer over the question's span; '' where a thing that does not move is asked of."""
    frames = tuple(int(np.abs(truth.timestamps - seen.timestamps[i]).argmin())
                   for i in question.frames)
    if question.type == "camera":
        middle = truth.timestamps[[frames[0], frames[-1]]].mean()
        moves = next(s.moves for s in truth.camera if s.start <= middle <= s.end)
        return " + ".join(sorted(moves, key=MOVES.index))
    overlap, twin = overlaps[id(question.track)]
    if twin is None or overlap < SAME[1]:
        return ""
    try:
        if question.type == "distance":
            values, _ = geometry.distance(truth, twin)
            return distance_change(values[frames[0] : frames[-1] + 1], FORCED)
        if question.type == "speed":
            return speed_change(geometry.steps(truth, twin, frames)[0], FORCED)
        move, _ = geometry.displacement(truth, twin, frames[0], frames[-1])
        return direction_of(move, FORCED)
    except Ambiguous:
        return ""


def _goes_somewhere(track: Track, clip: Clip) -> bool:
    if track.role != "dynamic":
        return False
    away, _ = geometry.displacement(clip, track, 0, len(clip.frames) - 1)
    middle, _ = geometry.displacement(clip, track, 0, len(clip.frames) // 2)
    return bool(max(np.linalg.norm(away), np.linalg.norm(middle)) > FORCED.moving)


def _in_view(track: Track) -> bool:
    """Whether a thing is large enough to be looked for in half of the frames."""
    return bool(np.mean(track.masks.mean((1, 2)) >= SMALLEST) >= 0.5)


def _best(truth: Clip, found: Track, seen: Clip) -> tuple[float, Track | None]:
    """Mean mask overlap of a digested thing with the moving thing it fits best, and that thing."""
    near = [int(np.abs(seen.timestamps - t).argmin()) for t in truth.timestamps]
    best: tuple[float, Track | None] = (0.0, None)
    for track in truth.tracks:
        if track.role != "dynamic":
            continue
        ious = []
        for i, j in enumerate(near):
            mine = _resized(found.masks[j], track.masks[i].shape)
            union = (track.masks[i] | mine).sum()
            if track.masks[i].any() and abs(truth.timestamps[i] - seen.timestamps[j]) < 0.02:
                ious.append((track.masks[i] & mine).sum() / union)
        overlap = float(np.mean(ious)) if ious else 0.0
        if overlap > best[0]:
            best = overlap, track
    return best


def _resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows = ((np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]).astype(int)
    return mask[rows][:, columns]


def _count_moves(scores: Scores, truth: Clip, seen: Clip, step: float = 0.1) -> None:
    """Per moment of 0.1 s: the set of true moves against the set told. Silence is not an error."""
    for moment in np.arange(truth.timestamps[0] + step / 2, truth.timestamps[-1], step):
        real = next(set(s.moves) for s in truth.camera if s.start <= moment <= s.end)
        told = next((set(s.moves) for s in seen.camera if s.start <= moment <= s.end), set())
        scores.told.append(bool(told))
        if not told:
            continue
        scores.hits.update(real & told)
        scores.false.update(told - real)
        scores.missed.update(real - told)


def speed(batches: int) -> dict[str, float | int]:
    """Frames a second of the renderer, drawing and labels left out, at two sizes.

    ``plain`` scenes are those of the quickstart, ``rich`` ones those of this benchmark.
    """
    out = {}
    for side, kind in itertools.product((128, 448), ("plain", "rich")):
        base = SceneSpec() if kind == "plain" else SCENES
        spec = dataclasses.replace(base, height=side, width=side, fine=1, frames=8, blur=0.0)
        count = clips.batch_size(spec)
        scenes = [clips.scene(spec, SEED, number) for number in range(count)]
        render(scenes, side, side, spec.fine)  # Compiles.
        start = time.perf_counter()
        for _ in range(batches):
            render(scenes, side, side, spec.fine)
        seconds = time.perf_counter() - start
        out[f"frames_per_second_{kind}_{side}"] = batches * count * spec.frames / seconds
    return out


def endurance(count: int, first: int = 100) -> dict[str, float | int]:
    """Clips a minute from drawing to questions, and peak memory after ``first`` and all clips.

    Clips are those of the quickstart; nothing is stored.
    """
    clips = simulate_clips(SceneSpec(), SEED + 2, 0, count, "endurance")
    memory, start, asked = {}, time.perf_counter(), 0
    for number, clip in enumerate(progress(clips, "rendered", total=count), 1):
        asked += sum(1 for _ in _questions(clip))
        if number in (min(first, count), count):
            memory[number] = _peak()
        if number == min(first, count):
            start, asked = time.perf_counter(), 0
    seconds = time.perf_counter() - start
    return {"rendered_clips": count,
            "rendered_clips_per_minute": 60 * max(count - first, 0) / max(seconds, 1e-9),
            "rendered_questions": asked,
            "peak_bytes_first": memory[min(first, count)], "peak_bytes_all": memory[count]}


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _questions(clip: Clip) -> Iterator[tuple[str, Question]]:
    """Questions that are asked about a simulated clip, with their kinds."""
    rng = build.seeded(SEED, clip.video_id)
    for kind in build.shown(clip, tuple(QUESTION_TYPES)):
        try:
            question = ask(clip, kind, rng, QUESTIONS)
            reasoning_full.reasoning(clip, question, rng)
        except Ambiguous:
            continue
        yield kind, question


def guessers(count: int, scenes: SceneSpec | None = None) -> dict[str, float | int]:
    """Accuracy of answering ``count`` questions from their options, or their letters, alone.

    Each guesser learns how often every option (or letter) was right on one half of the questions
    and is scored on the other half, and the other way round.
    """
    scenes = scenes or dataclasses.replace(SCENES, shake=0.0)
    asked: list[tuple[str, tuple[str, ...], str]] = []
    for number in progress(itertools.count(), "questions", total=count):
        if len(asked) >= count:
            break
        clip = clips.outline(scenes, SEED + 1, number)
        asked += [(kind, q.options, q.answer) for kind, q in _questions(clip)]
    one, other = asked[0::2], asked[1::2]
    features: dict[str, Callable[[str, str, str], object]] = {
        "options_only": lambda kind, option, _: (kind, option),
        "letter_only": lambda kind, option, letter: letter}
    out: dict[str, float] = {"guesser_questions": len(asked)}
    for name, feature in features.items():
        hits = _guess(one, other, feature) + _guess(other, one, feature)
        out[f"{name}_accuracy"] = hits / max(len(asked), 1)
    return out


def _guess(learn: Iterable[Any], test: Sequence[Any],
           feature: Callable[[str, str, str], object]) -> int:
    """Hits of choosing the option whose feature was right most often where it was offered."""
    offered: collections.Counter[object] = collections.Counter()
    right: collections.Counter[object] = collections.Counter()
    for kind, options, answer in learn:
        for letter, option in zip("ABCD", options, strict=True):
            offered[feature(kind, option, letter)] += 1
            right[feature(kind, option, letter)] += letter == answer
    rate: Mapping[object, float] = {f: right[f] / n for f, n in offered.items()}
    hits = 0
    for kind, options, answer in test:
        best = max(zip("ABCD", options, strict=True),
                   key=lambda pair: rate.get(feature(kind, pair[1], pair[0]), 0.25))
        hits += best[0] == answer
    return hits
