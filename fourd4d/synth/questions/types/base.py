"""What a question type is: the interface, and what types about a moving object share."""

from __future__ import annotations

import abc
import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Final

import numpy as np

from fourd4d.core.sample import LETTERS
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Question, Subject
from fourd4d.synth.questions.readout import Place

OBJECT_OPENINGS_SHORT: Final = ("Watch the {name}.", "Look at the {name}.", "Follow the {name}.",
                                "Find the {name}.")
OBJECT_OPENINGS_FULL: Final = (
    "The question covers {start} to {end}, so I follow the {name} over that span.",
    "I need the motion of the {name} between {start} and {end}.",
    "Let me picture the {name} at a few moments from {start} to {end}.",
    "First I locate the {name}, then I track it from {start} to {end}.",
    "To answer, I compare where the {name} is at {start} and later, up to {end}.",
    "Between {start} and {end}, the {name} is the object to watch.",
    "Focus on the {name}; the relevant span is {start} to {end}.",
    "I start by finding the {name} at {start} and keep an eye on it until {end}.",
    "What matters here is the {name}, from {start} through {end}.",
    "Going through the clip from {start} to {end}, I look for the {name}.",
    "The {name} has to be followed from {start} to {end}.",
)


@dataclasses.dataclass
class Voice:
    """Wordings of one text: drawn without repeating the last one of a list."""

    rng: np.random.Generator
    last: dict[int, int] = dataclasses.field(default_factory=dict)

    def pick(self, wordings: Sequence[str]) -> str:
        choices = [i for i in range(len(wordings)) if i != self.last.get(id(wordings))]
        self.last[id(wordings)] = choices[self.rng.integers(len(choices))]
        return wordings[self.last[id(wordings)]]


class QuestionType(abc.ABC):
    """One type of question: its wordings, the rule of its answer, and the reasoning behind it.

    Attributes:
      name: as configs, JSONL rows and records have it.
      overlays: mental images of a question by default; 2 or more.
      wordings: of the question, by style. They may hold ``{name}``, ``{start}`` and ``{end}``
        (seconds), and what ``facts`` adds.
      descriptions: prompts of the pretraining task that describes what the question is about; they
        may hold ``{name}`` and ``{box}``.
      openings_short, openings_full: first sentences of the reasoning, by style; ``{name}``, and in
        the full style ``{start}`` and ``{end}``.
      lead: what stands before the answer in a short conclusion.
      introductions: first sentence of the reasoning where a question does not name its object, by
        style; in the full style, an opening comes after it. None where it does.
    """

    name: ClassVar[str]
    overlays: ClassVar[int]
    wordings: ClassVar[Mapping[str, tuple[str, ...]]]
    descriptions: ClassVar[tuple[str, ...]]
    openings_short: ClassVar[tuple[str, ...]] = OBJECT_OPENINGS_SHORT
    openings_full: ClassVar[tuple[str, ...]] = OBJECT_OPENINGS_FULL
    lead: ClassVar[str] = ""
    introductions: ClassVar[Mapping[str, str]] = {}

    @property
    def names_object(self) -> bool:
        """Whether a question names its object; otherwise the reasoning introduces it."""
        return not self.introductions

    @abc.abstractmethod
    def subjects(self, clip: Clip) -> Iterator[Subject]:
        """Yield what to ask about in a clip; one empty Subject where there is nothing."""

    @abc.abstractmethod
    def ask(self, clip: Clip, rng: np.random.Generator, spec: AskSpec, subject: Subject
            ) -> Question:
        """Return a question. Raises Ambiguous, with the reason, where the answer is not clear."""

    @abc.abstractmethod
    def findings_short(self, clip: Clip, question: Question) -> str:
        """Return what a short reasoning finds in the positions that it has stated.

        Raises Ambiguous where the stated numbers do not lead to the answer.
        """

    @abc.abstractmethod
    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        """Return the sentences that lead from the stated ``places``, in percent, to the answer.

        Raises Ambiguous where the stated numbers do not lead to it.
        """

    def sample_name(self, clip: Clip, question: Question, suffix: str) -> str:
        """Return what tells a sample from others of its clip; ``suffix`` numbers the object."""
        return f"{question.track.role}_{self.name}{suffix}"

    def word(self, rng: np.random.Generator, style: str, **facts: object) -> str:
        """Draw a wording of the question and fill it in."""
        wordings = self.wordings[style]
        return wordings[rng.integers(len(wordings))].format(**facts)


