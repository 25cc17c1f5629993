"""Short reasoning for tiny models: few words, one form, every position spelled out."""

from __future__ import annotations

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, LETTERS, reasoned
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.ask import Question
from fourd4d.synth.questions.readout import SHORT, Place

LEADS = {"camera": "the camera move is ", "direction": "its motion is ",
         "box_direction": "its motion is "}
_OPENINGS = ("Watch the {name}.", "Look at the {name}.", "Follow the {name}.", "Find the {name}.")
_CAMERA_OPENINGS = ("Watch the fixed {name}.", "The {name} is fixed.", "Follow the fixed {name}.",
                    "Take the fixed {name}.")


def positions(clip: Clip, track: Track, frames: tuple[int, ...], images: bool) -> str:
    """'0.0s <output_image> at 2,7 size 4. …' for each frame; without marks unless ``images``."""
    mark = f" {IMAGE_MARK}" if images else ""
    return " ".join(
        f"{clip.timestamps[i]:.1f}s{mark} at {p.x},{p.y} size {p.size}."
        for i in frames for p in [readout.place(clip, track, i, SHORT)]
    )


def shift_words(move: Place) -> str:
    """'right 4, up 3, size +1'."""
    across = f"{'left' if move.x < 0 else 'right'} {abs(move.x)}"
    along = f"{'up' if move.y < 0 else 'down'} {abs(move.y)}"
    return f"{across}, {along}, size {move.size:+d}"


def findings(clip: Clip, question: Question) -> tuple[str, str]:
    """What follows the positions, and the conclusion: what leads to the answer.

    Raises Ambiguous when the told numbers would not lead to the answer.
    """
    places = tuple(readout.place(clip, question.track, i, SHORT) for i in question.frames)
    kind, answer = question.kind, question.answer_text
    first, last = question.frames[0], question.frames[-1]
    if kind == "camera":
        move = readout.shift(places)
        far = geometry.background_shift(clip, first, last)
        if " + " not in answer:
            readout.require(readout.camera_of(move, far, SHORT), answer, kind)
        return f"Shift {shift_words(move)}. Background {far}.", LEADS[kind]
    if kind == "distance":
        sizes = tuple(p.size for p in places)
        readout.require(readout.distance_of(sizes, SHORT), answer, kind)
        return f"Size {', '.join(map(str, sizes))}.", ""
    if kind == "speed":
        steps = told_steps(clip, question)
        readout.require(readout.speed_of(steps), answer, kind)
        return f"Steps {', '.join(map(str, steps))}.", ""
    fixed = _fixed(clip, question)
    move = readout.shift(places, fixed)
    readout.require(readout.direction_of(move, SHORT), answer, kind)
    still = ""
    if fixed and question.landmark is not None:
        a, b = fixed[0], fixed[-1]
        still = f"Fixed {question.landmark.name} {a.x},{a.y} to {b.x},{b.y}. "
    return f"{still}Shift {shift_words(move)}.", LEADS[kind]


def choice(question: Question) -> str:
    """'A. Left: no. B. Up: yes.': the options read off one by one until one is the answer.

    Small models learn to read on and to compare in hundreds of steps; to fetch the letter that
    stands before a word they do not learn in thousands.
    """
    tried = zip(LETTERS[: LETTERS.index(question.answer) + 1], question.options, strict=False)
    return " ".join(f"{letter}. {text}: {'yes' if letter == question.answer else 'no'}."
                    for letter, text in tried)


def told_steps(clip: Clip, question: Question) -> tuple[int, ...]:
    """Way covered between consecutive overlays, tenths of the frame height, rounded."""
    moves = []
    for a, b in zip(question.frames, question.frames[1:], strict=False):
        move = geometry.box_center(question.track)[b] - geometry.box_center(question.track)[a]
        if question.landmark is not None and question.landmark.seen[[a, b]].all():
            move = move - np.diff(geometry.box_center(question.landmark)[[a, b]], axis=0)[0]
        moves.append(round(float(np.hypot(*move)) * SHORT.units))
    return tuple(moves)


def _fixed(clip: Clip, question: Question) -> tuple[Place, ...]:
    mark = question.landmark
    ends = [question.frames[0], question.frames[-1]]
    if mark is None or mark is question.track or not mark.seen[ends].all():
        return ()
    return tuple(readout.place(clip, mark, i, SHORT) for i in ends)


def reasoning(clip: Clip, question: Question, rng: np.random.Generator, number: int = 0) -> str:
    """The whole response, overlays as ``<output_image>``. Raises Ambiguous like ``findings``.

    ``number`` is for styles with many openings; here they are drawn.
    """
    del number
    found, lead = findings(clip, question)
    openings = _CAMERA_OPENINGS if question.kind == "camera" else _OPENINGS
    opening = openings[rng.integers(len(openings))].format(name=question.track.name)
    if question.kind == "box_direction":
        opening = f"The box holds the {question.track.name}."
    where = positions(clip, question.track, question.frames, images=True)
    text = question.answer_text
    return reasoned(f"{opening} {where} {found} So {lead}{text}. {choice(question)}",
                    f"{question.answer}. {text}")
