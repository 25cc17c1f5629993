"""Rewards by name, and a user's own."""

import sys
import types

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.rewards import AnswerReward, FormatReward, named_rewards, score


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own_rewards")
    module.short = lambda sample, text: 1.0 / len(text)
    module.still = lambda sample, text, latents: float(np.ptp(latents))
    module.broken = lambda sample, text: text.nothing
    module.endless = lambda sample, text: float("inf")
    module.answer = module.short
    module.number = 3
    monkeypatch.setitem(sys.modules, "own_rewards", module)


def test_names_and_functions_add_up(own):
    rewards = named_rewards({"answer": 1.0, "format": 0.2},
                            ["own_rewards:short", "own_rewards:still=-0.5"])
    assert rewards[:2] == (AnswerReward(1.0), FormatReward(0.2))
    got = score(Sample.fake(), "abcd", rewards, np.array([[1.0, 3.0]]))
    assert got == {"answer": 0.0, "format": 0.0, "short": 0.25, "still": 2.0, "reward": -0.75}
    assert named_rewards({"answer": 2.0}) == (AnswerReward(2.0),)


@pytest.mark.parametrize(("function", "what"), [
    ("own_rewards", "no module and name"), ("nowhere_at_all:f", "nowhere_at_all"),
    ("own_rewards:absent", "absent"), ("own_rewards:number", "not a function"),
    ("own_rewards:short=x", "not a number"), ("own_rewards:answer", "taken"),
])
def test_what_cannot_be_had_is_named(own, function, what):
    with pytest.raises(InputError, match=what):
        named_rewards({"answer": 1.0}, [function])


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="speed"):
        named_rewards({"speed": 1.0})


@pytest.mark.parametrize(("name", "what"), [("broken", "failed on sample"), ("endless", "inf")])
def test_a_function_that_fails_names_the_sample(own, name, what):
    (reward,) = named_rewards({}, [f"own_rewards:{name}"])
    with pytest.raises(InputError, match=what):
        reward(Sample.fake(), "text")
