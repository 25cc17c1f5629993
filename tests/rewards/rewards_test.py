"""Rewards: strict answers, whole-response format, weights."""

import dataclasses

import pytest

from fourd4d.core.sample import Sample
from fourd4d.rewards import AnswerReward, FormatReward, score

SAMPLE = dataclasses.replace(Sample.fake(), answer="B")  # options Left, Right, Up, Down


def response(answer: str, thought: str = "It goes right.") -> str:
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "answer", "form"),
    [
        (response("B"), 1, 1),
        (response("B. Right"), 1, 1),
        (response("Right"), 1, 1),
        (response("A. Left"), 0, 1),
        (response("B. Up"), 0, 1),
        (response("B. Leftwards"), 0, 1),
        (response("B. right."), 1, 1),
        (response(""), 0, None),
        (response("Based on the motion, left"), 0, 1),
        ("B", 0, 0),
        ("", 0, 0),
        ("<think>B. Right</think>", 0, 0),
        ("<think><answer>B</answer></think>", 0, 0),
        ("<answer>B</answer>", 0, 0),
        ("noise " + response("B"), None, 0),
        (response("B") + " noise", None, 0),
        (response("A") + response("B"), 1, 0),
        (response("B", "See <|latent_start|>" + "<|latent_pad|>" * 4 + "<|latent_end|> it."), 1, 1),
        (response("B").removesuffix("</answer>"), 0, 0),
    ],
)
def test_parts(text: str, answer: float | None, form: float | None) -> None:
    parts = score(SAMPLE, text)
    if answer is not None:
        assert parts["answer"] == answer
    if form is not None:
        assert parts["format"] == form
    assert parts["reward"] == pytest.approx(parts["answer"] + 0.2 * parts["format"])


def test_weights_are_the_method_s() -> None:
    assert score(SAMPLE, response("B"))["reward"] == pytest.approx(1.2)
    assert score(SAMPLE, response("A"))["reward"] == pytest.approx(0.2)


def test_own_parts_and_weights() -> None:
    parts = score(SAMPLE, response("B"), [AnswerReward(2.0), FormatReward(0.0)])
    assert parts == {"answer": 1.0, "format": 1.0, "reward": 2.0}


def test_a_sample_without_key_is_never_right() -> None:
    free = dataclasses.replace(SAMPLE, options=(), answer="")
    assert score(free, response("B"))["answer"] == 0
