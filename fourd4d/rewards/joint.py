"""Rewards that no response earns alone: what they need is in the other responses of the step.

They are about pairs (``Sample.pair``): two prompts with the same question and options, about clips
that differ in one fact. No text alone answers both.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.processing.answers import parse_answer

Texts = Sequence[Sequence[str]]
"""Of each of P prompts, its G responses."""


def partners(samples: Sequence[Sample]) -> Int[np.ndarray, "P"]:
    """The number of each sample's counterpart.

    Raises:
      InputError: a sample has none among these, or several.
    """
    places: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        places.setdefault(sample.pair, []).append(number)
    found = np.zeros(len(samples), np.int64)
    for name, both in places.items():
        if not name or len(both) != 2:
            raise InputError(f"sample {samples[both[0]].id!r}", "its counterpart is not in this "
                             "step", "Give --config.data.pairs=True, and rows synthesized with "
                             "--config.pairs=\"('mirror','reverse')\"")
        found[both[0]], found[both[1]] = both[1], both[0]
    return found


def right(samples: Sequence[Sample], texts: Texts) -> Bool[np.ndarray, "P G"]:
    """Whether each response gives the key, read strictly."""
    return np.array([[parse_answer(text, sample.options) == sample.answer for text in responses]
                     for sample, responses in zip(samples, texts, strict=True)])


@dataclasses.dataclass(frozen=True)
class JointReward(abc.ABC):
    """One part of the total, told of a whole step: a name for logs, and a weight.

    Attributes:
      swaps: it compares with answers given while the counterpart's latents were fed.
    """

    weight: float = 1.0
    swaps: bool = dataclasses.field(default=False, init=False)

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @abc.abstractmethod
    def __call__(self, samples: Sequence[Sample], texts: Texts, swapped: Texts | None = None
                 ) -> Float[np.ndarray, "P G"]:
        """Each response's value.

        Args:
          swapped: the texts of the same draws with the latents fed that the k-th response to the
            counterpart imagined; for rewards that have ``swaps``.

        Raises:
          InputError: a sample's counterpart is not among the samples.
        """


@dataclasses.dataclass(frozen=True)
class PairReward(JointReward):
    """1 where this response and the counterpart's response of the same number are both right.

    Who answers by the words alone gives both the same answer, and gets nothing.
    """

    @property
    def name(self) -> str:
        return "pair"

    def __call__(self, samples: Sequence[Sample], texts: Texts, swapped: Texts | None = None
                 ) -> Float[np.ndarray, "P G"]:
        del swapped
        own = right(samples, texts)
        return (own & own[partners(samples)]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SwapGapReward(JointReward):
    """What the own latents are worth: right with them, less right with the counterpart's.

    1 where only the own lead to the key, 0 where either does, -1 where only the others do.
    """

    swaps: bool = dataclasses.field(default=True, init=False)

    @property
    def name(self) -> str:
        return "swap_gap"

    def __call__(self, samples: Sequence[Sample], texts: Texts, swapped: Texts | None = None
                 ) -> Float[np.ndarray, "P G"]:
        if swapped is None:
            raise ValueError("SwapGapReward: give the texts of swapped latents")
        partners(samples)  # Whose latents they were.
        return right(samples, texts).astype(np.float32) - right(samples, swapped)
