"""Asks questions about a clip: one type at a time, answers by margin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.synth.clip import Clip
from fourd4d.synth.questions.margins import Margins
from fourd4d.synth.questions.question import AskSpec, Question, Subject
from fourd4d.synth.questions.types import QUESTION_TYPES, QuestionType, question_type


@dataclasses.dataclass(frozen=True)
class QuestionSpec:
    """How questions are asked.

    Attributes:
      style: ``short`` for tiny models: few words, positions on a 10 × 10 grid, one-decimal boxes.
        ``full``: sentences, positions in percent, spans named in the question.
      overlays: mental images of a question, by question type; the type's own number where it is
        not named.
      margins: how clear a case must be.
      varying: whether ``Varying speed`` is an answer.
      parts: where the whole of what is seen is ambiguous, its halves, thirds, … up to so many parts
        are tried.
    """

    style: str = "full"
    overlays: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {name: one.overlays for name, one in QUESTION_TYPES.items()})
    margins: Margins = Margins()
    varying: bool = False
    parts: int = 1

    def __post_init__(self) -> None:
        if self.style not in ("short", "full"):
            raise InputError("QuestionSpec.style", f"unknown value {self.style!r}",
                             "Use 'short' or 'full'")
        if not set(self.overlays) <= set(QUESTION_TYPES) or min(
                self.overlays.values(), default=2) < 2:
            raise InputError("QuestionSpec.overlays", f"{dict(self.overlays)}",
                             f"Give 2 or more, for types among {tuple(QUESTION_TYPES)}")

    def of(self, asked: QuestionType) -> AskSpec:
        """Return how questions of one type are asked."""
        return AskSpec(self.style, self.overlays.get(asked.name, asked.overlays), self.margins,
                       self.varying, self.parts)


def ask(clip: Clip, name: str, rng: np.random.Generator, spec: QuestionSpec,
        subject: Subject | None = None) -> Question:
    """Return a question of the type ``name`` about the clip, or about one subject of it.

    Raises:
      Ambiguous: the clip does not show the answer clearly; the message says why.
      InputError: there is no such type.
    """
    asked = question_type(name)
    return asked.ask(clip, rng, spec.of(asked), subject or Subject())
