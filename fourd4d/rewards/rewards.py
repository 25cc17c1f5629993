"""Answer and format rewards of a response's text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from fourd4d.core.sample import Sample
from fourd4d.processing.answers import parse_answer, well_formed


@runtime_checkable
class Reward(Protocol):
    """One part of the total: a name for logs, a weight, and a value of a whole response."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __call__(self, sample: Sample, text: str) -> float: ...


@dataclasses.dataclass(frozen=True)
class AnswerReward:
    """1 where the strictly parsed answer is the key; 0 for a wrong, malformed or absent one."""

    weight: float = 1.0

    @property
    def name(self) -> str:
        return "answer"

    def __call__(self, sample: Sample, text: str) -> float:
        letter = parse_answer(text, sample.options)
        return float(letter is not None and letter == sample.answer)


@dataclasses.dataclass(frozen=True)
class FormatReward:
    """1 where the whole response, latents stripped, is well-formed."""

    weight: float = 0.2

    @property
    def name(self) -> str:
        return "format"

    def __call__(self, sample: Sample, text: str) -> float:
        del sample
        return float(well_formed(text))


DEFAULT: tuple[Reward, ...] = (AnswerReward(), FormatReward())


def score(sample: Sample, text: str, rewards: Sequence[Reward] = DEFAULT,
          latents: Any = None) -> dict[str, float]:
    """Each part's unweighted value under its name, and their weighted sum under ``reward``.

    ``latents``: the (n, D) vectors that the response was fed, for rewards that want them.
    """
    def value(reward: Any) -> float:
        if getattr(reward, "wants_latents", False):
            return reward(sample, text, latents)
        return reward(sample, text)

    parts = {reward.name: value(reward) for reward in rewards}
    return {**parts, "reward": sum((r.weight * parts[r.name] for r in rewards), 0.0)}
