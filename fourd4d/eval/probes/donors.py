"""Whose latents are swapped in: another clip's, asked the same type of question."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from fourd4d.core.sample import LETTERS, Sample
from fourd4d.eval.items import item_seed


@dataclasses.dataclass(frozen=True)
class Asked:
    """An item that has mental images of its own.

    Attributes:
      clip: the source video; questions about one are never each other's donors.
    """

    key: str
    kind: str
    clip: str
    options: tuple[str, ...]
    answer: str

    @staticmethod
    def of(key: str, sample: Sample) -> Asked:
        return Asked(key, sample.kind, clip_of(key, sample.video_id), sample.options,
                     sample.answer)

    @property
    def answer_text(self) -> str:
        return self.options[LETTERS.index(self.answer)]


def clip_of(key: str, video_id: str) -> str:
    """What questions on one video share; the item itself where its video has no name."""
    return video_id or f"item {key}"


@dataclasses.dataclass(frozen=True)
class Donor:
    """Whose latents an item is fed, and that answer's letter among the item's options."""

    key: str
    letter: str


def choose(items: Sequence[Asked], seed: int = 0
           ) -> tuple[dict[str, Donor], dict[str, Donor]]:
    """Donors of the same answer, and donors of another answer that is among the item's options.

    A donor has the item's question type and another clip. Which of the possible ones depends on
    the item's key and the seed alone. Items without a possible donor are left out.
    """
    by_answer: dict[tuple[str, str], list[Asked]] = collections.defaultdict(list)
    for item in sorted(items, key=lambda item: item.key):
        by_answer[item.kind, item.answer_text].append(item)
    same, other = {}, {}
    for item in items:
        for found, letters in ((same, (item.answer,)),
                               (other, [l for l in LETTERS[: len(item.options)]
                                        if l != item.answer])):
            possible = [
                Donor(one.key, letter) for letter in letters
                for one in by_answer.get((item.kind, item.options[LETTERS.index(letter)]), ())
                if one.clip != item.clip]
            if possible:
                found[item.key] = possible[item_seed(item.key, seed) % len(possible)]
    return same, other
