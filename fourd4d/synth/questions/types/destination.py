"""Where the thing ends up that starts nearest to a named one: found by a relation, then followed.

The rule is ``quarter_of`` for the answer and ``reference_of`` for what the thing is called by.
Everything is told by the picture: distances and places on screen.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Final

import numpy as np

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Question
from fourd4d.synth.questions.readout import SHORT, Place
from fourd4d.synth.questions.types.base import ObjectQuestionType, Voice

POOL: Final = Pool((("Top left", "Bottom right"), ("Top right", "Bottom left")))


def quarter_of(x: float, y: float, margin: float = 0.0) -> str:
    """Return the quarter of the frame in which a point lies, x and y as fractions of it.

    Raises Ambiguous within ``margin`` of its middle lines.
    """
    if min(abs(x - 0.5), abs(y - 0.5)) < margin:
        raise Ambiguous("destination: between two quarters")
    return f"{'Top' if y < 0.5 else 'Bottom'} {'left' if x < 0.5 else 'right'}"


def reference_of(clip: Clip, track: Track, frame: int, least: float) -> Track:
    """Return the thing to which ``track``, of all others, is clearly nearest on screen.

    Where there are several, the one for which it is clearest.

    Args:
      least: how many times as far the second nearest has to be.

    Raises:
      Ambiguous: there is none whose name no other thing has, or more is to be seen than what was
        found: something else may be nearer.
    """
    if clip.provenance.get("objects") != "truth":
        raise Ambiguous("destination: something may be nearer that was not found")
    names = collections.Counter(one.name for one in clip.tracks)
    seen = [one for one in clip.tracks if one.seen[frame]]
    stretch = np.array([geometry.aspect(clip), 1.0])
    places = np.array([geometry.box_center(one)[frame] for one in seen]) * stretch
    own = next(i for i, one in enumerate(seen) if one is track)
    clearest: tuple[float, Track | None] = (least, None)
    for i, reference in enumerate(seen):
        if i == own or len(seen) < 3 or names[reference.name] > 1:
            continue
        far = np.linalg.norm(places - places[i], axis=1)
        second = min(far[j] for j in range(len(seen)) if j not in (i, own))
        clearest = max(clearest, (float(second / far[own]), reference), key=lambda one: one[0])
    if clearest[1] is None:
        raise Ambiguous("destination: clearly nearest to nothing")
    return clearest[1]


class Destination(ObjectQuestionType):
    """In which quarter of the frame a thing ends that is called by what it starts next to."""

    name = "destination"
    overlays = 3
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("Where does the thing nearest to the {reference} end up?",
                  "What starts nearest to the {reference}: where does it end?",
                  "Where is the thing at the end that starts nearest to the {reference}?"),
        "full": ("Look at what is nearest to the {reference} in the picture at {start:.1f}s. In "
                 "which quarter of the picture is it at {end:.1f}s?",
                 "One thing is nearest to the {reference} in the picture at {start:.1f}s. Where "
                 "in the picture has it got to at {end:.1f}s?"),
    }
    descriptions = ("Where does the {name} end up?", "Describe the way of the {name}.")
    introductions: Mapping[str, str] = {
        "short": "Find it.",
        "full": "What is nearest to it at {start} is the {name}."}
    lead = "it ends at the "
    names_object = False

    def pool(self, spec: AskSpec) -> Pool:
        return POOL

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        # To the last frame of all: a question in few words does not say when it ends.
        ends = {quarter_of(float(x), float(y), margins.quarter)
                for x, y in geometry.box_center(track)[[frames[-1], np.flatnonzero(track.seen)[-1]]]}
        if len(ends) > 1:
            raise Ambiguous("destination: it goes on")
        return ends.pop(), "boxes"

    def facts(self, clip: Clip, track: Track, frame: int, spec: AskSpec) -> Mapping[str, str]:
        """Return the name of what it is nearest to. Raises Ambiguous."""
        return {"reference": reference_of(clip, track, frame, spec.margins.nearer).name}

    def findings_short(self, clip: Clip, question: Question) -> str:
        last = readout.places(clip, question, SHORT)[-1]
        readout.require(_read(last, SHORT.units), question.answer_text, self.name)
        return f"Last {last.x},{last.y}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        last = places[-1]
        readout.require_clear(_read(last, 100) == question.answer_text, self.name)
        return voice.pick((
            f"In the end it is {last.x}% across and {last.y}% down: {question.answer_text}.",
            f"It has come to ({last.x}%, {last.y}%), which is the {question.answer_text} quarter."))


def _read(place: Place, units: int) -> str:
    return quarter_of((place.x + 0.5) / units, (place.y + 0.5) / units)
