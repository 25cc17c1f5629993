"""Rewards of pairs, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample, reasoned
from fourd4d.rewards import AnswerReward, PairReward, SwapGapReward, named_rewards
from fourd4d.rewards.joint import partners


def asked(number: int, answer: str, pair: str) -> Sample:
    return dataclasses.replace(Sample.fake(number), answer=answer, provenance={"pair": pair})


def said(letters: str) -> list[str]:
    """One response a letter; a dot answers nothing."""
    return ["hm" if letter == "." else reasoned("So.", letter) for letter in letters]


# Two pairs, their members apart: 0 with 3, 1 with 2. Left, Right, Up, Down are A, B, C, D.
SAMPLES = [asked(0, "A", "x"), asked(1, "C", "y"), asked(2, "D", "y"), asked(3, "B", "x")]
TEXTS = [said("AAB."), said("CCCC"), said("DDCD"), said("BABB")]


def test_both_of_a_pair_must_be_right() -> None:
    value = PairReward()(SAMPLES, TEXTS)
    #                           A·B  A·A  B·B  .·B: only the first try has both.
    np.testing.assert_array_equal(value, [[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize("letter", "ABCD")
def test_the_words_alone_earn_nothing(letter: str) -> None:
    """Both of a pair are one text, so whoever sees the text alone says one thing to both."""
    assert not PairReward()(SAMPLES, [said(letter * 4)] * 4).any()
    assert not SwapGapReward()(SAMPLES, *[[said(letter * 4)] * 4] * 2).any()


def test_the_gap_is_what_the_own_latents_are_worth() -> None:
    swapped = [said("BAAA"), said("CCCC"), said("D...")[:4], said("AABB")]
    value = SwapGapReward()(SAMPLES, TEXTS, swapped)
    # Own less other. A-B: 1, A-A: 0, B-A: -1, nothing-A: -1. All C: 0. D-D, D-, C-, D-. Last row.
    np.testing.assert_array_equal(value, [[1, 0, -1, -1], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]])
    with pytest.raises(ValueError, match="swapped latents"):
        SwapGapReward()(SAMPLES, TEXTS)


def test_who_has_no_counterpart_is_named() -> None:
    np.testing.assert_array_equal(partners(SAMPLES), [3, 2, 1, 0])
    for samples in (SAMPLES[:3], [*SAMPLES, asked(4, "A", "x")], [Sample.fake(1), Sample.fake(2)]):
        with pytest.raises(InputError, match="counterpart is not in this step.*data.pairs=True"):
            PairReward()(samples, [said("A")] * len(samples))


def test_joint_rewards_have_names_and_weight_zero_is_none() -> None:
    found = named_rewards({"answer": 1.0, "pair": 0.5, "swap_gap": 0.0})
    assert found == (AnswerReward(1.0), PairReward(0.5))
    (gap,) = named_rewards({"swap_gap": 2.0})
    assert isinstance(gap, SwapGapReward) and gap.swaps and gap.weight == 2.0
    assert not PairReward().swaps
