"""Readings of answers, scores, modes and the statistics over them."""

from pathlib import Path

import numpy as np
import pytest

from fourd4d.eval import statistics
from fourd4d.eval.benchmarks import Question, grid, scoring
from fourd4d.eval.benchmarks.frames import Shown
from fourd4d.eval.benchmarks.modes import MODES, applied, mapped_answers
from fourd4d.processing.media import Image, Video

CHOICE = Question("q", "Which way?", ("Left", "Right", "Down", "Up"), ("D",))
NUMBER = Question("n", "How far?", number=4.0)


@pytest.mark.parametrize("text, strict, lenient", [
    ("D", "D", "D"), ("D.", "D", "D"), ("(D)", "D", "D"), ("Up", "D", "D"), ("D. Up", "D", "D"),
    ("D. Right", None, None),  # The letter of another text is no answer.
    ("<think>D</think><answer>B</answer>", "B", "B"), ("<answer>B", "B", "B"),
    ("<answer>Based on it</answer>", None, None), ("The camera moves", None, None),
    ("The answer is B.", None, "B"), ("", None, None)])
def test_letters(text, strict, lenient):
    assert scoring.strict(text, CHOICE) == strict
    assert scoring.lenient(text, CHOICE) == lenient
    assert scoring.score(CHOICE, strict) == float(strict == "D")


def test_ten_options_and_several_right_ones():
    many = Question("m", "Which?", tuple(f"option {n}" for n in range(10)), ("J",))
    assert scoring.strict("J", many) == "J" and scoring.strict("option 9", many) == "J"
    twice = Question("t", "Where?", ("here", "away", "away"), ("B", "C"))
    assert [scoring.score(twice, letter) for letter in "ABC"] == [0.0, 1.0, 1.0]


def test_numbers():
    assert scoring.strict("4.0", NUMBER) == 4.0 and scoring.strict("4 metres", NUMBER) is None
    assert scoring.lenient("about twenty-one metres", NUMBER) == 21.0
    assert scoring.lenient("There are 3 boxes in room 2", NUMBER) == 3.0
    assert scoring.first_number("one apple, room 2") == 1.0
    assert scoring.first_number("three hundred and twenty one") == 321.0
    assert scoring.first_word("3.5 metres", NUMBER) == 3.5
    assert scoring.first_word("about 3", NUMBER) is None


def test_mean_relative_accuracy_by_hand():
    # |3.5 - 4| / 4 = 0.125: within 1 - .50 … 1 - .85, that is 8 of 10 thresholds.
    assert scoring.mean_relative_accuracy(3.5, 4.0) == pytest.approx(0.8)
    assert scoring.mean_relative_accuracy(4.0, 4.0) == 1.0
    assert scoring.mean_relative_accuracy(2.0, 4.0) == pytest.approx(0.1)
    assert scoring.mean_relative_accuracy(1.0, 4.0) == scoring.mean_relative_accuracy(
        None, 4.0) == scoring.mean_relative_accuracy(float("nan"), 4.0) == 0.0
    assert [scoring.mean_relative_accuracy(x, 0.0) for x in (0.0, 0.1)] == [1.0, 0.0]
    assert scoring.mean_relative_accuracy(100.0, -4.0) == 0.0


@pytest.mark.parametrize("read, text, want", [
    (scoring.vlmevalkit_option, "<answer>Based on", "B"), (scoring.vlmevalkit_option, "x", None),
    (scoring.vlmevalkit_option, "<answer>Based</answer>", "B"),
    (scoring.vlmevalkit_option, "I think\n**C**", "C"),
    (scoring.vlmevalkit_option, "The answer is D", "D"),
    (scoring.first_word, "b. because", "B"), (scoring.first_word, " B", None),
    (scoring.stripped_first_word, " B", "B"), (scoring.first_token, "C, since", "C"),
    (scoring.tagged_letter, "<answer> c </answer>", "C"), (scoring.tagged_letter, "C", None),
    (scoring.sti_letter, "it is (C)", "C"), (scoring.sti_letter, "Answer: D because", "D"),
    (scoring.mmsi_letter, r"\boxed{D}", "D"), (scoring.mmsi_letter, "The answer is C. So", "C"),
    (scoring.mmsi_letter, "I say C", None)])
def test_readings_of_kits(read, text, want):
    if text == "<answer>Based on":  # Without its end the tag means nothing to the kit.
        want = None
    assert read(text, CHOICE) == want


