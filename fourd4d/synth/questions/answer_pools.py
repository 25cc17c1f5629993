"""Answers and the sets of four options they appear in.

A set of options must not give its answer away. So the answers and the distractors of a type are
the same pool, and sets are drawn such that, with every answer equally frequent, each option of a
set is the right one equally often; opposites still come first (they share nine sets of ten).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from fourd4d.synth.clip import OPPOSITE_MOVE


@dataclasses.dataclass(frozen=True)
class Pool:
    """Answers of one question type: opposite pairs, and at most one answer that has no opposite.

    Two kinds of set: two pairs, weight 2n - 3 for n pairs; or the single answer, a pair and one
    more, weight 1. Every answer then has the same total weight, 2n(n - 1).
    """

    pairs: tuple[tuple[str, str], ...]
    single: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        flat = tuple(itertools.chain.from_iterable(self.pairs))
        return flat + ((self.single,) if self.single else ())

    def sets(self) -> list[tuple[frozenset[str], float]]:
        """Return all sets of four with their weights."""
        count = len(self.pairs)
        out = [(frozenset(a + b), float(max(2 * count - 3, 1)))
               for a, b in itertools.combinations(self.pairs, 2)]
        if self.single:
            for pair in self.pairs:
                for other in set(self.answers) - {*pair, self.single}:
                    out.append((frozenset((self.single, *pair, other)), 1.0))
        return sorted(out, key=lambda s: sorted(s[0]))

    def options(self, answer: str, rng: np.random.Generator) -> tuple[str, ...]:
        """Draw four options that hold ``answer``, in random order."""
        sets = [(s, w) for s, w in self.sets() if answer in s]
        weights = np.array([w for _, w in sets])
        chosen = sorted(sets[rng.choice(len(sets), p=weights / weights.sum())][0])
        return tuple(chosen[i] for i in rng.permutation(4))


def combined(moves: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Draw options for several moves at once: opposites of some of them, in random order.

    Two moves give all four sign patterns. More give a pattern and its mirror, twice, so that every
    option is again as likely as the others.
    """
    flips = list(itertools.product((False, True), repeat=len(moves) - 1))
    picked = [flips[0], flips[1 + rng.integers(len(flips) - 1)]] if len(flips) > 2 else flips
    out = []
    for pattern in picked:
        for mirror in (False, True):
            flipped = [f != mirror for f in (False, *pattern)]
            out.append(" + ".join(OPPOSITE_MOVE[m] if flip else m
                                  for m, flip in zip(moves, flipped, strict=True)))
    return tuple(out[i] for i in rng.permutation(len(out)))
