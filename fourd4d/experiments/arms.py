"""The arms of the imagery experiment: what stands where a mental image would stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.source import JsonlSource
from fourd4d.experiments import rows
from fourd4d.processing.media import read_image


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
      name: argument of the recipe's config file too.
      about: what it is for.
      imagines: whether it has mental images, in training and in decoding.
      told: whether the places are always in words.
      paused: whether dots stand in place of the images.
      sees: whether it is shown the video.
    """

    name: str
    about: str
    imagines: bool = False
    told: bool = False
    paused: bool = False
    sees: bool = True

    def row(self, sample: Sample, aloud: bool, pause: str) -> Sample:
        """The arm's row of a sample; ``pause`` is what stands for an image where it pauses.

        Raises:
          InputError: the sample is not of the style ``short``.
        """
        if self.imagines:
            return rows.imagined(sample, aloud)
        made = rows.unimagined(sample, pause if self.paused else "", aloud or self.told)
        return made if self.sees else rows.blinded(made)


ARMS: Final = {arm.name: arm for arm in (
    Arm("imagery", "mental images under the recipe", imagines=True),
    Arm("published", "mental images under the published losses", imagines=True),
    Arm("markers", "blocks that hold one trained vector: form without content", imagines=True),
    Arm("text", "nothing in place of the images"),
    Arm("described", "place and size in words in place of the images", told=True),
    Arm("pause", "dots in place of the images, as many tokens", paused=True),
    Arm("blind", "as text, with grey frames: what the questions give away", sees=False),
)}
BASELINE: Final = "text"


def chosen(names: Sequence[str]) -> list[Arm]:
    """The arms of these names. Raises InputError on unknown, repeated or no names."""
    if not names or len(set(names)) < len(names) or not set(names) <= set(ARMS):
        raise InputError("config.arms", f"bad value {tuple(names)}",
                         f"Give some of {tuple(ARMS)}, each once")
    return [ARMS[name] for name in names]


def write_rows(arm: Arm, source: JsonlSource, path: Path, aloud: bool, pause: str) -> Path:
    """Write an arm's rows of a data set; see ``Arm.row``. Returns the root of their paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not arm.sees:
        first = source[0].sample
        frame = read_image(jsonl.inside(source.root, first.frames[0], path)).pixels
        rows.write_blank(path.parent, (frame.shape[0], frame.shape[1]))

    def made() -> Iterator[dict]:
        for index in range(len(source)):
            yield jsonl.dift_row(arm.row(source[index].sample, aloud, pause))

    jsonl.write(path, made())
    return source.root if arm.sees else path.parent


def write_lesson(arms: Sequence[Arm], source: JsonlSource, path: Path, aloud: bool,
                 pause: str) -> int:
    """Write every row of a data set once for each arm, one after the other; returns their number.

    Their ids end in the arm's name. Paths keep the data set's root.

    Raises:
      InputError: an arm that is not shown the video; a sample that is not of the style ``short``.
    """
    for arm in arms:
        if not arm.sees:
            raise InputError("config.arms", f"{arm.name!r} shows grey frames, not the data's",
                             "Leave it out")

    def made() -> Iterator[dict]:
        for index in range(len(source)):
            sample = source[index].sample
            for arm in arms:
                row = arm.row(sample, aloud, pause)
                yield jsonl.dift_row(dataclasses.replace(row, id=f"{sample.id}_{arm.name}"))

    path.parent.mkdir(parents=True, exist_ok=True)
    return jsonl.write(path, made())
