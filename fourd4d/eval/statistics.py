"""Statistics of an evaluation, from sums: tallies add over shards, hosts and question types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts over items; ``a + b`` is the tally of both.

    Attributes:
      items: all items of the benchmark, those that could not be run included.
      strict, lenient: right answers under strict and under lenient parsing; of numbers, the sums of
        their scores.
      answered: items with an answer under strict parsing.
      well_formed: responses of the taught form.
      truncated: responses that the token budget ended.
      failed: items that could not be run; they count as wrong.
      blocks, tokens: mental images and tokens of all responses.
      chance: sum over items of 1 / number of options.
    """

    items: int = 0
    strict: float | int = 0
    lenient: float | int = 0
    answered: int = 0
    well_formed: int = 0
    truncated: int = 0
    failed: int = 0
    blocks: int = 0
    tokens: int = 0
    chance: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(dataclasses.astuple(self),
                                             dataclasses.astuple(other), strict=True)))

    @staticmethod
    def of(record: Mapping[str, Any]) -> Tally:
        """One item's record, as in the log."""
        return Tally(
            items=1, strict=record.get("score", int(record["correct"])),
            lenient=record.get("lenient_score", int(record["lenient_correct"])),
            answered=int(record["chosen"] is not None), well_formed=int(record["well_formed"]),
            truncated=int(record["truncated"]), failed=int(record["status"] == "failed"),
            blocks=record["blocks"], tokens=record["tokens"],
            chance=1.0 / record["options"] if record["options"] else 0.0,
        )

    def summary(self) -> dict[str, float | int]:
        """Shares and their 95 % intervals by name. All zero without items.

        Accuracies divide by all items; truncation and per-answer means by the items that were run.
        """
        run = max(self.items - self.failed, 1)
        chance = self.chance / max(self.items, 1)
        accuracy = self.strict / max(self.items, 1)
        low, high = wilson(self.strict, self.items)
        lenient_low, lenient_high = wilson(self.lenient, self.items)
        return {
            "items": self.items,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "lenient_accuracy": self.lenient / max(self.items, 1),
            "lenient_accuracy_low": lenient_low,
            "lenient_accuracy_high": lenient_high,
            "chance": chance,
            "chance_adjusted": chance_adjusted(accuracy, chance),
            "chance_adjusted_low": chance_adjusted(low, chance),
            "chance_adjusted_high": chance_adjusted(high, chance),
            "answered_share": self.answered / max(self.items, 1),
            "well_formed_share": self.well_formed / run,
            "truncated_share": self.truncated / run,
            "failed": self.failed,
            "blocks_per_answer": self.blocks / run,
            "tokens_per_answer": self.tokens / run,
        }


def tally(records: Iterable[Mapping[str, Any]]) -> Tally:
    """Of all records."""
    return sum(map(Tally.of, records), Tally())


