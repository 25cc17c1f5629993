"""One question about one video, as synthesis writes it and every other stage reads it."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.html import table

LETTERS = "ABCDEFGHIJ"
IMAGE_MARK = "<output_image>"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def lettered(options: Sequence[str]) -> str:
    """Formats options as a prompt shows them: ``A. …``, one a line."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question, its video and (for fine-tuning) the response to imitate.

    Attributes:
      id: unique in its dataset.
      question: without the options.
      options: option texts in the order A, B, …; empty for a free-text task.
      answer: the right option's letter; empty for a free-text task.
      kind: question type, e.g. ``direction``; empty where unknown.
      video: path of a video file, relative to the data root; empty when frames are given.
      video_id: the source video's name, for overlap reports.
      frames: paths of frame images, relative to the data root.
      timestamps: seconds, one per frame; empty where the source has none.
      response: the assistant's text with one ``<output_image>`` per overlay; empty for RL rows.
      overlays: paths of overlay images, in time order.
      overlay_timestamps: seconds, one per overlay; empty where unknown.
      masks: paths of the mask behind each overlay, or empty.
      provenance: where each label comes from (JSON values). Two samples with one ``pair`` in it ask
        the same, with the same options, about clips that differ in one fact (``change``), and
        their answers differ.
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    answer: str = ""
    kind: str = ""
    video: str = ""
    video_id: str = ""
    frames: tuple[str, ...] = ()
    timestamps: tuple[float, ...] = ()
    response: str = ""
    overlays: tuple[str, ...] = ()
    overlay_timestamps: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def answer_text(self) -> str:
        """The right option's text."""
        return self.options[LETTERS.index(self.answer)] if self.answer else ""

    @property
    def pair(self) -> str:
        """What the sample shares with its counterpart alone; empty where it has none."""
        return str(self.provenance.get("pair", ""))

    @property
    def text_input(self) -> str:
        """Question, blank line, options one a line."""
        if not self.options:
            return self.question
        return f"{self.question}\n\n{lettered(self.options)}"

    def _repr_html_(self) -> str:
        media = self.video or f"{len(self.frames)} frames"
        if self.timestamps:
            media += f", {self.timestamps[0]:g} to {self.timestamps[-1]:g} s"
        rows = [("question", self.question), ("options", lettered(self.options)),
                ("answer", f"{self.answer}. {self.answer_text}" if self.answer else ""),
                ("video", media), ("response", self.response),
                ("overlays", ", ".join(self.overlays))]
        return table([row for row in rows if row[1]],
                     title=f"{self.id} ({self.kind})" if self.kind else self.id)

    @staticmethod
    def fake(seed: int = 0) -> Sample:
        """A well-formed sample whose files do not exist."""
        times = tuple(0.5 * i for i in range(4))
        return Sample(
            id=f"clip{seed}_dynamic_direction", question="Which way does the red cube move?",
            options=("Left", "Right", "Up", "Down"), answer=LETTERS[seed % 4], kind="direction",
            video_id=f"clip{seed}", frames=tuple(f"clip{seed}/{i}.png" for i in range(4)),
            timestamps=times,
            response=reasoned(
                f"At the start {IMAGE_MARK} and at the end {IMAGE_MARK}.",
                f"{LETTERS[seed % 4]}. {('Left', 'Right', 'Up', 'Down')[seed % 4]}"),
            overlays=(f"clip{seed}/o0.png", f"clip{seed}/o3.png"),
            overlay_timestamps=(times[0], times[-1]),
            provenance={"source": "fake"},
        )


def reasoned(thinking: str, answer: str) -> str:
    """Return a response in the form that is taught and rewarded; ``processing.answers`` reads it.

    Args:
      answer: letter and text, as ``B. Left``.
    """
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def option_text(value: Any, where: object, name: object = "an option") -> str:
    """The text of an option: of a text its words on one line, of a number or truth value ``str``.

    Raises:
      InputError: naming ``where`` and ``name``: it is empty, not finite, or anything else.
    """
    if isinstance(value, str):
        text = " ".join(part for line in value.splitlines() if (part := line.strip()))
    elif hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:  # NumPy's and JAX's scalars.
        return option_text(value.item(), where, name)
    elif isinstance(value, numbers.Real) and _is_finite(value):
        text = str(value)
    else:
        text = ""
    if not any(letter.isprintable() and not letter.isspace() for letter in text):
        raise InputError(where, f"{name} is {_brief(value)}", "Give it a text or a number")
    return text


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # A whole number beyond every float.
        return False


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({type(value).__name__})"


def check(sample: Sample, where: object) -> None:
    """Raises InputError unless the sample keeps the invariants of its format.

    Checked: there is a question; options differ and none is empty; the key is one of them, and
    there is none without options; one timestamp per frame, rising; as many ``<output_image>`` as
    overlays; no control tokens in the text; the response's ``<answer>`` is the key.
    """

    def bad(what: str, remedy: str) -> InputError:
        return InputError(where, f"sample {sample.id!r}: {what}", remedy)

    if not sample.question.strip():
        raise bad("the question is empty", "Give it a text")
    if sample.options and not 2 <= len(sample.options) <= len(LETTERS):
        raise bad(f"{len(sample.options)} options", f"Give 2 to {len(LETTERS)}")
    if sample.answer and not sample.options:
        raise bad(f"the key is {sample.answer[:60]!r}, but there are no options",
                  "Give the options A, B, …, or a response without a key")
    if sample.options and sample.answer not in tuple(LETTERS[: len(sample.options)]):
        raise bad(f"answer {sample.answer!r} is not an option's letter",
                  f"Use one of {LETTERS[: len(sample.options)]}")
    for letter, text in zip(LETTERS, sample.options, strict=False):
        option_text(text, where, f"sample {sample.id!r}: option {letter}")
    if len(set(sample.options)) != len(sample.options):
        raise bad("two options are the same", "Make the options differ")
    if not sample.frames and not sample.video:
        raise bad("neither frames nor a video", "Give image_input, frame_paths or video_path")
    if sample.timestamps and sample.frames and len(sample.timestamps) != len(sample.frames):
        raise bad(f"{len(sample.frames)} frames, {len(sample.timestamps)} timestamps",
                  "Give one timestamp per frame")
    if not all(map(math.isfinite, (*sample.timestamps, *sample.overlay_timestamps))):
        raise bad("a timestamp is not finite", "Give seconds")
    if any(b <= a for a, b in zip(sample.timestamps, sample.timestamps[1:], strict=False)):
        raise bad("timestamps do not rise", "Sort the frames by time")
    if sample.overlay_timestamps and len(sample.overlay_timestamps) != len(sample.overlays):
        raise bad(f"{len(sample.overlays)} overlays, {len(sample.overlay_timestamps)} timestamps",
                  "Give one timestamp per overlay")
    if "<|" in sample.response or "<|" in sample.text_input:
        raise bad("text holds a control token ('<|')", "Remove it")
    if not sample.response:
        return
    marks = sample.response.count(IMAGE_MARK)
    if marks != len(sample.overlays):
        raise bad(f"{marks} {IMAGE_MARK} in the response, {len(sample.overlays)} overlays",
                  "Their numbers must be equal")
    if sample.answer:
        found = _ANSWER.findall(sample.response)
        if not found or found[-1].strip() not in (
            sample.answer, sample.answer_text, f"{sample.answer}. {sample.answer_text}"):
            raise bad(f"the response answers {found[-1].strip() if found else None!r}, the key is "
                      f"'{sample.answer}. {sample.answer_text}'", "Make them agree")
