"""Difficulty, near-duplicates, overlap."""

import dataclasses

import cv2
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.synth.tools import difficulty, duplicates, overlap


def test_a_difficulty_is_the_share_of_right_tries():
    samples = [dataclasses.replace(Sample.fake(i), id=str(i)) for i in range(5)]

    def answer(group, tries):
        right = {"0": 0, "1": 1, "2": tries, "3": tries - 1, "4": 0}
        return [[s.answer] * right[s.id] + [None] * (tries - right[s.id]) for s in group]

    shares = {s.id: p for s, p in difficulty.difficulties(samples, answer, tries=4, batch=2)}
    assert shares == {"0": 0, "1": 0.25, "2": 1, "3": 0.75, "4": 0}


def test_free_text_samples_have_no_difficulty():
    free = dataclasses.replace(Sample.fake(0), options=(), answer="", response="It goes left.",
                               overlays=(), overlay_timestamps=())
    assert list(difficulty.difficulties([free], lambda group, tries: [], tries=4)) == []


def test_a_lazy_answerer_is_told():
    with pytest.raises(InputError, match="1 tries of 4"):
        list(difficulty.difficulties([Sample.fake(0)], lambda g, k: [["A"] for _ in g], tries=4))


def test_hashes_survive_scaling_and_recompression_only():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 255, (2, 6, 6, 3), dtype=np.uint8)
    one, other = (cv2.resize(r, (96, 72), interpolation=cv2.INTER_CUBIC) for r in rough)
    small = cv2.resize(one, (48, 36), interpolation=cv2.INTER_AREA)
    again = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    hashes = {"a": duplicates.ClipPrint.of(np.stack([one] * 5)),
              "b": duplicates.ClipPrint.of(np.stack([again] * 3)),
              "c": duplicates.ClipPrint.of(np.stack([other] * 5))}
    assert duplicates.near_duplicates(hashes) == {"b": "a"}
    assert duplicates.hash_distance(hashes["a"], hashes["c"]) > 20
    assert duplicates.near_duplicates({}) == {}


def test_a_hash_does_not_see_black_bars():
    rng = np.random.default_rng(1)
    rough = rng.integers(60, 255, (2, 6, 6, 3), dtype=np.uint8)
    one, other = (cv2.resize(r, (96, 72), interpolation=cv2.INTER_CUBIC) for r in rough)
    barred = [np.pad(picture, ((20, 20), (0, 0), (0, 0))) for picture in (one, other)]
    whole, framed = duplicates.ClipPrint.of([one, other]), duplicates.ClipPrint.of(barred)
    assert duplicates.hash_distance(whole, framed) <= 8
    # Frames of several sizes have no common picture, and are taken as they are.
    assert len(duplicates.ClipPrint.of([one, barred[0]]).hashes) == 4


def test_overlap_counts_training_samples_of_benchmark_videos():
    assert overlap.overlap(["a", "b", "a", "c"], ["a", "d"]) == {"a": 2}


def yard(seed, draw):
    """Four frames of one ground, with what ``draw`` puts into each."""
    rough = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    ground = cv2.resize(rough, (320, 240), interpolation=cv2.INTER_CUBIC)
    frames = [ground.copy() for _ in range(4)]
    for number, frame in enumerate(frames):
        draw(frame, number)
    return np.stack(frames)


def block(x, step, colour, y=100, size=30):
    return lambda f, n: cv2.rectangle(f, (x + step * n, y), (x + step * n + size, y + size), colour,
                                      -1)


def beside(*things):
    def draw(frame, number):
        for thing in things:
            thing(frame, number)
    return draw


def slide(text):
    def draw(frame, number):
        frame[:] = 255
        cv2.putText(frame, text, (20 + 8 * number, 120), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 0, 0), 2)
    return draw


def night(x, y):
    def draw(frame, number):
        frame[:] = 0
        block(x, 9, (70, 70, 70), y, 9)(frame, number)
    return draw


DIFFERENT = {
    "left": yard(1, block(270, -60, (230, 0, 0))), "right": yard(1, block(20, 60, (0, 0, 230))),
    "lower": yard(1, block(20, 60, (0, 0, 230), 190)), "empty": yard(1, lambda f, n: None),
    "lesson": yard(1, slide("Lesson one")), "homework": yard(1, slide("Homework 7")),
    "physics": yard(1, slide("Physics")), "night1": yard(1, night(20, 30)),
    "night2": yard(1, night(200, 180)), "night3": yard(1, night(20, 180)),
    "elsewhere": yard(2, block(20, 60, (0, 0, 230))),
    "red": yard(1, block(20, 60, (230, 0, 0))), "green": yard(1, block(20, 60, (0, 118, 0))),
    "orange": yard(1, block(20, 60, (230, 120, 0))), "white": yard(1, block(20, 60, (240,) * 3)),
    "small": yard(1, block(30, 60, (230, 0, 0), 40, 8)),
    "small_blue": yard(1, block(30, 60, (0, 0, 230), 40, 8)),
    "small_lower": yard(1, block(250, -50, (230, 0, 0), 170, 8)),
    "tiny": yard(1, block(40, 60, (255, 255, 255), 200, 5)),
    "bus": yard(1, beside(block(60, 40, (20, 20, 20), 20, 50))),
    "bus_and_red": yard(1, beside(block(60, 40, (20, 20, 20), 20, 50),
                                  block(250, -60, (230, 0, 0), 180, 15))),
    "bus_and_blue": yard(1, beside(block(60, 40, (20, 20, 20), 20, 50),
                                   block(250, -60, (0, 0, 230), 180, 15))),
}


def test_one_camera_slides_nights_colours_and_small_things_are_told_apart():
    prints = {name: duplicates.ClipPrint.of(frames) for name, frames in DIFFERENT.items()}
    assert duplicates.near_duplicates(prints) == {}
    assert duplicates.alike({"left": prints["left"]}, {"right": prints["right"]}) == {}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_copy_is_found_whatever_was_done_to_it(name):
    frames = DIFFERENT[name]
    half = np.stack([cv2.resize(f, (160, 120), interpolation=cv2.INTER_AREA) for f in frames])
    brighter = np.clip(frames * 1.2 + 10, 0, 255).astype(np.uint8)
    again = np.stack([cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
                      for f in frames])
    own = duplicates.ClipPrint.of(frames)
    grey = np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                     for f in frames])
    for copy in (half, brighter, again, grey, frames[:, 2:-2, 3:-3]):
        assert own.same(duplicates.ClipPrint.of(copy))
