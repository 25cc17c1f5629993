"""Questions about a clip: kinds, answers by margin, options from symmetric pools."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.sample import LETTERS
from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.questions import answer_pools, geometry
from fourd4d.synth.questions.margins import Ambiguous, Margins

KINDS: Final = ("camera", "direction", "distance", "speed", "box_direction")
_STARTS = 24  # Most places at which a span may start.


@dataclasses.dataclass(frozen=True)
class QuestionSpec:
    """How questions are asked.

    Attributes:
      style: ``short`` for tiny models: few words, positions on a 10 × 10 grid, one-decimal boxes.
        ``full``: sentences, positions in percent, spans named in the question.
      overlays: mental images of a question, by kind.
      margins: how clear a case must be.
      varying: whether ``Varying speed`` is an answer.
      parts: where the whole of what is seen is ambiguous, its halves, thirds, … up to so many parts
        are tried.
    """

    style: str = "full"
    overlays: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"camera": 2, "direction": 3, "distance": 3, "speed": 4,
                                 "box_direction": 3})
    margins: Margins = Margins()
    varying: bool = False
    parts: int = 1

    def __post_init__(self) -> None:
        if self.style not in ("short", "full"):
            raise InputError("QuestionSpec.style", f"unknown value {self.style!r}",
                             "Use 'short' or 'full'")
        if set(self.overlays) != set(KINDS) or min(self.overlays.values()) < 2:
            raise InputError("QuestionSpec.overlays", f"{dict(self.overlays)}",
                             f"Give 2 or more for each of {KINDS}")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its key and what its answer is read from.

    Attributes:
      options: A, B, C, D.
      answer: the right letter.
      track: the thing shown in the overlays.
      landmark: the thing that stands for the static scene, where there is one.
      frames: frame numbers of the overlays, rising.
      provenance: where the answer comes from (JSON values).
    """

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    track: Track
    landmark: Track | None
    frames: tuple[int, ...]
    provenance: Mapping[str, Any]

    @property
    def answer_text(self) -> str:
        return self.options[LETTERS.index(self.answer)]


_WORDING: Final = {
    "short": {
        "camera": ("How does the camera move?", "What does the camera do?",
                   "Which camera move is this?", "What is the camera motion?"),
        "direction": ("Which way does the {name} move?", "Where does the {name} go?",
                      "In which direction does the {name} move?",
                      "What is the motion direction of the {name}?"),
        "distance": ("How does the distance of the {name} change?",
                     "Does the {name} get closer or farther?",
                     "How far is the {name} over time?"),
        "speed": ("How does the speed of the {name} change?", "How fast is the {name} over time?",
                  "Does the {name} get faster or slower?"),
        "box_direction": ("Which way does the thing in box {box} move?",
                          "In which direction does the object in box {box} go?"),
    },
    "full": {
        "camera": ("How does the camera move between {start:.1f}s and {end:.1f}s?",
                   "What is the camera doing from {start:.1f}s to {end:.1f}s?",
                   "Which camera motion describes the span {start:.1f}s to {end:.1f}s?"),
        "direction": ("From the camera's viewpoint at {start:.1f}s, in which direction does the "
                      "{name} move until {end:.1f}s?",
                      "Between {start:.1f}s and {end:.1f}s, which way does the {name} move, as "
                      "seen from the camera at the start?",
                      "Setting camera motion aside, where does the {name} head from {start:.1f}s "
                      "to {end:.1f}s?"),
        "distance": ("How does the distance between the {name} and the camera change from "
                     "{start:.1f}s to {end:.1f}s?",
                     "Between {start:.1f}s and {end:.1f}s, does the {name} come closer to the "
                     "camera or get farther from it?"),
        "speed": ("How does the speed of the {name} change between {start:.1f}s and {end:.1f}s?",
                  "From {start:.1f}s to {end:.1f}s, how does the pace of the {name} develop?"),
        "box_direction": ("At {start:.1f}s an object lies in the box {box} (x0, y0, x1, y1 as "
                          "fractions of the frame). Which way does it move until {end:.1f}s?",
                          "Which direction does the object inside {box} (normalised x0, y0, x1, "
                          "y1 at {start:.1f}s) take until {end:.1f}s?"),
    },
}


def ask(clip: Clip, kind: str, rng: np.random.Generator, spec: QuestionSpec,
        segment: CameraSegment | None = None, track: Track | None = None) -> Question:
    """A question of one kind about the clip, or about one segment or track of it.

    Raises Ambiguous, with the reason, where the clip does not show the kind clearly.
    """
    if kind == "camera":
        return _camera(clip, rng, spec, segment)
    track = track or clip.dynamic
    if track is None:
        raise Ambiguous(f"{kind}: nothing moves")
    if kind not in KINDS:
        raise InputError("question kind", f"unknown value {kind!r}", f"Use one of {KINDS}")
    reason = ""  # Not the exception, which would hold on to this frame, and so to the clip.
    for first, last in _windows(track, kind, spec):
        try:
            return _about(clip, kind, rng, spec, track, first, last)
        except Ambiguous as why:
            reason = reason or str(why)
    raise Ambiguous(reason)


