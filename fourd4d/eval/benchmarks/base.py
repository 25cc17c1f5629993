"""What a benchmark is: questions read from its own files, protocols that ask them, a scoring."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.core.storage import local_only
from fourd4d.eval.benchmarks.frames import FrameRule, Nearest, Shown
from fourd4d.processing.media import Image, Video

Parts = Sequence[str | Video | Image]
"""A user turn: texts and media in reading order."""
Reading = str | float | None
"""A letter, a number, or nothing that can be read."""
DEFAULT_PROTOCOL = "4dthinker"


@dataclasses.dataclass(frozen=True)
class Clip:
    """One medium of a question, by paths below the benchmark's root.

    Attributes:
      video: a video file; empty where frames are given.
      elsewhere: where it may lie as well, in the order in which it is sought.
      frames: frame images, in time order.
      timestamps: seconds, one a frame.
      window: (start, end) in seconds, as the question states it; None for the whole.
      still: the one frame is a picture beside the video, not a video.
    """

    video: str = ""
    frames: tuple[str, ...] = ()
    timestamps: tuple[float, ...] = ()
    window: tuple[float, float] | None = None
    still: bool = False
    elsewhere: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Question:
    """A row of a benchmark.

    Attributes:
      key: unique in the benchmark.
      text: as it stands in the file, without the options.
      options: their texts, without letters of their own; empty for a number.
      answers: the letters that are right: several where options are the same.
      number: what is right where a number is asked for.
      kind: question type.
      clips: what is shown.
      video_id: questions of one video are not independent; by default the first clip's path.
      shown: the options as they stand in the file.
      row: the file's row, for layouts of other kits.
      where: file and row, for messages.
      problem: why it cannot be asked; empty where it can.
      note: what is odd about it though it can be asked.
    """

    key: str
    text: str = ""
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    number: float | None = None
    kind: str = ""
    clips: tuple[Clip, ...] = ()
    video_id: str = ""
    shown: tuple[str, ...] = ()
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = ""
    problem: str = ""
    note: str = ""

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.options)]

    @property
    def cluster(self) -> str:
        """The name of its video."""
        first = self.clips[0] if self.clips else Clip()
        return self.video_id or first.video or os.path.dirname((first.frames or ("",))[0])

    @property
    def key_text(self) -> str:
        """What is right, to be shown: letters, or the number."""
        return "".join(self.answers) if self.number is None else f"{self.number:g}"

    def sample(self) -> Sample:
        """As the rest of the package knows a question."""
        first = next((clip for clip in self.clips if not clip.still), Clip())
        return Sample(
            id=self.key, question=self.text, options=self.options,
            answer=self.answers[0] if self.answers else "", kind=self.kind, video=first.video,
            video_id=self.cluster, frames=first.frames, timestamps=first.timestamps)


@dataclasses.dataclass(frozen=True)
class AskProtocol:
    """One way to ask a benchmark's questions.

    Attributes:
      source: where it is written down.
      prompt: the user turn of a question, given what is shown of its clips.
      frames: which frames of a clip are shown.
      own: the protocol's own reading of a response; None where a judge model reads it.
      suffix: end the turn with the checkpoint's wording that asks for imagery.
      windowed: show the question's time window only.
      max_pixels: bound of a frame's pixels, where the checkpoint allows more; 0 for none.
    """

    source: str
    prompt: Callable[[Question, Shown], Parts]
    frames: FrameRule
    own: Callable[[str, Question], Reading] | None = None
    suffix: bool = False
    windowed: bool = False
    max_pixels: int = 0


@dataclasses.dataclass(frozen=True)
class Published:
    """A known result.

    Attributes:
      metric: a name that ``Benchmark.aggregate`` gives.
      value: per cent.
    """

    model: str
    metric: str
    value: float
    source: str
    protocol: str = ""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark; see the package on how to add one.

    Attributes:
      name: as in ``--config.benchmark``.
      title: as its authors write it.
      read: (root, split) to questions in file order. Raises InputError where no file can be used;
        a row that cannot be asked is a question with a ``problem``.
      write_fake: makes a tiny copy of the official layout in an empty folder.
      protocols: by name.
      aggregate: questions and each one's score to the benchmark's own table, shares by metric.
      splits: names that ``read`` knows, the default first.
      published: known results.
      invariant: question types whose answer no mirror and no reversal changes.
    """

    name: str
    title: str
    read: Callable[[Path, str], list[Question]]
    write_fake: Callable[[Path], None]
    protocols: Mapping[str, AskProtocol]
    aggregate: Callable[[Sequence[Question], Mapping[str, float]], dict[str, float]]
    splits: tuple[str, ...] = ("",)
    published: tuple[Published, ...] = ()
    invariant: frozenset[str] = frozenset()

    def open(self, root: str | os.PathLike[str], protocol: str = "", split: str = "",
             **options: Any) -> Any:
        """The benchmark's rows, a ``BenchmarkSource``.

        Args:
          root: the folder with its files, in the official layout.
          protocol, split: by name; the first of each by default.
          options: of ``BenchmarkSource``.

        Raises:
          InputError: no such protocol or split, or no file that can be read.
        """
        from fourd4d.eval.benchmarks.source import BenchmarkSource

        root = local_only(root, "files of a benchmark")
        if not root.is_dir():
            raise InputError(root, "no such folder", f"Give the folder with {self.title}'s files")
        protocol, split = protocol or next(iter(self.protocols)), split or self.splits[0]
        for what, given, known in (("protocol", protocol, self.protocols),
                                   ("split", split, self.splits)):
            if given not in known:
                raise InputError(f"config.{what}", f"{self.name} has no {given!r}",
                                 f"Use one of {sorted(known)}")
        questions = unique(self.read(root, split))
        if not questions:
            raise InputError(root, f"{self.title} has no rows here", "Fetch its files again")
        return BenchmarkSource(self, root, questions, protocol, split, **options)

    def fake(self, root: str | os.PathLike[str]) -> Path:
        """Write a tiny copy of the official layout, its videos decodable; return its folder."""
        root = local_only(root, "files of a benchmark")
        root.mkdir(parents=True, exist_ok=True)
        self.write_fake(root)
        return root


def unique(questions: Sequence[Question]) -> list[Question]:
    """The questions; a key that stands again gets its row's number."""
    seen: set[str] = set()
    found = []
    for number, question in enumerate(questions, 1):
        key = question.key
        if key in seen:
            key = f"{key} (row {number})"
            question = dataclasses.replace(question, key=key)
        seen.add(key)
        found.append(question)
    return found


def imagery_protocol() -> AskProtocol:
    """4DThinker's: 1 fps, at most 50 frames of at most 200,704 pixels, its wording at the end."""
    return AskProtocol(
        "4DThinker, arXiv 2605.05997", lambda q, shown: [*shown.media, q.sample().text_input],
        Nearest(1.0, 50), suffix=True, max_pixels=256 * 28 * 28)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def by_kind(questions: Sequence[Question], scores: Mapping[str, float],
            order: Sequence[str] = (), of: Callable[[Question], str] = lambda q: q.kind
            ) -> dict[str, float]:
    """Mean score of each type: those of ``order`` first, then the others as they come."""
    groups: dict[str, list[float]] = {kind: [] for kind in order}
    for question in questions:
        groups.setdefault(of(question), []).append(scores[question.key])
    return {kind: mean(values) for kind, values in groups.items() if values}


def micro(questions: Sequence[Question], scores: Mapping[str, float]) -> float:
    """Mean over all items."""
    return mean([scores[question.key] for question in questions])
