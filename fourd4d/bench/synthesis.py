"""How good are synthesis's labels? Simulated clips, digested as video files, against the truth.

    python -m fourd4d.bench synthesis --clips 500 --json synthesis.json

Clips come from a seed range of their own, with texture, fog, motion blur, sensor noise, shake and
H.264; each is written as a video file and read back by the same code that reads anybody's videos.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import track as progress

from fourd4d.bench.report import Result
from fourd4d.core.errors import InputError
from fourd4d.synth import full, measure, pipeline
from fourd4d.synth.clip import MOVES, Clip, Track
from fourd4d.synth.measure import Dropped, Margins
from fourd4d.synth.questions import KINDS, Question, QuestionSpec, ask
from fourd4d.synth.scenes.codec import encode_video
from fourd4d.synth.scenes.source import clips, outline
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.video import DigestSpec, digest

SEED: Final = 990_001
SCENES: Final = SceneSpec(
    height=256, width=256, frames=32, fps=8.0, fine=1, things=6, movers=2, occlusion=True,
    combos=0.25, moving_camera=0.35, shake=0.2, detail=1.0, fog=0.35, blur=0.5, blur_steps=2,
    noise=5.0, weights=(0.4, 0.25, 0.15, 0.1, 0.1),
)  # fmt: skip
CRF: Final = 24
# Borders themselves, without a margin: the truth always answers.
FORCED: Final = Margins(angle=0.0, still=0.06, moving=0.06, same=1.2, changed=1.2, steady=1.45,
                        pace=1.45, straight=0.0)  # fmt: skip
Digest = Callable[[Path], Clip]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=500, help="simulated clips to digest")
    parser.add_argument("--questions", type=int, default=5000, help="questions put to the guessers")


def main(args: argparse.Namespace) -> Result:
    metrics: dict[str, float] = {}
    scores = digest_all(_digest, args.clips) if args.clips else None
    if scores:
        metrics |= scores.metrics()
    metrics |= guessers(args.questions)
    context = {"clips": args.clips, "seed": SEED, "crf": CRF,
               "scenes": dataclasses.asdict(SCENES),
               "dropped": dict(scores.dropped) if scores else {}}  # fmt: skip
    return Result("synthesis", metrics, context)


def _digest(path: Path) -> Clip:
    return digest(path, DigestSpec(fps=4.0))[0]


@dataclasses.dataclass
class Scores:
    """Sums over clips."""

    hits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    false: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    missed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    ious: list[float] = dataclasses.field(default_factory=list)
    found: list[bool] = dataclasses.field(default_factory=list)
    answers: dict[str, list[bool]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list))
    told: list[bool] = dataclasses.field(default_factory=list)
    kept: list[bool] = dataclasses.field(default_factory=list)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0

    def metrics(self, poses: str = "features") -> dict[str, float]:
        f1 = {move: _f1(self.hits[move], self.false[move], self.missed[move]) for move in MOVES}
        shown = [f1[m] for m in MOVES if self.hits[m] + self.missed[m]]
        out = {f"camera_macro_f1_{poses}": float(np.mean(shown)) if shown else 0.0}
        out |= {f"camera_f1_{poses}_{m.lower().replace(' ', '_')}": v for m, v in f1.items()}
        out |= {"camera_told_share": _mean(self.told), "object_found": _mean(self.found),
                "mask_iou_median": float(np.median(self.ious)) if self.ious else 0.0,
                "direction_accuracy": _mean(self.answers["direction"]),
                "distance_accuracy": _mean(self.answers["distance"]),
                "speed_accuracy": _mean(self.answers["speed"]),
                "camera_accuracy": _mean(self.answers["camera"]),
                "kept_share": _mean(self.kept)}
        out |= {f"{kind}_answers": len(given) for kind, given in sorted(self.answers.items())}
        out["clips_per_minute"] = 60 * len(self.kept) / max(self.seconds, 1e-9)
        return out


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def _f1(hits: int, false: int, missed: int) -> float:
    return 2 * hits / max(2 * hits + false + missed, 1)


def digest_all(take: Digest, count: int, scenes: SceneSpec = SCENES) -> Scores:
    """Scores of ``count`` simulated clips, each digested from a video file."""
    scores = Scores()
    with tempfile.TemporaryDirectory() as folder:
        for truth in progress(clips(scenes, SEED, 0, count, "bench"), "clips", total=count):
            path = Path(folder) / f"{truth.video_id}.mp4"
            path.write_bytes(encode_video(truth.frames, scenes.fps, CRF))
            start = time.perf_counter()
            try:
                seen = take(path)
            except InputError as error:
                scores.dropped[f"clip: {error.what}"] += 1
                scores.kept.append(False)
                continue
            finally:
                scores.seconds += time.perf_counter() - start
                path.unlink()
            add(scores, truth, seen)
    return scores


def add(scores: Scores, truth: Clip, seen: Clip) -> None:
    """Counts one digested clip against its truth."""
    _count_moves(scores, truth, seen)
    twin = None
    if truth.dynamic is not None and any(_goes_somewhere(t, truth) for t in truth.tracks):
        overlap, twin = _best(truth, seen)
        scores.found.append(overlap >= 0.5)
        scores.ious.append(overlap)
        if overlap < 0.3:
            twin = None
    spec, kept = QuestionSpec(style="full"), False
    rng = pipeline.seeded(SEED, truth.video_id)
    for kind in KINDS:
        for segment in seen.camera if kind == "camera" else (None,):
            try:
                question = ask(seen, kind, rng, spec, segment)
                full.reasoning(seen, question, rng)
            except Dropped as why:
                scores.dropped[str(why)] += 1
                continue
            kept = True
            right = _true_answer(truth, seen, question, twin)
            if right is not None:
                name = "direction" if kind == "box_direction" else kind
                scores.answers[name].append(right == question.answer_text)
    scores.kept.append(kept)


def _true_answer(truth: Clip, seen: Clip, question: Question, twin: Track | None) -> str | None:
    """The true answer over the question's span; None where the wrong thing was followed."""
    frames = tuple(int(np.abs(truth.timestamps - seen.timestamps[i]).argmin())
                   for i in question.frames)
    if question.kind == "camera":
        middle = truth.timestamps[[frames[0], frames[-1]]].mean()
        return next((" + ".join(s.moves) for s in truth.camera if s.start <= middle <= s.end), None)
    if twin is None:
        return None
    try:
        if question.kind == "distance":
            values, _ = measure.distance(truth, twin)
            return measure.distance_answer(values[frames[0] : frames[-1] + 1], FORCED)
        if question.kind == "speed":
            return measure.speed_answer(measure.steps(truth, twin, frames)[0], FORCED)
        move, _ = measure.displacement(truth, twin, frames[0], frames[-1])
        return measure.direction(move, FORCED)
    except Dropped:
        return None