def _windows(track: Track, kind: str, spec: QuestionSpec) -> Iterator[tuple[int, int]]:
    """First and last frames to try: all that is seen, then its parts; of a direction, which one
    way tells, ever shorter spans down to the smallest part."""
    seen = np.flatnonzero(track.seen)
    if len(seen) < 2:
        raise Ambiguous(f"{kind}: seen in fewer than two frames")
    first, last = int(seen[0]), int(seen[-1])
    yield first, last
    if "direction" in kind and spec.parts > 1:
        shortest = max(spec.overlays[kind] - 1, math.ceil((last - first) / spec.parts))
        step = max(1, (last - first) // _STARTS)
        for length in range(last - first - step, shortest - 1, -step):
            for start in range(first, last - length + 1, step):
                yield start, start + length
        return
    for parts in range(2, spec.parts + 1):
        cuts = np.linspace(first, last, parts + 1).astype(int)
        yield from ((int(a), int(b)) for a, b in itertools.pairwise(cuts)
                    if b - a >= 2 * spec.overlays[kind])


def _about(clip: Clip, kind: str, rng: np.random.Generator, spec: QuestionSpec, track: Track,
           first: int, last: int) -> Question:
    """The question about the frames ``first`` … ``last``, or Ambiguous."""
    frames = geometry.evenly_spaced(first, last, spec.overlays[kind])
    if not track.seen[list(frames)].all():
        seen = first + np.flatnonzero(track.seen[first : last + 1])
        near = {int(seen[np.abs(seen - frame).argmin()]) for frame in frames}
        if len(near) < len(frames):
            raise Ambiguous(f"{kind}: hidden at an overlay")
        frames = tuple(sorted(near))
    first, last = frames[0], frames[-1]
    pool = answer_pools.DIRECTION
    if kind in ("direction", "box_direction"):
        answer, source = geometry.confident_direction(clip, track, first, last, spec.margins)
        if answer == "Stationary":
            steady = geometry.is_stationary(clip, track, first, last, spec.margins)
        else:
            steady = geometry.straightness(clip, track, frames) >= spec.margins.straight
        if not steady:
            raise Ambiguous(f"{kind}: it changes direction")
    elif kind == "distance":
        answer, source = geometry.confident_distance(clip, track, first, last, spec.margins)
        pool = answer_pools.DISTANCE
    else:
        if len(frames) < 4:
            raise Ambiguous("speed: fewer than four readings")
        answer, source = geometry.confident_speed(clip, track, frames, spec.margins)
        pool = answer_pools.SPEED_VARYING if spec.varying else answer_pools.SPEED
        if answer not in pool.answers:
            raise Ambiguous("speed: varies")
    box = _box(clip, track, first, spec) if kind == "box_direction" else ""
    text = _word(kind, rng, spec, name=track.name, box=box, start=clip.timestamps[first],
                 end=clip.timestamps[last])
    options = pool.options(answer, rng)
    return Question(kind, text, options, LETTERS[options.index(answer)], track,
                    clip.landmark, frames, {"answer_from": source})


def _word(kind: str, rng: np.random.Generator, spec: QuestionSpec, **facts: Any) -> str:
    wordings = _WORDING[spec.style][kind]
    return wordings[rng.integers(len(wordings))].format(**facts)


def _camera(clip: Clip, rng: np.random.Generator, spec: QuestionSpec,
            segment: CameraSegment | None) -> Question:
    if segment is None:
        if not clip.camera:
            raise Ambiguous("camera: the motion is unknown")
        segment = clip.camera[0]
    if not segment.moves:
        raise Ambiguous("camera: the motion is unclear")
    if len(segment.moves) > 3:
        raise Ambiguous("camera: more than three moves at once")
    first, last = geometry.frames_of(clip, segment)
    mark = clip.landmark
    if mark is None:
        raise Ambiguous("camera: no landmark")
    seen = [i for i in range(first, last + 1) if mark.seen[i]]
    if len(seen) < 2 or (seen[-1] - seen[0]) < 0.5 * (last - first):
        raise Ambiguous("camera: the landmark is seen too briefly")
    count = min(spec.overlays["camera"] + (len(segment.moves) - 1), 4)
    frames = geometry.evenly_spaced(seen[0], seen[-1], count)
    if not mark.seen[list(frames)].all():
        raise Ambiguous("camera: landmark hidden at an overlay")
    answer = " + ".join(segment.moves)
    options = (answer_pools.CAMERA.options(answer, rng) if len(segment.moves) == 1
               else answer_pools.combined(segment.moves, rng))
    # The span told is the span shown: the reasoning names the same times.
    start, end = clip.timestamps[[frames[0], frames[-1]]]
    text = _word("camera", rng, spec, start=start, end=end)
    return Question("camera", text, options, LETTERS[options.index(answer)], mark, mark, frames,
                    {"answer_from": str(clip.provenance.get("camera", "poses"))})


def _box(clip: Clip, track: Track, frame: int, spec: QuestionSpec) -> str:
    """The thing's box in words, rounded outwards. Ambiguous when another thing shares it."""
    digits = 1 if spec.style == "short" else 2
    unit = 10**digits
    x0, y0, x1, y1 = track.boxes[frame] * unit
    box = np.array([np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)]) / unit
    for other in clip.tracks:
        if other is track or not other.seen[frame]:
            continue
        a = other.boxes[frame]
        if max(a[0], box[0]) < min(a[2], box[2]) and max(a[1], box[1]) < min(a[3], box[3]):
            raise Ambiguous("box_direction: another thing in the box")
    return "[" + ", ".join(f"{v:.{digits}f}" for v in np.clip(box, 0, 1)) + "]"