class ObjectQuestionType(QuestionType):
    """A question about a moving object, over the frames in which it is seen or a part of them."""

    @abc.abstractmethod
    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        """Return the answer for what is shown at ``frames``, and where it comes from.

        Raises Ambiguous near a boundary, and where the errors of the track could change it.
        """

    @abc.abstractmethod
    def pool(self, spec: AskSpec) -> Pool:
        """Return the answers that may be asked for."""

    def facts(self, clip: Clip, track: Track, frame: int, spec: AskSpec) -> Mapping[str, str]:
        """Return what the wordings hold besides name and times. Raises Ambiguous."""
        del clip, track, frame, spec
        return {}

    def found_by(self, clip: Clip, track: Track, first: int, last: int, margins: Margins
                 ) -> tuple[Track, int] | None:
        """Return the thing that the object is called by and the frame in which it tells; or None.

        Wordings hold its name as ``{reference}``; in few words it is imagined first. Raises
        Ambiguous where the object cannot be called by one.
        """
        del clip, track, first, last, margins
        return None

    def windows(self, first: int, last: int, spec: AskSpec) -> Iterator[tuple[int, int]]:
        """Yield first and last frames to try while the answer is ambiguous: the parts of a span."""
        for parts in range(2, spec.parts + 1):
            cuts = np.linspace(first, last, parts + 1).astype(int)
            yield from ((int(a), int(b)) for a, b in itertools.pairwise(cuts)
                        if b - a >= 2 * spec.overlays)

    def subjects(self, clip: Clip) -> Iterator[Subject]:
        """Yield each moving object; by name, only those whose name no other object has."""
        names = collections.Counter(track.name for track in clip.tracks)
        moving = [track for track in clip.tracks if track.role == "dynamic"]
        if not moving:
            yield Subject()
        yield from (Subject(track=track) for track in moving
                    if not self.names_object or names[track.name] == 1)

    def ask(self, clip: Clip, rng: np.random.Generator, spec: AskSpec, subject: Subject
            ) -> Question:
        track = subject.track or clip.dynamic
        if track is None:
            raise Ambiguous(f"{self.name}: nothing moves")
        seen = np.flatnonzero(track.seen)
        if len(seen) < 2:
            raise Ambiguous(f"{self.name}: seen in fewer than two frames")
        span = int(seen[0]), int(seen[-1])
        reason = ""  # Not the exception, which would hold on to this frame, and so to the clip.
        for first, last in itertools.chain([span], self.windows(*span, spec)):
            try:
                return self._ask_about(clip, rng, spec, track, first, last)
            except Ambiguous as why:
                reason = reason or str(why)
        raise Ambiguous(reason)

    def _ask_about(self, clip: Clip, rng: np.random.Generator, spec: AskSpec, track: Track,
                   first: int, last: int) -> Question:
        """Return the question about the frames ``first`` … ``last``. Raises Ambiguous."""
        frames = self._overlay_frames(track, first, last, spec.overlays)
        first, last = frames[0], frames[-1]
        answer, source = self.answer(clip, track, frames, spec.margins)
        pool = self.pool(spec)
        if answer not in pool.answers:
            raise Ambiguous(f"{self.name}: varies")
        facts = {**self.facts(clip, track, first, spec)}
        shown = [(track, frame) for frame in frames]
        reference = self.found_by(clip, track, first, last, spec.margins)
        if reference is not None:
            facts["reference"] = reference[0].name
            shown = [reference, *shown] if spec.style == "short" else shown
        text = self.word(rng, spec.style, name=track.name, start=clip.timestamps[first],
                         end=clip.timestamps[last], **facts)
        options = pool.options(answer, rng)
        return Question(self.name, text, options, LETTERS[options.index(answer)], track,
                        clip.landmark, tuple(shown), {"answer_from": source})

    def _overlay_frames(self, track: Track, first: int, last: int, count: int
                        ) -> tuple[int, ...]:
        """Return evenly spaced frames, or the nearest in which the object is seen."""
        frames = geometry.evenly_spaced(first, last, count)
        if not track.seen[list(frames)].all():
            seen = first + np.flatnonzero(track.seen[first : last + 1])
            near = {int(seen[np.abs(seen - frame).argmin()]) for frame in frames}
            if len(near) < len(frames):
                raise Ambiguous(f"{self.name}: hidden at an overlay")
            frames = tuple(sorted(near))
        return frames
