"""The table of question types.

To add one: write a module beside this file with a subclass of ``base.QuestionType``, or of
``base.ObjectQuestionType`` for a question about a moving object, and put one instance of it into
the table below. Its class holds all there is to it: the answer pool, the wordings, the rule of the
answer with its certainty, the short and the full reasoning, and how many mental images it has.
Datasets, configs, reasoning and pretraining tasks look it up here.
"""

from __future__ import annotations

from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth.questions.types.base import QuestionType
from fourd4d.synth.questions.types.camera import Camera
from fourd4d.synth.questions.types.destination import Destination, Vacated
from fourd4d.synth.questions.types.direction import BoxDirection, Direction
from fourd4d.synth.questions.types.distance import Distance
from fourd4d.synth.questions.types.lookalike import Lookalike
from fourd4d.synth.questions.types.speed import Speed

QUESTION_TYPES: Final[dict[str, QuestionType]] = {
    one.name: one for one in (Camera(), Direction(), Distance(), Speed(), BoxDirection(),
                              Destination(), Vacated(), Lookalike())
}


def question_type(name: str) -> QuestionType:
    """Return a question type by name. Raises InputError where the table has none of that name."""
    if name not in QUESTION_TYPES:
        raise InputError("question type", f"unknown value {name!r}",
                         f"Use one of {tuple(QUESTION_TYPES)}")
    return QUESTION_TYPES[name]
