"""Reasoning in sentences: span, reference, mental images, displacement, camera, conclusion.

Wordings vary; numbers are percent of the frame, read off the track at each mental image. What they
lead to is for the question type to say.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, reasoned
from fourd4d.synth.clip import Clip
from fourd4d.synth.questions import readout
from fourd4d.synth.questions.question import Question
from fourd4d.synth.questions.readout import PERCENT
from fourd4d.synth.questions.types import question_type
from fourd4d.synth.questions.types.base import Voice

_SEEN: Final = (
    "At {time} {mark} it is at {x}% across and {y}% down, {size}% of the frame in size.",
    "{time}: {mark} centre at ({x}%, {y}%), size {size}%.",
    "Imagining {time} {mark}, I see it {x}% from the left and {y}% from the top, size {size}%.",
    "In the picture at {time} {mark} it lies at ({x}%, {y}%) with a size of {size}%.",
    "{mark} shows it at {time}: {x}% across, {y}% down, {size}% in size.",
)
_SEEN_LATER: Final = (
    *_SEEN[1:], "Then, at {time}, {mark} it sits at x {x}%, y {y}%, size {size}%.",
    "By {time} {mark} it has come to ({x}%, {y}%), size {size}%.",
)
_CLOSINGS: Final = (
    "That matches option {letter}.", "So the answer is {letter}.", "This is option {letter}.",
    "Among the options, that is {letter}.", "Option {letter} says exactly this.",
)


def reasoning(clip: Clip, question: Question, rng: np.random.Generator, number: int = 0) -> str:
    """Return the whole response, overlays as ``<output_image>``.

    Raises Ambiguous where the stated numbers do not lead to the answer.

    Args:
      number: counts the texts of a dataset; neighbours have different openings.
    """
    voice = Voice(rng)
    asked = question_type(question.type)
    name = question.track.name
    start, end = (f"{clip.timestamps[question.frames[i]]:.1f}s" for i in (0, -1))
    opening = asked.openings_full[number % len(asked.openings_full)].format(
        name=name, start=start, end=end)
    if not asked.names_object:
        told = asked.introductions["full"].format(name=name, start=start)
        opening = f"{told} {opening}"
    places = readout.places(clip, question, PERCENT)
    images = " ".join(
        voice.pick(_SEEN_LATER if n else _SEEN).format(
            time=f"{clip.timestamps[i]:.1f}s", mark=IMAGE_MARK, x=p.x, y=p.y, size=p.size)
        for n, (i, p) in enumerate(zip(question.frames, places, strict=True))
    )
    found = asked.findings_full(clip, question, places, voice)
    letter, answer = question.answer, question.answer_text
    closing = voice.pick(_CLOSINGS).format(letter=letter)
    return reasoned(f"{opening} {images} {found} {closing}", f"{letter}. {answer}")
