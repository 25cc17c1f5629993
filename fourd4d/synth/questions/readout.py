"""What a text may state: positions and sizes as a reader of the image would give them.

Every number in a reasoning text comes from here, and a text is only written when its own numbers
lead to its answer; so what the model is taught to say is what the track shows. What they lead to
is for each question type to say (``types/``).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.question import Question


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an object is on screen, in whole units of the reading's scale; y runs downwards."""

    x: int
    y: int
    size: int


@dataclasses.dataclass(frozen=True)
class Scale:
    """How finely positions are read.

    Attributes:
      units: steps across the frame; sizes are in ``size_units`` steps.
      clear: shift that counts as motion, steps; less than half of it is none.
    """

    units: int = 10
    size_units: int = 20
    clear: int = 2


SHORT = Scale()
PERCENT = Scale(100, 100, 8)


def place(clip: Clip, track: Track, frame: int, scale: Scale) -> Place:
    """Return an object's centre and size in a frame in which it is seen."""
    x, y = geometry.box_center(track)[frame] * scale.units
    side = geometry.box_side(track, geometry.aspect(clip))[frame] * scale.size_units
    most = scale.units - 1
    return Place(int(np.clip(np.floor(x), 0, most)), int(np.clip(np.floor(y), 0, most)),
                 int(np.clip(np.round(side), 1, most)))


def places(clip: Clip, question: Question, scale: Scale) -> tuple[Place, ...]:
    """Return the place of what each overlay shows."""
    return tuple(place(clip, track, i, scale) for track, i in question.overlays)


def fixed_places(clip: Clip, question: Question, scale: Scale) -> tuple[Place, ...]:
    """Return the landmark's places at the first and the last overlay; none where it is not seen."""
    landmark = question.landmark
    ends = [question.frames[0], question.frames[-1]]
    if landmark is None or landmark is question.track or not landmark.seen[ends].all():
        return ()
    return tuple(place(clip, landmark, i, scale) for i in ends)


def shift(places: tuple[Place, ...], fixed: tuple[Place, ...] = ()) -> Place:
    """Return last minus first, less the shift of a fixed object if one is given."""
    move = [places[-1].x - places[0].x, places[-1].y - places[0].y]
    if fixed:
        move = [move[0] - fixed[-1].x + fixed[0].x, move[1] - fixed[-1].y + fixed[0].y]
    return Place(move[0], move[1], places[-1].size - places[0].size)


def require(shown: str, answer: str, question_type: str) -> None:
    """Raise Ambiguous where the stated numbers show another answer."""
    if shown != answer:
        raise Ambiguous(f"{question_type}: the reading is too coarse")


def require_clear(shows: bool, question_type: str) -> None:
    """Raise Ambiguous where the places stated in a full text do not show the answer."""
    if not shows:
        raise Ambiguous(f"{question_type}: the picture does not show the answer clearly")


def shift_words(move: Place) -> str:
    """Return 'right 4, up 3, size +1'."""
    across = f"{'left' if move.x < 0 else 'right'} {abs(move.x)}"
    along = f"{'up' if move.y < 0 else 'down'} {abs(move.y)}"
    return f"{across}, {along}, size {move.size:+d}"


def moves_words(move: Place) -> str:
    """Return 'moves 12% to the left and 3% up', or 'does not move'."""
    across = f"{abs(move.x)}% to the {'left' if move.x < 0 else 'right'}" if move.x else ""
    along = f"{abs(move.y)}% {'up' if move.y < 0 else 'down'}" if move.y else ""
    parts = " and ".join(part for part in (across, along) if part)
    return f"moves {parts}" if parts else "does not move"


def reference_sentence(clip: Clip, question: Question) -> tuple[str, tuple[Place, ...]]:
    """Return a sentence on the fixed landmark and its places, in percent.

    Empty where there is none and the camera stands still. Raises Ambiguous where it moves.
    """
    fixed, landmark = fixed_places(clip, question, PERCENT), question.landmark
    if not fixed or landmark is None:
        if not clip.camera or any(m != "Static" for s in clip.camera for m in s.moves):
            raise Ambiguous(f"{question.type}: no landmark to compensate the camera with")
        return "", ()
    a, b = fixed
    move = shift(fixed)
    stated = f"The {landmark.name}, which is fixed, goes from ({a.x}%, {a.y}%) to ({b.x}%, {b.y}%)"
    if max(abs(move.x), abs(move.y)) <= 2:
        return f"{stated}, so the camera hardly shifts the picture.", fixed
    return f"{stated}: in the picture, the static scene {moves_words(move)}.", fixed
