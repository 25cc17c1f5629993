"""Which way an object moves, named or given by its box.

The rule is ``direction_of``; ``confident_direction`` adds what the track's errors could change.
``read_short`` and ``shows`` are what a text may conclude from the numbers that it states.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Question
from fourd4d.synth.questions.readout import SHORT, Place, Scale
from fourd4d.synth.questions.types.base import ObjectQuestionType, Voice

SECTORS: Final = ("Right", "Right-Down", "Down", "Left-Down", "Left", "Left-Up", "Up", "Right-Up")
TOWARD, AWAY, STATIONARY = "Toward the camera", "Away from the camera", "Stationary"
POOL: Final = Pool((*((SECTORS[i], SECTORS[i + 4]) for i in range(4)), (TOWARD, AWAY)),
                   STATIONARY)
_MAX_STARTS = 24  # Of spans of one length that are tried.


# ---- the rule ----


def direction_of(displacement: Float[np.ndarray, "3"], margins: Margins) -> str:
    """Return one of the eleven answers of ``POOL``. Raises Ambiguous near a boundary.

    Args:
      displacement: in the camera's axes, see ``geometry.displacement``.
    """
    length = float(np.linalg.norm(displacement))
    if length < margins.still:
        return STATIONARY
    if length < margins.moving:
        raise Ambiguous("direction: neither moving nor still")
    across = float(np.hypot(displacement[0], displacement[1]))
    out = np.degrees(np.arctan2(abs(displacement[2]), across))
    if out > 45 + margins.angle:
        return TOWARD if displacement[2] < 0 else AWAY
    if out > 45 - margins.angle:
        raise Ambiguous("direction: between screen plane and depth")
    angle = np.degrees(np.arctan2(displacement[1], displacement[0])) % 360
    sector = round(angle / 45)
    if abs(angle - 45 * sector) > 22.5 - margins.angle:
        raise Ambiguous("direction: between two directions")
    return SECTORS[sector % 8]


def confident_direction(clip: Clip, track: Track, first: int, last: int, margins: Margins
                        ) -> tuple[str, str]:
    """Return the direction between two frames, and its source.

    The error of the centres may turn the displacement by the margin's angle at most, and the
    answer must be the same were the object ``depth_within`` times as far or as near. Raises
    Ambiguous where it may be another.
    """
    move, source = geometry.displacement(clip, track, first, last)
    answer = direction_of(move, margins)
    reach = float(np.linalg.norm(move)) * np.sin(np.radians(margins.angle))
    uncertainty = geometry.position_uncertainty(clip, track, first, last)
    if not uncertainty <= max(reach, margins.still):
        raise Ambiguous("direction: the track is not exact enough")
    loose = dataclasses.replace(margins, angle=0.0)

    def holds(other: np.ndarray) -> bool:
        try:
            return direction_of(other, loose) == answer
        except Ambiguous:
            return False

    confident = all(holds(geometry.displacement(clip, track, first, last, factor)[0])
                    for factor in {1 / track.depth_within, track.depth_within} - {1.0})
    if track.depth_error is not None and source == "geometry":
        shifts = geometry.sight_line_shifts(clip, track, first, last)
        robust = [shift is not None and holds(move - shift) and holds(move + shift)
                  for shift in shifts]
        # What rests on depth must bear every error; what goes across, the least.
        confident &= all(robust) if "camera" in answer else any(robust)
    if not confident:
        raise Ambiguous("direction: the depth is not known well enough")
    return answer, source


def is_stationary(clip: Clip, track: Track, first: int, last: int, margins: Margins) -> bool:
    """Return whether an object stays from ``first`` to ``last`` and moves at another time.

    What never clearly moves may be no moving object at all.
    """
    seen = np.flatnonzero(track.seen)
    lengths = {int(t): float(np.linalg.norm(geometry.displacement(clip, track, first, int(t))[0]))
               for t in seen if t != first}
    return (all(length < margins.moving for t, length in lengths.items() if first < t < last)
            and (track.error is None or max(lengths.values()) >= margins.moving))


# ---- what stated numbers show ----


def read_short(move: Place, scale: Scale) -> str:
    """Return the direction that a stated shift amounts to; '' where it amounts to none."""
    most = max(abs(move.x), abs(move.y))
    minor = min(abs(move.x), abs(move.y))
    if abs(move.size) >= scale.clear and most < scale.clear:
        return TOWARD if move.size > 0 else AWAY
    if abs(move.size) >= scale.clear:
        return ""
    if most < scale.clear:
        return STATIONARY
    across = ("Right" if move.x > 0 else "Left") if abs(move.x) >= scale.clear else ""
    along = ("Down" if move.y > 0 else "Up") if abs(move.y) >= scale.clear else ""
    if across and along:
        return f"{across}-{along}" if minor > 0.45 * most else ""
    return across or along


def shows(move: Place, sizes: tuple[int, int], answer: str) -> bool:
    """Return whether a stated shift (percent) and stated sizes lead to a direction."""
    ratio = sizes[1] / sizes[0]
    most = max(abs(move.x), abs(move.y))
    if answer == STATIONARY:
        return most <= 5 and 0.8 < ratio < 1.25
    if answer == TOWARD:
        return ratio >= 1.15
    if answer == AWAY:
        return ratio <= 1 / 1.15
    signs = {"Right": move.x, "Left": -move.x, "Down": move.y, "Up": -move.y}
    parts = answer.split("-")
    if min(signs[part] for part in parts) < 3:
        return False
    minor = min(abs(move.x), abs(move.y))
    return minor > 0.3 * most if len(parts) == 2 else signs[answer] == most and minor < 0.55 * most


# ---- the types ----


class Direction(ObjectQuestionType):
    """Which way a named object moves, as seen from the first camera."""

    name = "direction"
    overlays = 3
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("Which way does the {name} move?", "Where does the {name} go?",
                  "In which direction does the {name} move?",
                  "What is the motion direction of the {name}?"),
        "full": ("From the camera's viewpoint at {start:.1f}s, in which direction does the "
                 "{name} move until {end:.1f}s?",
                 "Between {start:.1f}s and {end:.1f}s, which way does the {name} move, as "
                 "seen from the camera at the start?",
                 "Setting camera motion aside, where does the {name} head from {start:.1f}s "
                 "to {end:.1f}s?"),
    }
    descriptions = ("Where is the {name} at each time?", "Describe the path of the {name}.",
                    "Track the {name} and tell its direction.")
    lead = "its motion is "

    def pool(self, spec: AskSpec) -> Pool:
        return POOL

    def windows(self, first: int, last: int, spec: AskSpec) -> Iterator[tuple[int, int]]:
        """Yield ever shorter spans, down to the smallest part: one straight stretch is enough."""
        if spec.parts < 2:
            return
        shortest = max(spec.overlays - 1, math.ceil((last - first) / spec.parts))
        step = max(1, (last - first) // _MAX_STARTS)
        for length in range(last - first - step, shortest - 1, -step):
            for start in range(first, last - length + 1, step):
                yield start, start + length

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        answer, source = confident_direction(clip, track, frames[0], frames[-1], margins)
        if answer == STATIONARY:
            steady = is_stationary(clip, track, frames[0], frames[-1], margins)
        else:
            steady = geometry.straightness(clip, track, frames) >= margins.straight
        if not steady:
            raise Ambiguous(f"{self.name}: it changes direction")
        return answer, source

    def findings_short(self, clip: Clip, question: Question) -> str:
        places = readout.places(clip, question, SHORT)
        fixed = readout.fixed_places(clip, question, SHORT)
        move = readout.shift(places, fixed)
        readout.require(read_short(move, SHORT), question.answer_text, self.name)
        reference = ""
        if fixed and question.landmark is not None:
            a, b = fixed[0], fixed[-1]
            reference = f"Fixed {question.landmark.name} {a.x},{a.y} to {b.x},{b.y}. "
        return f"{reference}Shift {readout.shift_words(move)}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        sentence, fixed = readout.reference_sentence(clip, question)
        own = readout.shift(places, fixed)
        sizes = (places[0].size, places[-1].size)
        answer = question.answer_text
        readout.require_clear(shows(own, sizes, answer), self.name)
        compensated = fixed and readout.shift(places) != own
        lead = "Taking that away, the object itself" if compensated else "The object"
        grown = {True: "grows", False: "shrinks"}[sizes[1] > sizes[0]]
        change = (f"its size {grown} from {sizes[0]}% to {sizes[1]}%" if sizes[0] != sizes[1]
                  else f"its size stays at {sizes[0]}%")
        verdict = {
            STATIONARY: "Nothing of that is motion of its own: it is Stationary.",
            TOWARD: "Growing in place means it comes toward the camera.",
            AWAY: "Shrinking in place means it goes away from the camera.",
        }.get(answer, voice.pick((f"So it moves {answer}.", f"The direction is {answer}.",
                                  f"As seen from the camera, that is {answer}.")))
        return f"{sentence} {lead} {readout.moves_words(own)}, and {change}. {verdict}".strip()


class BoxDirection(Direction):
    """Which way the object in a given box moves."""

    name = "box_direction"
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("Which way does the thing in box {box} move?",
                  "In which direction does the object in box {box} go?"),
        "full": ("At {start:.1f}s an object lies in the box {box} (x0, y0, x1, y1 as "
                 "fractions of the frame). Which way does it move until {end:.1f}s?",
                 "Which direction does the object inside {box} (normalised x0, y0, x1, "
                 "y1 at {start:.1f}s) take until {end:.1f}s?"),
    }
    descriptions = ("Describe the thing in {box}.", "Track the thing in {box}.")
    introductions: Mapping[str, str] = {"short": "The box holds the {name}.",
                                        "full": "The box at {start} holds the {name}."}

    def facts(self, clip: Clip, track: Track, frame: int, spec: AskSpec) -> Mapping[str, str]:
        """Return the object's box, rounded outwards. Raises Ambiguous where another shares it."""
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
        return {"box": "[" + ", ".join(f"{v:.{digits}f}" for v in np.clip(box, 0, 1)) + "]"}
