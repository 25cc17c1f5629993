"""Pairs that differ in one fact: counted right, and latents that move or do not."""

import numpy as np
import pytest

from fourd4d.eval.probes.pairs import add_pairs, both_right, lines, moved, pairs_of
from fourd4d.eval.probes.recordings import ArrayStore
from fourd4d.pages import Page

AXES = np.eye(4, dtype=np.float32)
SHARED = np.float32([0, 0, 0, 1])


def records(*told):
    """(pair, correct, chosen) of each item."""
    return {f"k{i}": {"key": f"k{i}", "pair": pair, "correct": correct, "chosen": chosen}
            for i, (pair, correct, chosen) in enumerate(told)}


TOLD = records(("a", True, "A"), ("b", True, "B"), ("b", False, "B"), ("a", True, "C"),
               ("c", False, None), ("c", False, None), ("d", True, "A"), ("d", False, "C"),
               ("half", True, "A"), ("", True, "B"))


def test_pairs_are_counted_by_hand():
    assert list(pairs_of(TOLD)) == ["a", "b", "c", "d"]
    found = both_right(TOLD)
    assert found["pairs"] == 4 and found["both_right"] == 0.25 and found["one_right"] == 0.5
    assert found["same_answer"] == 0.25  # Of b; two that give none are not the same.
    assert 0 <= found["both_right_low"] <= 0.25 <= found["both_right_high"] <= 1
    assert both_right({"k": {"key": "k", "correct": True, "chosen": "A"}}) == {}
    assert lines({}) == () and "pairs" not in add_pairs(Page("x"), {}).html()


@pytest.fixture
def stores(tmp_path):
    return ArrayStore(tmp_path / "latents"), ArrayStore(tmp_path / "targets")


def save(store, name, values):
    for key, axes in values.items():
        store.save(key, **{name: np.stack([SHARED + sign * AXES[axis] for axis, sign in axes])})


# Two images of one latent each; the true second image of a pair is the opposite of the first's.
TRUE = {"k0": [(0, 1), (1, 1)], "k3": [(0, -1), (1, -1)], "k1": [(2, 1)], "k2": [(2, -1)]}


def test_latents_that_follow_the_clip_move_as_far_as_their_targets(stores):
    latents, targets = stores
    save(latents, "latents", TRUE)
    save(targets, "targets", TRUE)
    found = moved(latents, targets, TOLD, 1)
    assert found["moved_images"] == 3
    assert found["moved"] == pytest.approx(2.0, abs=1e-4)  # Opposite beyond the mean.
    assert found["targets_moved"] == pytest.approx(2.0, abs=1e-4)


def test_latents_that_ignore_the_clip_stay(stores):
    """A constant, the mean itself or another: both move by 0 while their targets move."""
    latents, targets = stores
    save(targets, "targets", TRUE)
    for constant in (SHARED, SHARED + AXES[1]):
        for key, axes in TRUE.items():
            latents.save(key, latents=np.tile(constant, (len(axes), 1)))
        found = moved(latents, targets, TOLD, 1)
        assert found["moved"] == pytest.approx(0.0, abs=1e-5) and found["targets_moved"] > 1.9


def test_a_quarter_turn_is_one(stores):
    latents, targets = stores
    save(targets, "targets", TRUE)
    save(latents, "latents", {"k0": [(0, 1)], "k3": [(1, 1)]})
    assert moved(latents, targets, TOLD, 1)["moved"] == pytest.approx(1.0, abs=1e-5)
    # Fewer images on one side: as many as both have; a broken block is none.
    save(latents, "latents", {"k0": [(0, 1), (0, 1), (0, 1)], "k3": [(0, 1), (0, 1)]})
    found = moved(latents, targets, TOLD, 2)
    assert found["moved_images"] == 1 and found["moved"] == pytest.approx(0.0, abs=1e-5)


def test_without_recordings_or_targets_less_is_told(stores):
    latents, targets = stores
    assert moved(latents, targets, TOLD, 1) == {}
    save(latents, "latents", TRUE)
    found = moved(latents, targets, TOLD, 1)
    assert found["moved"] == pytest.approx(2.0, abs=1e-4) and "targets_moved" not in found
    page = add_pairs(Page("x"), both_right(TOLD) | found).html()
    assert "4 pairs of clips that differ in one fact" in page and "latents move" in page
    assert lines(both_right(TOLD))[0].startswith("4 pairs: both right, % 25.0 [")
