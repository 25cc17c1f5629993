"""Free-text tasks for making a tiny base model: seeing, telling, and lettered choice.

``describe_*`` tasks tell what there is, where it is, and what that amounts to; ``exercise_*``
tasks read lettered options until one says a given word. Later come the same skills inside whole
questions: ``tell_*`` tasks watch, and conclude in words; ``work_*`` tasks are given the positions
in words, and read the options until one fits; ``conclude_*`` tasks are given what was found too,
and go by their own conclusion. None has tags, mental images or a key, so fine-tuning still has the
form of an answer, the imagery, and the chaining of watching and choosing to teach.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from fourd4d.core.sample import lettered
from fourd4d.synth.clip import Clip
from fourd4d.synth.questions import readout, reasoning_short
from fourd4d.synth.questions.ask import Question
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.readout import SHORT

_ASK: Final = {
    "camera": ("Where is the fixed {name}, and what does the camera do?",
               "Describe the fixed {name} and the camera.",
               "Track the fixed {name} to tell the camera move."),
    "direction": ("Where is the {name} at each time?", "Describe the path of the {name}.",
                  "Track the {name} and tell its direction."),
    "distance": ("How big is the {name} at each time?", "Describe the size of the {name}.",
                 "Track the {name} and tell its distance."),
    "speed": ("How fast does the {name} go at each time?", "Describe the speed of the {name}.",
              "Track the {name} and tell its speed."),
    "box_direction": ("Describe the thing in {box}.", "Track the thing in {box}."),
}
_MATCH: Final = ("{word} is the answer. Which option is it?", "Which option says {word}?",
                 "Find the option for {word}.", "We see: {word}. Pick the option.",
                 "It is {word}. Give the letter.")


@dataclasses.dataclass(frozen=True)
class Practice:
    """How many questions of a clip, beside the one it is described by, are practised.

    Attributes:
      reasoned: asked twice each: to be watched, and to be worked out.
      choices: of which only the option is asked.
      conclusions: of which all is given but the conclusion and the option.
    """

    reasoned: int = 0
    choices: int = 0
    conclusions: int = 0


DESCRIBED: Final = Practice()


@dataclasses.dataclass(frozen=True)
class Task:
    """A prompt and its response, in plain text."""

    kind: str
    prompt: str
    response: str


def describe(clip: Clip, question: Question, rng: np.random.Generator) -> Task:
    """Positions at each time and what they amount to; no letter. Raises Ambiguous."""
    asks = _ASK[question.kind]
    box = question.text[question.text.find("[") : question.text.find("]") + 1]
    prompt = asks[rng.integers(len(asks))].format(name=question.track.name, box="box " + box)
    return Task(f"describe_{question.kind}", prompt, _told(clip, question))


def tell(clip: Clip, question: Question) -> Task:
    """The whole question, options included; the response stops short of the letter.

    Raises Ambiguous.
    """
    return Task(f"tell_{question.kind}", _asked(question.text, question), _told(clip, question))


def work(clip: Clip, question: Question) -> Task:
    """The whole question with the positions given in words; what is left is to work out the option.

    Raises Ambiguous.
    """
    where = reasoning_short.positions(clip, question.track, question.frames, images=False)
    notes = f"Notes: The {question.track.name}. {where}"
    return Task(f"work_{question.kind}", _asked(f"{notes} {question.text}", question),
                f"{_told(clip, question)} {reasoning_short.choice(question)}")


def _told(clip: Clip, question: Question) -> str:
    return " ".join(_observed(clip, question))


def _observed(clip: Clip, question: Question) -> tuple[str, str]:
    """What is seen of the thing, and the conclusion."""
    found, lead = reasoning_short.findings(clip, question)
    where = reasoning_short.positions(clip, question.track, question.frames, images=False)
    opening = f"The {question.track.name}. " if question.kind == "box_direction" else ""
    return f"{opening}{where} {found}", f"So {lead}{question.answer_text}."


def _asked(text: str, question: Question) -> str:
    """The text, a blank line, and the options one a line."""
    return f"{text}\n\n{lettered(question.options)}"


def exercise(question: Question, rng: np.random.Generator, chained: bool) -> Task:
    """Finds the option that says a given word.

    ``chained`` gives the word in the words of a description ('So its motion is Left.'), and after
    the options, so that these are not always as far away.
    """
    word = question.answer_text
    if chained:
        lead = reasoning_short.LEADS.get(question.kind, "")
        prompt = f"{_asked('Options:', question)}\n\nSo {lead}{word}. Which option is that?"
    else:
        prompt = _asked(_MATCH[rng.integers(len(_MATCH))].format(word=word), question)
    return Task(f"exercise_{question.kind}", prompt, reasoning_short.choice(question))


def conclude(clip: Clip, question: Question, whole: bool) -> Task:
    """Draws a conclusion from given findings, and reads the options until one is that.

    ``exercise`` finds a word of the prompt; here the word stands in the response alone, as it does
    where the model has watched. ``whole`` repeats the findings first, so that the options are as
    far away as there. Raises Ambiguous.
    """
    found, conclusion = _observed(clip, question)
    said = f"{found} {conclusion}" if whole else conclusion
    return Task(f"conclude_{question.kind}", _asked(f"Notes: {found} {question.text}", question),
                f"{said} {reasoning_short.choice(question)}")


def place(clip: Clip, rng: np.random.Generator, times: int = 3) -> Task:
    """Where some thing of the clip is at a few moments, in time order."""
    track = clip.tracks[rng.integers(len(clip.tracks))]
    seen = np.flatnonzero(track.seen)
    if len(seen) < times:
        raise Ambiguous("place: seen too briefly")
    frames = tuple(int(i) for i in np.sort(rng.choice(seen, times, replace=False)))
    said = ", ".join(f"{clip.timestamps[i]:.1f}s" for i in frames)
    prompt = f"Where is the {track.name} at {said}?"
    return Task("describe_place", prompt,
                reasoning_short.positions(clip, track, frames, images=False))


def listing(clip: Clip, rng: np.random.Generator) -> Task:
    """All things seen at one moment, from left to right: what ties names to places."""
    frame = int(rng.integers(len(clip.frames)))
    found = [(readout.place(clip, track, frame, SHORT), track.name)
             for track in clip.tracks if track.seen[frame]]
    if not found:
        raise Ambiguous("listing: nothing is seen")
    found.sort(key=lambda pair: (pair[0].x, pair[0].y))
    told = " ".join(f"{name} at {p.x},{p.y} size {p.size}." for p, name in found)
    return Task("describe_scene", f"List the things at {clip.timestamps[frame]:.1f}s.", told)
