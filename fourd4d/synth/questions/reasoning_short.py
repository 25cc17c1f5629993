"""Short reasoning for tiny models: few words, one form, every position spelled out.

What is found in the positions, and which answer they lead to, is for the question type to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, LETTERS, reasoned
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import readout
from fourd4d.synth.questions.question import Question
from fourd4d.synth.questions.readout import SHORT
from fourd4d.synth.questions.types import question_type


def positions(clip: Clip, shown: Sequence[tuple[Track, int]], images: bool) -> str:
    """Return '0.0s <output_image> at 2,7 size 4. …', a sentence an overlay; marks if ``images``.

    Args:
      shown: object and frame number of each.
    """
    mark = f" {IMAGE_MARK}" if images else ""
    return " ".join(
        f"{clip.timestamps[i]:.1f}s{mark} at {p.x},{p.y} size {p.size}."
        for track, i in shown for p in [readout.place(clip, track, i, SHORT)]
    )


def conclusion(question: Question) -> str:
    """Return 'So its motion is Left.'."""
    return f"So {question_type(question.type).lead}{question.answer_text}."


def choice(question: Question) -> str:
    """Return 'A. Left: no. B. Up: yes.': the options read off until one is the answer.

    Small models learn to read on and to compare in hundreds of steps; to fetch the letter that
    stands before a word they do not learn in thousands.
    """
    tried = zip(LETTERS[: LETTERS.index(question.answer) + 1], question.options, strict=False)
    return " ".join(f"{letter}. {text}: {'yes' if letter == question.answer else 'no'}."
                    for letter, text in tried)


def reasoning(clip: Clip, question: Question, rng: np.random.Generator, number: int = 0) -> str:
    """Return the whole response, overlays as ``<output_image>``.

    Raises Ambiguous where the stated numbers do not lead to the answer.

    Args:
      number: for styles that count their openings; here they are drawn.
    """
    del number
    asked = question_type(question.type)
    found = asked.findings_short(clip, question)
    opening = asked.openings_short[rng.integers(len(asked.openings_short))]
    if not asked.names_object:
        opening = asked.introductions["short"]
    opening = opening.format(name=question.track.name)
    where = positions(clip, question.overlays, images=True)
    return reasoned(f"{opening} {where} {found} {conclusion(question)} {choice(question)}",
                    f"{question.answer}. {question.answer_text}")