def tally_by_type(records: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Per question type, in alphabetical order."""
    found: dict[str, Tally] = {}
    for record in records:
        kind = record["kind"]
        found[kind] = found.get(kind, Tally()) + Tally.of(record)
    return dict(sorted(found.items()))


def wilson(right: float | int, items: float | int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 0) without items.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927).
    """
    if not items:
        return 0.0, 0.0
    p, zz = right / items, z * z / items
    centre = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / items + zz / (4 * items))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered(values: Sequence[float | int] | np.ndarray, groups: Sequence[object] | np.ndarray,
              z: float = Z95) -> tuple[float, float]:
    """Interval of a mean share whose items come in groups (questions on one video).

    Wilson's, for as many independent items as would give the variance between groups: the number
    of items over the design effect. Where all values are equal that effect is the items of a group.
    (0, 0) without items.

    Source: L. Kish, "Survey sampling" (1965); variance of a ratio over groups, G / (G - 1).
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return 0.0, 0.0
    mean, size = float(x.mean()), len(x)
    return wilson(mean * size / design_effect(x, groups), size / design_effect(x, groups), z)


def design_effect(values: Sequence[float | int] | np.ndarray,
                  groups: Sequence[object] | np.ndarray) -> float:
    """How many times the variance of independent items the groups' variance is; at least 1 item
    of each group is left."""
    x = np.asarray(values, np.float64)
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    place = np.array([number[name] for name in groups], int)
    counts = np.bincount(place).astype(np.float64)
    largest = len(x) / max(len(counts), 1)
    alone = float(x.mean() * (1 - x.mean()))
    if len(counts) < 2 or alone <= 0:
        return max(largest, 1.0)
    sums = np.bincount(place, x - x.mean())
    between = float((sums**2).sum()) * len(counts) / (len(counts) - 1) / len(x) ** 2
    return max(between / (alone / len(x)), 1e-3)


def detectable_difference(a: Sequence[Any] | np.ndarray, b: Sequence[Any] | np.ndarray,
                          groups: Sequence[object] | np.ndarray, power: float = 0.8
                          ) -> float | None:
    """The smallest true difference that a paired comparison of these items would likely show.

    With a two-sided test at 5 %, from the variance of the differences between groups; None where
    they do not vary, which tells nothing.

    Args:
      power: how likely; 0.5 … 0.99.
    """
    gain = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    place = np.array([number[name] for name in groups], int)
    sums = np.bincount(place, gain - gain.mean())
    count = len(sums)
    variance = float((sums**2).sum()) * count / max(count - 1, 1) / len(gain) ** 2
    return (Z95 + NormalDist().inv_cdf(power)) * math.sqrt(variance) if variance > 1e-12 else None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two runs' answers to the same items go together.

    Attributes:
      cc, cw, wc, ww: items right in both, in the first alone, in the second alone, in neither.
      same: share of items with the same answer, or none in both.
      p_value: of McNemar's exact test on ``cw`` and ``wc``, items taken as independent.
    """

    cc: int
    cw: int
    wc: int
    ww: int
    same: float
    p_value: float

    @staticmethod
    def of(a: Sequence[bool], b: Sequence[bool], chosen_a: Sequence[object],
           chosen_b: Sequence[object]) -> Agreement:
        pairs = list(zip(a, b, strict=True))
        cc, cw, wc, ww = (pairs.count(kind) for kind in
                          ((True, True), (True, False), (False, True), (False, False)))
        same = sum(x == y for x, y in zip(chosen_a, chosen_b, strict=True)) / max(len(pairs), 1)
        return Agreement(cc, cw, wc, ww, same, binomial_two_sided(min(cw, wc), cw + wc))


def binomial_two_sided(low: int, count: int) -> float:
    """Probability that a fair coin, thrown ``count`` times, is at least as uneven as ``low``."""
    tail = sum(math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
                        - count * math.log(2)) for k in range(low + 1))
    return min(1.0, 2 * tail)


def chance_adjusted(accuracy: float, chance: float) -> float:
    """0 at chance, 1 when all is right, negative below chance."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean of paired differences ``b - a`` and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    a: Sequence[Any] | np.ndarray,
    b: Sequence[Any] | np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """What ``b`` gains over ``a`` on the same items.

    Args:
      a, b: one value per item in the same order, e.g. 1 for right.
      groups: resample these as wholes (questions on one video are not independent); by default
        every item on its own.

    Raises:
      ValueError: no items, or lengths differ.
    """
    gain = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    if gain.ndim != 1 or not len(gain) or len(np.asarray(a)) != len(np.asarray(b)):
        raise ValueError("paired_bootstrap: a and b need one value for each of the same items")
    names = list(range(len(gain))) if groups is None else list(groups)
    if len(names) != len(gain):
        raise ValueError("paired_bootstrap: one group per item")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    place = np.array([number[name] for name in names])
    sums = np.bincount(place, gain)
    sizes = np.bincount(place).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(gain.mean()), float(low), float(high))
