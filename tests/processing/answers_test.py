"""Reading answers: the strict parser of rewards and scores, the lenient one, the format."""

import pytest

from fourd4d.processing.answers import (
    lenient_answer,
    parse_answer,
    strip_latents,
    tagged_answer,
    well_formed,
)

OPTIONS = ("Moving Left", "Moving Left-Up", "Static", "Moving Right")
BLOCK = "<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>"


def response(answer: str, think: str = "It moves.") -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize("answer, letter", [
    ("B", "B"), ("B.", "B"), (" B \n", "B"), ("(B)", "B"), ("B)", "B"), ("B:", "B"), ("(B).", "B"),
    ("B. Moving Left-Up", "B"), ("B: Moving Left-Up", "B"), ("B Moving Left-Up", "B"),
    ("(B) Moving Left-Up", "B"), ("B.\nMoving Left-Up", "B"), ("B. moving left-up.", "B"),
    ("(B)  MOVING  left-up", "B"), ("B. Moving Left-Up, as it rises", "B"),
    ("B. Moving Left-Up. The object rises.", "B"), ("A. Moving Left, then right", "A"),
    ("B. it goes left and up", None), ("D. Moving", None), ("D. Moving Right-Up", None),
    ("C. static.", "C"), ("C. Statics", None), ("D. moving left", None),
    ("A. Moving Left-Up", None),
    ("A. Moving Left, B. Moving Left-Up", None), ("A. Moving Left. Static", None),
    ("A. Moving Left, B.", None),
    ("Moving Left", "A"), ("Moving Left-Up", "B"), (" Static ", "C"),
    ("Based on the video it is A", None), ("A red cube", None), ("Both", None), ("b", None),
    ("E", None), ("E. Moving Left", None), ("B. Moving Left", None), ("A. Static", None),
    ("moving left", None), ("Moving", None), ("Moving Left.", None), ("", None), ("AB", None),
    ("A or B", None), ("B, C", None), ("I think B", None), ("A.B", None), ("A/B", None),
])
def test_strict(answer, letter):
    assert parse_answer(response(answer), OPTIONS) == letter


@pytest.mark.parametrize("text, letter", [
    ("<think>a</think><answer>A</answer><answer>D. Moving Right</answer>", "D"),
    ("<think><answer>A</answer></think><answer>C</answer>", "C"),
    ("<think><answer>A</answer></think>", None),
    ("<answer>A</answer>", None),
    ("<think>a</think>A", None),
    ("<think>a</think><answer>A", None),
    ("<think>a</think><answer><answer>A</answer>", "A"),
    ("<answer>A</answer><think>b</think>", None),
    (f"<think>a {BLOCK} b</think><answer>{BLOCK}C</answer>", "C"),
    ("B", None), ("", None),
])
def test_where_the_answer_stands(text, letter):
    assert parse_answer(text, OPTIONS) == letter


def test_free_text_tasks_have_no_letter():
    assert parse_answer(response("A"), ()) is None
    assert lenient_answer("A", ()) is None


@pytest.mark.parametrize("text, letter", [
    (response("B"), "B"), ("<answer>B</answer>", "B"), ("B", "B"), ("(C)", "C"), ("D.", "D"),
    ("B. Moving Left-Up, because it does.", "B"), ("The answer is C.", "C"),
    ("I would say the answer is: (D)", "D"), ("Final answer: B", "B"), ("Option C", "C"),
    ("The correct option is **A**", "A"), ("<answer>the answer is B</answer>", "B"),
    ("It is moving left-up.", "B"), ("Static", "C"), ("The object is static here.", "C"),
    ("First the answer is A, no, the answer is B", "B"),
    ("Moving Left-Up or Static", None), ("Based on the video, hard to say.", None),
    ("A red cube moves.", None), ("The answer is unclear", None), ("The answer isn't A's", None),
    ("The answer is F", None), ("", None), ("nothing", None), ("Definitely", None),
])
def test_lenient(text, letter):
    assert lenient_answer(text, OPTIONS) == letter


SHUFFLED = ("B", "A", "D", "C")


@pytest.mark.parametrize("answer, letter", [
    ("A", "A"), ("C", "C"), ("(D)", "D"), ("B.", "B"), ("A. B", "A"), ("A. A", None),
    ("A: B", "A"), ("A B", "A"),
])
def test_a_bare_letter_is_the_option_s_letter_whatever_the_texts(answer, letter):
    assert parse_answer(response(answer), SHUFFLED) == letter


def test_options_of_any_kind():
    ten = tuple(f"{n} metres" for n in range(1, 11))
    for n, letter in enumerate("ABCDEFGHIJ"):
        for said in (letter, ten[n], f"{letter}. {ten[n]}"):
            assert parse_answer(response(said), ten) == letter
    assert parse_answer(response("K"), ten) is None
    assert parse_answer(response("2"), ("1", "2")) == "B"
    twice = ("Left", "Right", "Left")
    assert [parse_answer(response(said), twice) for said in ("Left", "C. Left", "C", "Right")] == [
        None, "C", "C", "B"]
    named = {"b": "Left", "10": "Right", "x y": "Up"}
    for said, letter in [("b", "b"), ("10. Right", "10"), ("Up", "x y"), ("(x y)", "x y"),
                         ("10. Left", None), ("B", None), ("1", None)]:
        assert parse_answer(response(said), list(named.values()), list(named)) == letter


@pytest.mark.parametrize("text, good", [
    (response("B"), True), (response("B. Moving Left-Up", f"See {BLOCK} and {BLOCK}."), True),
    ("<think>a</think><answer>B</answer>", True),
    ("  <think>a</think> \n <answer>B</answer>\n", True),
    ("<think></think><answer>B</answer>", False), ("<think>a</think><answer> </answer>", False),
    (f"<think>{BLOCK}</think><answer>B</answer>", False),
    ("<think>a</think>", False), ("<answer>B</answer>", False),
    ("<think>a<answer>B</answer>", False),
    ("x<think>a</think><answer>B</answer>", False), ("<think>a</think><answer>B</answer>x", False),
    ("<think>a</think>so<answer>B</answer>", False),
    ("<think>a</think><think>b</think><answer>B</answer>", False),
    ("<think>a<think>b</think><answer>B</answer>", False),
    ("<think>a</think><answer>B</answer><answer>C</answer>", False),
    ("<think>a</think><answer><answer>B</answer>", False),
    ("<think>a <|latent_start|> b</think><answer>B</answer>", False),
    ("<think>a<|im_end|></think><answer>B</answer>", False), ("", False),
])
def test_format(text, good):
    assert well_formed(text) is good


def test_latents_are_stripped_as_whole_blocks():
    assert strip_latents(f"a{BLOCK}b{BLOCK}{BLOCK}c") == "abc"
    assert strip_latents("a<|latent_start|>b") == "a<|latent_start|>b"


@pytest.mark.parametrize(("text", "inside"), [
    ("<think>x</think><answer>B</answer>", "B"), ("no tags", None), ("<answer></answer>", ""),
    ("<answer>A</answer> no, <answer> C. Up\n</answer>.", " C. Up\n"),
    ("<answer>A <answer>B</answer>", "B"), ("<answer>A</answer> or <answer>B", "A"),
])
def test_what_stands_in_the_last_tags(text, inside):
    assert tagged_answer(text) == inside
