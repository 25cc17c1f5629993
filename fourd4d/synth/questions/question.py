"""A question about a clip, and how questions of one type are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fourd4d.core.sample import LETTERS
from fourd4d.synth.clip import CameraSegment, Track
from fourd4d.synth.questions.margins import Margins


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its key and what its answer is read from.

    Attributes:
      type: name of its question type.
      options: A, B, C, D.
      answer: the right letter.
      track: the object that it is about.
      landmark: the object that stands for the static scene, where there is one.
      overlays: object and frame number of each.
      provenance: where the answer comes from (JSON values).
    """

    type: str
    text: str
    options: tuple[str, ...]
    answer: str
    track: Track
    landmark: Track | None
    overlays: tuple[tuple[Track, int], ...]
    provenance: Mapping[str, Any]

    @property
    def frames(self) -> tuple[int, ...]:
        """Frame numbers of the overlays."""
        return tuple(frame for _, frame in self.overlays)

    @property
    def own_overlays(self) -> tuple[tuple[Track, int], ...]:
        """Those that show what the question is about."""
        return tuple(one for one in self.overlays if one[0] is self.track)

    @property
    def answer_text(self) -> str:
        return self.options[LETTERS.index(self.answer)]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a question is about: a span of the camera's motion, or a moving object.

    Both None leave the choice to the question type.
    """

    segment: CameraSegment | None = None
    track: Track | None = None


@dataclasses.dataclass(frozen=True)
class AskSpec:
    """How questions of one type are asked; see ``ask.QuestionSpec``.

    Attributes:
      style: ``short`` or ``full``.
      overlays: mental images of a question.
      margins: how clear a case must be.
      varying: whether ``Varying speed`` is an answer.
      parts: into how many parts an ambiguous track is cut at most.
    """

    style: str
    overlays: int
    margins: Margins
    varying: bool = False
    parts: int = 1