def test_modes_change_frames_as_they_say():
    frames = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
    shown = Shown((Video(frames, np.array([0.0, 1.0, 3.0, 4.0])), Image(frames[0])), 1.0)
    assert applied("normal", shown, "k", 0) is shown
    video, image = applied("mirrored", shown, "k", 0).media
    assert np.array_equal(video.frames, frames[:, :, ::-1])
    assert np.array_equal(image.pixels, frames[0][:, ::-1])
    video, _ = applied("reversed", shown, "k", 0).media
    assert np.array_equal(video.frames, frames[::-1])
    assert video.timestamps.tolist() == [0.0, 1.0, 3.0, 4.0]
    video, _ = applied("one_frame", shown, "k", 0).media
    assert np.array_equal(video.frames, frames[2:3]) and video.timestamps.tolist() == [3.0]
    orders = {tuple(applied("shuffled", shown, f"k{n}", 0).media[0].frames[:, 0, 0, 0])
              for n in range(20)}
    assert len(orders) > 5
    again = [applied("shuffled", shown, "k", 7).media[0].frames for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize("mode, text, options, right, want", [
    ("mirrored", "Which way?", ("left", "right", "up"), "A", ("B",)),
    ("mirrored", "Which way?", ("left", "right", "up"), "C", ("C",)),
    ("mirrored", "Which way?", ("moving left", "up"), "A", None),
    ("mirrored", "Does the left car stop?", ("yes", "no"), "A", None),
    ("mirrored", "How?", ("clockwise", "counter-clockwise"), "A", ("B",)),
    ("reversed", "Which way?", ("left", "right", "not moving"), "A", ("B",)),
    ("reversed", "Which way?", ("left", "right", "not moving"), "C", ("C",)),
    ("reversed", "Which way?", ("away from the camera", "towards the camera"), "B", ("A",)),
    ("reversed", "What is it?", ("a dog", "a cat"), "A", None),
    ("reversed", "Which way?", ("first left, then right", "right"), "A", None),
    ("reversed", "How?", ("Speeding up", "Slowing down"), "A", ("B",)),
    ("blind", "Which way?", ("left", "right"), "A", ("A",))])
def test_answers_are_mapped_where_a_rule_tells(mode, text, options, right, want):
    assert mapped_answers(Question("q", text, options, (right,)), mode) == want
    assert mode in MODES
    kept = mapped_answers(Question("q", text, options, (right,), kind="k"), mode, frozenset("k"))
    assert kept == (right,)


def test_intervals_are_wider_where_questions_share_videos():
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(40), 10)
    values = (rng.random(40) < 0.5).astype(float)[videos]  # A video is all right or all wrong.
    alone = statistics.clustered(values, np.arange(400))
    assert alone == pytest.approx(statistics.wilson(values.sum(), 400), abs=2e-3)
    low, high = statistics.clustered(values, videos)
    want = statistics.wilson(values.mean() * 40, 40)
    assert (low, high) == pytest.approx(want, abs=0.02)
    assert statistics.clustered(np.ones(20), [0] * 10 + [1] * 10) == pytest.approx(
        statistics.wilson(2, 2))
    assert statistics.clustered([], []) == (0.0, 0.0)


def test_the_interval_by_video_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        share = rng.beta(2, 2, 50)
        values = (rng.random((50, 6)) < share[:, None]).astype(float).ravel()
        low, high = statistics.clustered(values, np.repeat(np.arange(50), 6))
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_mcnemar_and_power_by_hand():
    assert statistics.binomial_two_sided(1, 6) == pytest.approx(2 * 7 / 64)
    assert statistics.binomial_two_sided(3, 6) == 1.0
    a = [True] * 5 + [False] * 5
    b = [True] * 4 + [False] + [True] * 4 + [False]
    found = statistics.Agreement.of(a, b, a, b)
    assert (found.cc, found.cw, found.wc, found.ww, found.same) == (4, 1, 4, 1, 0.5)
    # 200 differences of +1, -1 and 0 with variance .25: (1.96 + 0.8416) sqrt(.25 / 200).
    gain = np.array([1.0] * 25 + [-1.0] * 25 + [0.0] * 150)
    assert statistics.detectable_difference(np.zeros(200), gain, range(200)) == pytest.approx(
        2.8016 * np.sqrt(0.25 / 199), rel=1e-3)
    assert statistics.detectable_difference([0, 0], [0, 0], "ab") is None
    assert statistics.detectable_difference([0], [1], "a") is None


def records(scores, **more):
    return {f"k{n}": {"key": f"k{n}", "score": s, "video_id": f"v{n}", "kind": "a",
                      "number": n, "answer": "B", "chosen": "AB"[int(s)], **more}
            for n, s in enumerate(scores)}


def test_runs_and_what_needs_its_video():
    runs = [records([1.0, 0.0, 1.0, 0.0]), records([1.0, 0.0, 0.0, 0.0])]
    found = grid.over_runs(runs)
    assert found["accuracy"] == 0.375 and found["accuracy_of_runs"] == [0.5, 0.25]
    assert found["same_answer"] == 0.75 and found["right_in_all"] == 1
    assert found["right_in_none"] == 2
    runs[1]["k3"] |= {"chosen": None, "truncated": True}
    runs[0]["k0"] |= {"truncated": True}
    found = grid.over_runs(runs)
    assert (found["no_answer_share"], found["truncated_share"]) == (1 / 8, 2 / 8)
    assert grid.needs_video(runs) == ["k1", "k3"]  # k2 is right in half of the runs.
    first, second = grid.hardest(runs, 2)
    assert first == {"key": "k1", "kind": "a", "video": "v1", "answer": "B", "score": 0.0,
                     "evaluations": 2, "said": {"A": 2}}
    assert second["key"] == "k3"


def test_what_could_not_be_run_is_told():
    cell, bad = grid.Cell("kit", "normal", 0, Path("out")), records([1.0, 0.0, 1.0])
    assert not grid.failures(grid.table([(cell, bad)])["rows"])
    bad["k1"] |= {"status": "failed", "reason": "media: f.jsonl:2: no such file", "chosen": None}
    assert grid.failures(grid.table([(cell, bad)])["rows"]) == [
        "kit, normal: 1 of 3 could not be run and count as wrong; the first: media: f.jsonl:2: "
        "no such file"]