def _goes_somewhere(track: Track, clip: Clip) -> bool:
    if track.role != "dynamic":
        return False
    away, _ = measure.displacement(clip, track, 0, len(clip.frames) - 1)
    middle, _ = measure.displacement(clip, track, 0, len(clip.frames) // 2)
    return bool(max(np.linalg.norm(away), np.linalg.norm(middle)) > FORCED.moving)


def _best(truth: Clip, seen: Clip) -> tuple[float, Track | None]:
    """Mean mask overlap of the digested main thing with the moving thing it fits best."""
    if seen.dynamic is None:
        return 0.0, None
    near = [int(np.abs(seen.timestamps - t).argmin()) for t in truth.timestamps]
    best: tuple[float, Track | None] = (0.0, None)
    for track in truth.tracks:
        if not _goes_somewhere(track, truth):
            continue
        ious = []
        for i, j in enumerate(near):
            mine = _resized(seen.dynamic.masks[j], track.masks[i].shape)
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


def guessers(count: int, scenes: SceneSpec | None = None) -> dict[str, float]:
    """Accuracy of answering ``count`` questions from their options, or their letters, alone.

    Each guesser learns how often every option (or letter) was right on one half of the questions
    and is scored on the other half.
    """
    scenes = scenes or dataclasses.replace(SCENES, shake=0.0)
    spec = QuestionSpec(style="full")
    asked: list[tuple[str, tuple[str, ...], str]] = []
    for number in progress(itertools.count(), "questions", total=count):
        if len(asked) >= count:
            break
        clip = outline(scenes, SEED + 1, number)
        rng = pipeline.seeded(SEED, clip.video_id)
        for kind in pipeline.shown(clip, KINDS):
            try:
                question = ask(clip, kind, rng, spec)
                full.reasoning(clip, question, rng)
            except Dropped:
                continue
            asked.append((kind, question.options, question.answer))
    half = len(asked) // 2
    learn, test = asked[:half], asked[half:]
    return {"options_only_accuracy": _guess(learn, test, lambda kind, option, _: (kind, option)),
            "letter_only_accuracy": _guess(learn, test, lambda *three: three[2]),
            "guesser_questions": len(asked)}  # fmt: skip


def _guess(learn: Iterable[Any], test: Sequence[Any],
           feature: Callable[[str, str, str], object]) -> float:
    """Accuracy of choosing the option whose feature was right most often where it was offered."""
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
    return hits / max(len(test), 1)
