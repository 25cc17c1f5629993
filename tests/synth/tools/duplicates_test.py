"""Difficulty, near-duplicates, overlap."""

import dataclasses

import cv2
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.synth.tools import difficulty, duplicates, overlap


def test_only_samples_of_middling_difficulty_are_kept():
    samples = [dataclasses.replace(Sample.fake(i), id=str(i)) for i in range(5)]

    def answer(group, tries):
        right = {"0": 0, "1": 1, "2": tries, "3": tries - 1, "4": 0}
        return [[s.answer] * right[s.id] + [None] * (tries - right[s.id]) for s in group]

    kept = list(difficulty.by_difficulty(samples, answer, tries=4, batch=2))
    assert [(s.id, p) for s, p in kept] == [("1", 0.25), ("3", 0.75)]


def test_free_text_samples_have_no_difficulty():
    free = dataclasses.replace(Sample.fake(0), options=(), answer="", response="It goes left.",
                               overlays=(), overlay_timestamps=())
    assert list(difficulty.by_difficulty([free], lambda group, tries: [], tries=4)) == []


def test_a_lazy_answerer_is_told():
    with pytest.raises(InputError, match="1 tries of 4"):
        list(difficulty.by_difficulty([Sample.fake(0)], lambda g, k: [["A"] for _ in g], tries=4))


def test_hashes_survive_scaling_and_recompression_only():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 255, (2, 6, 6, 3), dtype=np.uint8)
    one, other = (cv2.resize(r, (96, 72), interpolation=cv2.INTER_CUBIC) for r in rough)
    small = cv2.resize(one, (48, 36), interpolation=cv2.INTER_AREA)
    again = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    hashes = {"a": duplicates.clip_hash(np.stack([one] * 5)),
              "b": duplicates.clip_hash(np.stack([again] * 3)),
              "c": duplicates.clip_hash(np.stack([other] * 5))}
    assert duplicates.near_duplicates(hashes) == {"b": "a"}
    assert duplicates.hash_distance(hashes["a"], hashes["c"]) > 20
    assert duplicates.near_duplicates({}) == {}


def test_a_hash_does_not_see_black_bars():
    rng = np.random.default_rng(1)
    rough = rng.integers(60, 255, (2, 6, 6, 3), dtype=np.uint8)
    one, other = (cv2.resize(r, (96, 72), interpolation=cv2.INTER_CUBIC) for r in rough)
    barred = [np.pad(picture, ((20, 20), (0, 0), (0, 0))) for picture in (one, other)]
    whole, framed = duplicates.clip_hash([one, other]), duplicates.clip_hash(barred)
    assert duplicates.hash_distance(whole, framed) <= 8
    # Frames of several sizes have no common picture, and are taken as they are.
    assert len(duplicates.clip_hash([one, barred[0]])) == 4


def test_overlap_counts_training_samples_of_benchmark_videos():
    assert overlap.overlap(["a", "b", "a", "c"], ["a", "d"]) == {"a": 2}
