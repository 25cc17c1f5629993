"""Rewrites names of objects, questions and reasoning with a vision-language model.

``Template`` keeps the built-in texts. ``Asked`` has a model name objects, say whether a track is
one object throughout, and rewrite questions and reasoning. A model's texts are checked against the
facts: a question keeps its numbers and its object and gives no option away; a reasoning keeps each
image's mark with its readings, states no other number and no other direction, and concludes with
the key. Where a text fails its check, the template's stays; a track without a verdict is dropped.
Both are counted.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import cv2
import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK, lettered, reasoned
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.objects import naming
from fourd4d.synth.objects.mask_backends.base import ObjectMask
from fourd4d.synth.overlay import overlay
from fourd4d.synth.questions.question import Question
from fourd4d.synth.vlm.client import Client, Request, Verdict

USES: Final = ("name", "consistency", "question", "reasoning")
Counts = collections.Counter[str]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NAME = re.compile(r"[a-z][a-z0-9'-]*(?: [a-z0-9'-]+){0,4}")
_LETTER = re.compile(r"\b(?:[Oo]ption|[Aa]nswer(?: is)?|[Cc]hoice)\s+\(?([A-H])\b")
# Words for a direction or a change, and their meaning.
_SENSES: Final[Mapping[str, str]] = {
    word: sense
    for sense, words in {
        "left": "left leftward leftwards", "right": "right rightward rightwards",
        "up": "up upward upwards rises rising", "down": "down downward downwards falls falling",
        "nearer": "closer nearer approaches approaching toward towards grows growing larger bigger",
        "farther": "farther further recedes receding away shrinks shrinking smaller",
        "clockwise": "clockwise", "counterclockwise": "counterclockwise anticlockwise",
        "faster": "faster accelerates accelerating speeding speeds",
        "slower": "slower decelerates decelerating slowing slows",
        "still": "stationary static still motionless constant",
    }.items()
    for word in words.split()
}


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question with its response, and the author of each (``template`` or a model's name)."""

    question: Question
    response: str
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Words(Protocol):
    """Names a clip's objects and words the questions about it."""

    def name_objects(self, clip: Clip) -> tuple[Clip, Counts, Counts]:
        """Return the clip with its objects named, unclear ones dropped; drop reasons, and notes."""
        ...

    def write(self, clip: Clip, drafts: Sequence[Draft]) -> tuple[list[Draft], Counts]:
        """Return the drafts reworded, and notes on what kept its wording."""
        ...


class Template:
    """Keeps the built-in texts."""

    def name_objects(self, clip: Clip) -> tuple[Clip, Counts, Counts]:
        return clip, Counts(), Counts()

    def write(self, clip: Clip, drafts: Sequence[Draft]) -> tuple[list[Draft], Counts]:
        return list(drafts), Counts()


class Asked:
    """Takes texts from a vision-language model, checked against the facts.

    Args:
      client: to send requests through.
      uses: which of ``USES`` to ask for.
      side: longest side of the images sent, pixels.
    """

    def __init__(self, client: Client, uses: Collection[str] = USES, side: int = 448):
        unknown = sorted(set(uses) - set(USES))
        if unknown:
            raise InputError("vlm.uses", f"unknown {unknown}", f"Choose among {USES}")
        self.client, self.uses, self.side = client, frozenset(uses), side

    def name_objects(self, clip: Clip) -> tuple[Clip, Counts, Counts]:
        """See ``Words``. Raises EndpointUnreachable where no request is answered."""
        dropped, notes = Counts(), Counts()
        tracks = list(clip.tracks)
        if "consistency" in self.uses:
            verdicts = self.client.ask([_same(clip, t, self.side) for t in tracks])
            sound = []
            for track, verdict in zip(tracks, verdicts):
                if verdict.value is None:
                    dropped[f"vlm consistency: {verdict.reason}"] += 1
                elif not verdict.value["same"]:
                    dropped["vlm consistency: not one thing throughout"] += 1
                else:
                    sound.append(track)
            tracks = sound
        if "name" in self.uses:
            verdicts = self.client.ask([_name(clip, t, self.side) for t in tracks])
            tracks = _renamed(clip, tracks, verdicts, notes)
        by = {"names": self.client.backend.name} if "name" in self.uses else {}
        return (dataclasses.replace(clip, tracks=tuple(tracks),
                                    provenance={**clip.provenance, **by}), dropped, notes)

    def write(self, clip: Clip, drafts: Sequence[Draft]) -> tuple[list[Draft], Counts]:
        """See ``Words``. Raises EndpointUnreachable where no request is answered."""
        notes, out = Counts(), list(drafts)
        for use, request, change in (("question", _rephrase, _with_text),
                                     ("reasoning", _retell, _with_response)):
            if use not in self.uses:
                continue
            verdicts = self.client.ask([request(d) for d in out])
            for i, verdict in enumerate(verdicts):
                if verdict.value is None:
                    notes[f"vlm {use}: {verdict.reason}"] += 1
                    continue
                provenance = {**out[i].provenance, f"{use}_by": self.client.backend.name}
                out[i] = dataclasses.replace(change(out[i], verdict.value[use]),
                                             provenance=provenance)
        return out, notes


