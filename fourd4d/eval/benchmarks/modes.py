"""Input modes: what a model scores when the video is taken away, broken or turned around."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.eval.benchmarks.base import Question
from fourd4d.eval.benchmarks.frames import Shown
from fourd4d.eval.items import item_seed
from fourd4d.processing.media import Image, Video

MODES: Final = {
    "normal": "as the protocol shows it",
    "blind": "text alone",
    "one_frame": "the middle frame of each video",
    "shuffled": "frames in a random order, at the times of the video",
    "reversed": "frames from the last to the first",
    "mirrored": "frames left to right",
}
MAPPED: Final = ("reversed", "mirrored")
"""Modes that change what is right: an item counts only where the new answer is known."""

_PAIRS: Final = {
    "mirrored": ("left/right", "leftward/rightward", "leftwards/rightwards",
                 "clockwise/counterclockwise", "clockwise/counter-clockwise",
                 "clockwise/anticlockwise", "cw/ccw"),
    "reversed": ("left/right", "leftward/rightward", "leftwards/rightwards", "up/down",
                 "upward/downward", "upwards/downwards", "upward/downwards", "rising/falling",
                 "forward/backward", "forwards/backwards", "forward/backwards", "toward/away from",
                 "towards/away from", "closer/farther", "closer/further", "nearer/farther",
                 "approaching/receding", "clockwise/counterclockwise",
                 "clockwise/counter-clockwise", "clockwise/anticlockwise", "cw/ccw", "in/out",
                 "speeding up/slowing down", "accelerating/decelerating", "faster/slower",
                 "increasing/decreasing", "increases/decreases", "larger/smaller"),
}
_STILL: Final = re.compile(
    r"\b(?:not moving|no|none|static|stationary|still|unchanged|constant|same|does not|"
    r"doesn't|stay|stays|remains?)\b", re.IGNORECASE)
_ORDER: Final = re.compile(r"\b(?:first|then|after|before|finally|start|end)\b", re.IGNORECASE)


def check_mode(mode: str) -> None:
    """Raises InputError, naming the modes there are, for any other."""
    if mode not in MODES:
        raise InputError("config.modes", f"no mode {mode!r}", f"Use some of {list(MODES)}")


def applied(mode: str, shown: Shown, key: str, seed: int) -> Shown:
    """What a mode makes of a question's media. Blind questions are given none to begin with."""
    if mode == "normal":
        return shown
    rng = np.random.default_rng(item_seed(key, seed))
    return dataclasses.replace(shown, media=tuple(
        _one(mode, medium, rng) for medium in shown.media))


def _one(mode: str, medium: Video | Image, rng: np.random.Generator) -> Video | Image:
    if mode == "mirrored":
        if isinstance(medium, Image):
            return Image(np.ascontiguousarray(medium.pixels[:, ::-1]))
        return Video(np.ascontiguousarray(medium.frames[:, :, ::-1]), medium.timestamps)
    if isinstance(medium, Image):
        return medium
    count = len(medium.frames)
    if mode == "one_frame":
        middle = slice(count // 2, count // 2 + 1)
        return Video(medium.frames[middle], medium.timestamps[middle])
    if mode == "shuffled":
        return Video(medium.frames[rng.permutation(count)], medium.timestamps)
    times = medium.timestamps
    return Video(np.ascontiguousarray(medium.frames[::-1]), times[0] + times[-1] - times[::-1])


def mapped_answers(question: Question, mode: str, invariant: frozenset[str] = frozenset()
                   ) -> tuple[str, ...] | None:
    """The letters that are right of the changed video; None where no rule tells.

    Types of ``invariant`` keep their answers. Else the words of a right option that the mode turns
    into their opposites are turned, and the option that then reads so is right; an option that says
    that nothing moves stays right. Not told: a question that itself names what the mode turns (or,
    reversed, an order in time), and an option whose opposite is not offered.
    """
    if mode not in MAPPED or question.kind in invariant:
        return question.answers
    if not question.answers or _turned(question.text, mode) != question.text or (
            mode == "reversed" and any(map(_ORDER.search, (question.text, *question.options)))):
        return None
    right = question.options[question.letters.index(question.answers[0])]
    turned = _turned(right, mode)
    if turned == right:
        still = mode == "mirrored" or _STILL.search(right)
        return question.answers if still else None
    found = tuple(letter for letter, option in zip(question.letters, question.options, strict=True)
                  if _same(option) in {_same(t) for t in _turns(right, mode)})
    return found or None


def _turns(text: str, mode: str) -> set[str]:
    """What a text may become: some words have several opposites."""
    found = {text}
    for pair in _PAIRS[mode]:
        a, b = pair.split("/")
        found |= {_swap(text, mode, {a: b, b: a})}
    return found - {text}


def _turned(text: str, mode: str) -> str:
    return min(_turns(text, mode) or {text})


def _swap(text: str, mode: str, first: dict[str, str]) -> str:
    table: dict[str, str] = dict(first)
    for pair in _PAIRS[mode]:
        a, b = pair.split("/")
        table.setdefault(a, b)
        table.setdefault(b, a)
    words = "|".join(sorted(map(re.escape, table), key=len, reverse=True))
    return re.sub(rf"(?<![\w-])(?:{words})(?![\w-])", lambda m: table[m[0].lower()], text,
                  flags=re.IGNORECASE)


def _same(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")
