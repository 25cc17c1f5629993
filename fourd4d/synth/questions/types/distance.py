"""How the distance between an object and the camera changes.

The rule is ``distance_change``; ``confident_distance`` adds what the track's errors could change.
``read_short`` and ``read_full`` are what a text may conclude from the sizes that it states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

ANSWERS: Final[Mapping[str, str]] = {
    "flat": "Same distance", "up": "Getting farther", "down": "Getting closer",
    "up-down": "First farther, then closer", "down-up": "First closer, then farther"}
"""The answer by the curve of the distance; see ``geometry.curve``."""
POOL: Final = Pool(((ANSWERS["down"], ANSWERS["up"]), (ANSWERS["down-up"], ANSWERS["up-down"])),
                   ANSWERS["flat"])
_GROWN = 1.15  # Ratio of apparent sizes that counts as a change, in the full style.


def distance_change(values: Float[np.ndarray, "K"], margins: Margins) -> str:
    """Return one of ``POOL`` from distances over time. Raises Ambiguous near a boundary."""
    curve = geometry.curve(values, margins.same, margins.changed)
    if curve not in ANSWERS:
        raise Ambiguous("distance: changes more than twice")
    return ANSWERS[curve]


def confident_distance(clip: Clip, track: Track, first: int, last: int, margins: Margins
                       ) -> tuple[str, str]:
    """Return how the distance changes between two frames, and its source.

    Raises Ambiguous where errors could change it, or it is read in fewer than three frames.
    """
    values, source = geometry.distance(clip, track)
    known = first + np.flatnonzero(track.seen[first : last + 1]
                                   & np.isfinite(values[first : last + 1]))
    if len(known) < 3:
        raise Ambiguous("distance: fewer than three readings")
    answer = distance_change(values[known], margins)
    # As much as may lie between a change that counts and one that does not.
    if track.depth_error is not None and not (
            np.abs(track.depth_error[:, known]).max() <= margins.changed / margins.same - 1):
        raise Ambiguous("distance: the track is not exact enough")
    return answer, source


def read_short(sizes: tuple[int, ...], scale: Scale) -> str:
    """Return the change of distance that stated sizes amount to; '' where they amount to none.

    The larger an object looks, the nearer it is.
    """
    steps = [b - a for a, b in zip(sizes, sizes[1:], strict=False)]
    if max(sizes) - min(sizes) < scale.clear:
        return ANSWERS["flat"]
    if sizes[-1] - sizes[0] >= scale.clear and min(steps) >= 0:
        return ANSWERS["down"]
    if sizes[0] - sizes[-1] >= scale.clear and max(steps) <= 0:
        return ANSWERS["up"]
    inner = sizes[1:-1]
    if inner and min(max(inner) - sizes[0], max(inner) - sizes[-1]) >= scale.clear:
        return ANSWERS["down-up"]
    if inner and min(sizes[0] - min(inner), sizes[-1] - min(inner)) >= scale.clear:
        return ANSWERS["up-down"]
    return ""


def read_full(sizes: Sequence[int], grown: float = _GROWN) -> str:
    """Return the change of distance that stated sizes amount to, by their ratios."""
    logs = np.log(sizes)
    rise, fall = np.log(grown), -np.log(grown)
    inner = logs[1:-1]
    if inner.size and min(inner.max() - logs[0], inner.max() - logs[-1]) > rise:
        return ANSWERS["down-up"]
    if inner.size and max(inner.min() - logs[0], inner.min() - logs[-1]) < fall:
        return ANSWERS["up-down"]
    if logs[-1] - logs[0] > rise:
        return ANSWERS["down"]
    return ANSWERS["up"] if logs[-1] - logs[0] < fall else ANSWERS["flat"]


class Distance(ObjectQuestionType):
    """How an object's distance from the camera changes."""

    name = "distance"
    overlays = 3
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("How does the distance of the {name} change?",
                  "Does the {name} get closer or farther?",
                  "How far is the {name} over time?"),
        "full": ("How does the distance between the {name} and the camera change from "
                 "{start:.1f}s to {end:.1f}s?",
                 "Between {start:.1f}s and {end:.1f}s, does the {name} come closer to the "
                 "camera or get farther from it?"),
    }
    descriptions = ("How big is the {name} at each time?", "Describe the size of the {name}.",
                    "Track the {name} and tell its distance.")

    def pool(self, spec: AskSpec) -> Pool:
        return POOL

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        return confident_distance(clip, track, frames[0], frames[-1], margins)

    def findings_short(self, clip: Clip, question: Question) -> str:
        sizes = tuple(p.size for p in readout.places(clip, question, SHORT))
        readout.require(read_short(sizes, SHORT), question.answer_text, self.name)
        return f"Size {', '.join(map(str, sizes))}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        sizes = tuple(p.size for p in places)
        readout.require_clear(read_full(sizes) == question.answer_text, self.name)
        stated = ", ".join(f"{s}%" for s in sizes)
        rule = voice.pick(("A thing looks bigger when it is nearer.", "Nearer things look larger.",
                           "Apparent size goes up as distance goes down."))
        return f"Its size runs {stated}. {rule} Hence: {question.answer_text}."