def _pictures(clip: Clip, track: Track, count: int, side: int) -> tuple[bytes, ...]:
    """Return JPEG frames with the object tinted, evenly over the time it is seen."""
    seen = np.flatnonzero(track.seen & track.masks.any((1, 2)))
    picked = seen[np.unique(np.linspace(0, len(seen) - 1, count).round().astype(int))]
    out = []
    for i in picked if len(seen) else ():
        image = overlay(clip.frames[i], track.masks[i])
        scale = min(1.0, side / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        out.append(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
                   .tobytes())
    return tuple(out)


def _same(clip: Clip, track: Track, side: int) -> Request:
    return Request(
        "consistency", "These are frames of one video, in time order. In each, one region is "
        "tinted red and outlined in red. Is it one and the same physical thing in all of them, "
        "and does the region cover that thing without much else? Reply with one JSON object and "
        'nothing else: {"same": true or false, "reason": "a short sentence"}',
        {"same": bool, "reason": str}, _pictures(clip, track, 5, side),
        {"same": True, "reason": "The same thing is covered in each of the frames."},
        max_tokens=120)


def _name(clip: Clip, track: Track, side: int) -> Request:
    return Request(
        "name", "These are frames of one video. One thing is tinted red and outlined in red; the "
        "tint is not its colour. Name the thing as a person would, in one to four words, without "
        "an article. Reply with one JSON object and nothing else: "
        '{"name": "..."}', {"name": str}, _pictures(clip, track, 3, side),
        {"name": track.name}, _name_fault, max_tokens=40)


def _name_fault(value: Mapping[str, Any]) -> str:
    name = value["name"].lower()
    if not _NAME.fullmatch(name) or len(name) > 40:
        return "name is not a short phrase"
    if name.split()[0] in ("a", "an", "the"):
        return "name has an article"
    return ""


def _renamed(clip: Clip, tracks: Sequence[Track], verdicts: Sequence[Verdict], notes: Counts
             ) -> list[Track]:
    given = []
    for verdict in verdicts:
        if verdict.value is None:
            notes[f"vlm name: {verdict.reason}"] += 1
        given.append("" if verdict.value is None else verdict.value["name"].lower())
    objects = [ObjectMask(t.masks, name, t.role) for t, name in zip(tracks, given)]
    labels = naming.labels(clip.frames, objects)
    return [dataclasses.replace(t, name=label if name else t.name)
            for t, label, name in zip(tracks, labels, given)]


def _rephrase(draft: Draft) -> Request:
    question = draft.question
    return Request(
        "question", "Put this question about a video in other words. Keep its meaning, its object "
        f"({question.track.name!r} if it is named) and every number exactly, ask about nothing "
        "else, and do not hint at an answer. Reply with one JSON object and nothing else: "
        f'{{"question": "..."}}\n\n{question.text}',
        {"question": str}, (), {"question": question.text},
        lambda value: _question_fault(value["question"], question), max_tokens=200)


def _question_fault(text: str, question: Question) -> str:
    if not text.endswith("?") or len(text) > 2 * len(question.text) + 80:
        return "question is not a question"
    if sorted(_NUMBER.findall(text)) != sorted(_NUMBER.findall(question.text)):
        return "question changes a number"
    low, before = text.lower(), question.text.lower()
    name = question.track.name.lower()
    if (name in before) != (name in low):
        return "question changes the object"
    if any(option.lower() in low and option.lower() not in before for option in question.options):
        return "question tells an option"
    if not _senses(text) <= _senses(question.text):
        return "question hints at an answer"
    return ""


def _retell(draft: Draft) -> Request:
    think = _thought(draft.response)
    question = draft.question
    return Request(
        "reasoning", "Below are a question about a video, its options, and a reasoning in which "
        f"{IMAGE_MARK} stands for an image that the reasoner calls to mind. Tell the reasoning in "
        f"other words, as one flowing paragraph. Keep every {IMAGE_MARK}, in order, each in the "
        "same sentence as the numbers read off it; keep all numbers and directions as they are; "
        f"add no others; conclude with option {question.answer}. Reply with one JSON object and "
        f'nothing else: {{"reasoning": "..."}}\n\nQuestion: {question.text}\n'
        f"{lettered(question.options)}\n\nReasoning: {think}",
        {"reasoning": str}, (), {"reasoning": think},
        lambda value: _reasoning_fault(value["reasoning"], think, question),
        max_tokens=800, marks=(IMAGE_MARK,))


def _thought(response: str) -> str:
    found = re.search(r"<think>(.*)</think>", response, re.DOTALL)
    return found[1].strip() if found else response


def _reasoning_fault(text: str, before: str, question: Question) -> str:
    if text.count(IMAGE_MARK) != len(question.frames):
        return "reasoning has another number of images"
    if not set(_NUMBER.findall(text)) <= set(_NUMBER.findall(before)):
        return "reasoning tells another number"
    if not _senses(text) <= _senses(before + " " + question.answer_text):
        return "reasoning tells another direction"
    for old, new in zip(_around_marks(before), _around_marks(text)):
        if not old <= new:
            return "reasoning parts an image from its numbers"
    letters = set(_LETTER.findall(text))
    if letters - {question.answer}:
        return "reasoning names another option"
    if not letters and question.answer_text.lower() not in text.lower():
        return "reasoning does not conclude"
    return ""


def _around_marks(text: str) -> list[set[str]]:
    """Return, for each image, the numbers of the sentence that it stands in."""
    out = []
    for sentence in re.split(r"(?<=[.!?;])\s+", text):
        for _ in range(sentence.count(IMAGE_MARK)):
            out.append(set(_NUMBER.findall(sentence)))
    return out


def _senses(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return {_SENSES[word] for word in words if word in _SENSES}


def _with_text(draft: Draft, text: str) -> Draft:
    return dataclasses.replace(draft, question=dataclasses.replace(draft.question, text=text))


def _with_response(draft: Draft, text: str) -> Draft:
    question = draft.question
    return dataclasses.replace(draft, response=reasoned(
        text, f"{question.answer}. {question.answer_text}"))
