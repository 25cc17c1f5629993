"""A benchmark's questions as a source of items: asked and scored by a protocol, in a mode."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.data.source import Row
from fourd4d.eval.benchmarks import scoring
from fourd4d.eval.benchmarks.base import Benchmark, Parts, Question, Reading
from fourd4d.eval.benchmarks.frames import FrameReader, Shown
from fourd4d.eval.benchmarks.modes import MAPPED, applied, check_mode, mapped_answers
from fourd4d.eval.items import Item
from fourd4d.processing.media import Video
from fourd4d.processing.processor import Processor


class BenchmarkSource:
    """Questions of a benchmark, as one protocol asks them in one mode.

    Args:
      questions: in file order, their keys unique.
      protocol, split: names of the benchmark's.
      mode: of ``modes.MODES``.
      seed: of the orders of shuffled frames.
      cache_bytes: bytes of decoded frames kept for other questions of the same videos.
      reader: shares what another source of the same folder has decoded.
    """

    def __init__(self, benchmark: Benchmark, root: Path, questions: Sequence[Question],
                 protocol: str, split: str = "", *, mode: str = "normal", seed: int = 0,
                 cache_bytes: int = 1 << 30, reader: FrameReader | None = None):
        check_mode(mode)
        self.benchmark, self.root, self.split = benchmark, root, split
        self.protocol, self.mode, self.seed = protocol, mode, seed
        self.questions = tuple(questions)
        self.reader = reader or FrameReader(root, cache_bytes)
        self._ask = benchmark.protocols[protocol]

    def with_(self, protocol: str, mode: str, keys: Collection[str] | None = None
              ) -> BenchmarkSource:
        """The same questions (or those of ``keys``) otherwise asked, from the same frames."""
        kept = [q for q in self.questions if keys is None or q.key in keys]
        return BenchmarkSource(self.benchmark, self.root, kept, protocol, self.split, mode=mode,
                               seed=self.seed, reader=self.reader)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Row:
        """A row of the file, also one that cannot be asked: ``questions[index].problem`` tells."""
        question = self.questions[index]
        return Row(question.sample(), question.where, root=self.root)

    def __repr__(self) -> str:
        return f"BenchmarkSource({self.benchmark.name}, {len(self)} rows)"

    def items(self, limit: int = 0) -> list[Item]:
        """The first ``limit`` items (all by default), those that cannot be asked included."""
        return [Item(number, q.key, q.kind, len(q.options),
                     f"reading: {q.problem}" if q.problem else "", q.cluster)
                for number, q in enumerate(self.questions[: limit or None])]

    def describe(self) -> dict[str, Any]:
        """What tells this evaluation from another one, as JSON values."""
        ask = self._ask
        return {"name": self.benchmark.name, "split": self.split, "protocol": self.protocol,
                "mode": self.mode, "frames": repr(ask.frames), "windowed": ask.windowed,
                "rows": self.digest()}

    def digest(self) -> str:
        """16 hexadecimal digits of all questions, options, keys and files named."""
        total = hashlib.sha256()
        for q in self.questions:
            total.update(json.dumps([
                q.key, q.text, q.options, q.answers, q.number, q.problem,
                [[c.video, c.frames, c.timestamps, c.window] for c in q.clips]]).encode())
        return total.hexdigest()[:16]

    def shown(self, number: int) -> Shown:
        """What is shown of a question's clips in this mode.

        Raises:
          InputError: media that are missing or cannot be read.
        """
        question = self.questions[number]
        if question.problem:
            raise InputError(question.where, question.problem.removeprefix(f"{question.where}: "))
        if self.mode == "blind":
            return Shown()
        shown = self.reader.show(question.clips, self._ask.frames, self._ask.windowed,
                                 question.where)
        return applied(self.mode, shown, question.key, self.seed)

    def parts(self, number: int) -> Parts:
        """The user turn of a question: texts and media in reading order."""
        return self._ask.prompt(self.questions[number], self.shown(number))

    def example(self, number: int, processor: Processor) -> Example:
        """The prompt of a question, tokenised."""
        parts = [part for part in self.parts(number) if not isinstance(part, str) or part]
        own, bound = processor.protocol, self._ask.max_pixels
        if own.budget == "video":  # The checkpoint's is of all frames of a video together.
            bound *= max(own.temporal_patch, min(
                (len(part.frames) for part in parts if isinstance(part, Video)), default=0))
        if bound and own.max_pixels > bound:
            processor = Processor(processor.tokenizer, dataclasses.replace(
                own, max_pixels=bound, min_pixels=min(own.min_pixels, bound)), processor.cut)
        return processor.prompt_of(parts, suffix=self._ask.suffix)

    def answers(self, number: int) -> tuple[str, ...] | None:
        """The letters that are right in this mode; None where no rule tells."""
        question = self.questions[number]
        if self.mode in MAPPED and question.number is not None:
            return () if question.kind in self.benchmark.invariant else None
        return mapped_answers(question, self.mode, self.benchmark.invariant)

    def about(self, number: int) -> dict[str, Any]:
        """Fields of every record of a question, answered or not."""
        question = self.questions[number]
        answers = self.answers(number) if not question.problem else ()
        fields: dict[str, Any] = {"video_id": question.cluster, "answer": question.key_text}
        if self.mode in MAPPED and not question.problem:
            fields |= {"mapped": answers is not None,
                       "answer": question.key_text if question.number is not None
                       else "".join(answers or ())}
        own = {} if self._ask.own is None else {"own": None, "own_score": 0.0}
        return fields | {"score": 0.0, "lenient_score": 0.0} | own

    def score(self, number: int, text: str) -> dict[str, Any]:
        """What a response is worth: strict, lenient, and as the protocol itself reads it."""
        question = self.questions[number]
        answers = self.answers(number)
        question = dataclasses.replace(question, answers=answers or ())
        strict, lenient = scoring.strict(text, question), scoring.lenient(text, question)
        fields = self.about(number) | {
            "chosen": _told(strict), "score": scoring.score(question, strict),
            "lenient": _told(lenient), "lenient_score": scoring.score(question, lenient)}
        fields |= {"correct": fields["score"] == 1.0,
                   "lenient_correct": fields["lenient_score"] == 1.0}
        if self._ask.own is not None:
            own = self._ask.own(text, question)
            fields |= {"own": _told(own), "own_score": scoring.score(question, own)}
        if answers is None:  # Of a number, too, nothing is known to be right.
            fields |= {name: 0.0 for name in fields if name.endswith("score")}
            fields |= {"correct": False, "lenient_correct": False}
        return fields


def _told(reading: Reading) -> str | None:
    return reading if reading is None or isinstance(reading, str) else f"{reading:g}"
