"""Where a thing ends up that is called by a relation: it has to be found, then followed.

It starts nearest to a named thing, or where a named thing ends. The rules are ``quarter_of`` for
the answer, ``nearest_to`` and ``place_taken_by`` for what the thing is called by. Everything is
told by the picture: distances and places on screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Question
from fourd4d.synth.questions.readout import PERCENT, SHORT, Place, Scale
from fourd4d.synth.questions.types.base import ObjectQuestionType, Voice

POOL: Final = Pool((("Top left", "Bottom right"), ("Top right", "Bottom left")))


def quarter_of(x: float, y: float, margin: float = 0.0) -> str:
    """Return the quarter of the frame in which a point lies, x and y as fractions of it.

    Raises Ambiguous within ``margin`` of its middle lines.
    """
    if min(abs(x - 0.5), abs(y - 0.5)) < margin:
        raise Ambiguous("destination: between two quarters")
    return f"{'Top' if y < 0.5 else 'Bottom'} {'left' if x < 0.5 else 'right'}"


def nearest_to(clip: Clip, track: Track, frame: int, least: float) -> Track:
    """Return the thing to which ``track``, of all others, is clearly nearest on screen.

    Where there are several, the one for which it is clearest.

    Args:
      least: how many times as far the second nearest has to be.

    Raises:
      Ambiguous: there is none whose name no other thing has, or more is to be seen than what was
        found: something else may be nearer.
    """
    seen, places = _places(clip, frame)
    own = next(i for i, one in enumerate(seen) if one is track)
    clearest: tuple[float, Track | None] = (least, None)
    for i, reference in enumerate(seen):
        if i == own or len(seen) < 3 or not _named(clip, reference):
            continue
        far = np.linalg.norm(places - places[i], axis=1)
        second = min(far[j] for j in range(len(seen)) if j not in (i, own))
        clearest = max(clearest, (float(second / far[own]), reference), key=lambda one: one[0])
    if clearest[1] is None:
        raise Ambiguous("destination: clearly nearest to nothing")
    return clearest[1]


def place_taken_by(clip: Clip, track: Track, first: int, last: int, margins: Margins) -> Track:
    """Return the thing that is at ``last`` where ``track``, and nothing else, is at ``first``.

    Raises:
      Ambiguous: there is none whose name no other thing has, or more is to be seen than what was
        found.
    """
    before, starts = _places(clip, first)
    after, ends = _places(clip, last)
    own = next(i for i, one in enumerate(before) if one is track)
    for reference, end in zip(after, ends, strict=True):
        far = np.linalg.norm(starts - end, axis=1)
        others = [d for d, one in zip(far, before, strict=True) if one is not track]
        if (reference is not track and _named(clip, reference) and far[own] < margins.there
                and min(others) > margins.elsewhere):
            return reference
    raise Ambiguous("vacated: nothing else takes its place")


def _places(clip: Clip, frame: int) -> tuple[list[Track], Float[np.ndarray, "N 2"]]:
    """Return what is seen in a frame, and where, in frame heights.

    Raises Ambiguous where there may be more than what was found.
    """
    if clip.provenance.get("objects") != "truth":
        raise Ambiguous("destination: there may be more than what was found")
    seen = [one for one in clip.tracks if one.seen[frame]]
    places = np.array([geometry.box_center(one)[frame] for one in seen])
    return seen, places * np.array([geometry.aspect(clip), 1.0])


def _named(clip: Clip, track: Track) -> bool:
    """Return whether no other thing has its name."""
    return sum(one.name == track.name for one in clip.tracks) == 1


class Destination(ObjectQuestionType):
    """In which quarter of the frame a thing ends that is called by what it starts next to."""

    name = "destination"
    overlays = 2
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

    def pool(self, spec: AskSpec) -> Pool:
        return POOL

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        # To the last frame of all: a question in few words does not say when it ends.
        last = [frames[-1], int(np.flatnonzero(track.seen)[-1])]
        ends = {quarter_of(float(x), float(y), margins.quarter)
                for x, y in geometry.box_center(track)[last]}
        if len(ends) > 1:
            raise Ambiguous("destination: it goes on")
        return ends.pop(), "boxes"

    def found_by(self, clip: Clip, track: Track, first: int, last: int, margins: Margins
                 ) -> tuple[Track, int]:
        del last
        return nearest_to(clip, track, first, margins.nearer), first

    def findings_short(self, clip: Clip, question: Question) -> str:
        last = readout.places(clip, question, SHORT)[-1]
        readout.require(_read(last, SHORT), question.answer_text, self.name)
        return f"Last {last.x},{last.y}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        last = places[-1]
        readout.require_clear(_read(last, PERCENT) == question.answer_text, self.name)
        return voice.pick((
            f"In the end it is {last.x}% across and {last.y}% down: {question.answer_text}.",
            f"It has come to ({last.x}%, {last.y}%), which is the {question.answer_text} quarter."))


class Vacated(Destination):
    """In which quarter of the frame a thing ends whose first place another thing takes."""

    name = "vacated"
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("The {reference} ends where another thing started. Where does that end up?",
                  "Whose place does the {reference} take, and where does that end?",
                  "Where is the thing at the end that started where the {reference} ends?"),
        "full": ("At {end:.1f}s the {reference} is where another thing was at {start:.1f}s. In "
                 "which quarter of the picture is that thing at {end:.1f}s?",
                 "Between {start:.1f}s and {end:.1f}s the {reference} takes the place of another "
                 "thing. In which quarter of the picture does that one end up?"),
    }
    introductions: Mapping[str, str] = {
        "short": "Find it.",
        "full": "In that place at {start} is the {name}."}

    def found_by(self, clip: Clip, track: Track, first: int, last: int, margins: Margins
                 ) -> tuple[Track, int]:
        return place_taken_by(clip, track, first, last, margins), last


def _read(place: Place, scale: Scale) -> str:
    return quarter_of((place.x + 0.5) / scale.units, (place.y + 0.5) / scale.units)
