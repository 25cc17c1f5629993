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
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.question import Question
from fourd4d.synth.questions.readout import SHORT
from fourd4d.synth.questions.types import question_type

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
    """A prompt and its response, in plain text; ``name`` says of which task."""

    name: str
    prompt: str
    response: str


def describe(clip: Clip, question: Question, rng: np.random.Generator) -> Task:
    """State positions at each time and what they amount to; no letter. Raises Ambiguous."""
    prompts = question_type(question.type).descriptions
    box = question.text[question.text.find("[") : question.text.find("]") + 1]
    prompt = prompts[rng.integers(len(prompts))].format(name=question.track.name, box="box " + box)
    return Task(f"describe_{question.type}", prompt, _stated(clip, question))


def tell(clip: Clip, question: Question) -> Task:
    """Ask the whole question, options included; the response stops short of the letter.

    Raises Ambiguous.
    """
    return Task(f"tell_{question.type}", _prompt(question.text, question), _stated(clip, question))


def work(clip: Clip, question: Question) -> Task:
    """Ask the whole question with the positions given; what is left is to work out the option.

    Raises Ambiguous.
    """
    where = reasoning_short.positions(clip, question.own_overlays, images=False)
    notes = f"Notes: The {question.track.name}. {where}"
    return Task(f"work_{question.type}", _prompt(f"{notes} {question.text}", question),
                f"{_stated(clip, question)} {reasoning_short.choice(question)}")


def _stated(clip: Clip, question: Question) -> str:
    return " ".join(_observed(clip, question))


def _observed(clip: Clip, question: Question) -> tuple[str, str]:
    """Return what is seen of the object, and the conclusion."""
    asked = question_type(question.type)
    found = asked.findings_short(clip, question)
    where = reasoning_short.positions(clip, question.own_overlays, images=False)
    opening = "" if asked.names_object else f"The {question.track.name}. "
    return f"{opening}{where} {found}", reasoning_short.conclusion(question)


def _prompt(text: str, question: Question) -> str:
    """Return the text, a blank line, and the options one a line."""
    return f"{text}\n\n{lettered(question.options)}"


def exercise(question: Question, rng: np.random.Generator, chained: bool) -> Task:
    """Ask for the option that says a given word.

    ``chained`` gives the word in the words of a description ('So its motion is Left.'), and after
    the options, so that these are not always as far away.
    """
    word = question.answer_text
    if chained:
        conclusion = reasoning_short.conclusion(question)
        prompt = f"{_prompt('Options:', question)}\n\n{conclusion} Which option is that?"
    else:
        prompt = _prompt(_MATCH[rng.integers(len(_MATCH))].format(word=word), question)
    return Task(f"exercise_{question.type}", prompt, reasoning_short.choice(question))


def conclude(clip: Clip, question: Question, whole: bool) -> Task:
    """Ask for the conclusion from given findings, and for the option that says it.

    ``exercise`` finds a word of the prompt; here the word stands in the response alone, as it does
    where the model has watched. ``whole`` repeats the findings first, so that the options are as
    far away as there. Raises Ambiguous.
    """
    found, conclusion = _observed(clip, question)
    said = f"{found} {conclusion}" if whole else conclusion
    return Task(f"conclude_{question.type}", _prompt(f"Notes: {found} {question.text}", question),
                f"{said} {reasoning_short.choice(question)}")


def place(clip: Clip, rng: np.random.Generator, times: int = 3) -> Task:
    """Ask where an object of the clip is at a few moments, in time order. Raises Ambiguous."""
    track = clip.tracks[rng.integers(len(clip.tracks))]
    seen = np.flatnonzero(track.seen)
    if len(seen) < times:
        raise Ambiguous("place: seen too briefly")
    frames = tuple(int(i) for i in np.sort(rng.choice(seen, times, replace=False)))
    said = ", ".join(f"{clip.timestamps[i]:.1f}s" for i in frames)
    prompt = f"Where is the {track.name} at {said}?"
    return Task("describe_place", prompt,
                reasoning_short.positions(clip, [(track, i) for i in frames], images=False))


def listing(clip: Clip, rng: np.random.Generator) -> Task:
    """Ask for all objects seen at one moment, from left to right: what ties names to places."""
    frame = int(rng.integers(len(clip.frames)))
    found = [(readout.place(clip, track, frame, SHORT), track.name)
             for track in clip.tracks if track.seen[frame]]
    if not found:
        raise Ambiguous("listing: nothing is seen")
    found.sort(key=lambda pair: (pair[0].x, pair[0].y))
    stated = " ".join(f"{name} at {p.x},{p.y} size {p.size}." for p, name in found)
    return Task("describe_scene", f"List the things at {clip.timestamps[frame]:.1f}s.", stated)
