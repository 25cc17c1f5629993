"""What an evaluation tells of imagery: recorded latents against true targets, by hand."""

import dataclasses

import numpy as np
import pytest
from helpers.evaluation import actor

from fourd4d.core.rollout import Rollout
from fourd4d.data.source import ListSource
from fourd4d.eval.items import Item
from fourd4d.eval.probes import truth
from fourd4d.eval.probes.diagnosis import add_diagnosis, diagnose, recorder, stores
from fourd4d.eval.probes.recordings import ArrayStore
from fourd4d.eval.runner import AskedBatch
from fourd4d.eval.spec import EvalSpec
from fourd4d.pages import Page

SUBJECT = actor(None)  # It makes images of two latents.
AXES = np.eye(4, dtype=np.float32)


def image(axis, scale=1.0):
    """Two latents along one axis, on a shared part as vision features have."""
    return scale * np.stack([AXES[axis], AXES[axis]]) + np.float32([0, 0, 0, 2])


def told(tmp_path, own, targets):
    """What ``diagnose`` finds; a clip for each item, targets as given."""
    latents, true = stores(tmp_path)
    items = [Item(i, key, "direction", 4) for i, key in enumerate(own)]
    for key, value in own.items():
        latents.save(key, latents=np.concatenate(value))
    for key, value in targets.items():
        true.save(key, targets=np.concatenate(value))
    records = {key: {"video_id": f"clip {key}"} for key in own}
    return diagnose(SUBJECT, ListSource([], tmp_path), items, EvalSpec(), latents, true, records)


def test_latents_that_are_their_targets_pass(tmp_path):
    true = {"a": [image(0), image(1)], "b": [image(2)], "c": [image(0, -1.0)]}
    found, facts = told(tmp_path, true, true)
    assert found["images"] == 4 and found["warnings"] == []
    for name in ("cosine", "centred_cosine", "norm_ratio", "retrieval_top1", "retrieval_clip"):
        assert found[name] == pytest.approx(1.0, abs=1e-5), name
    assert found["retrieval_top1_chance"] == 0.25
    # Two of the item with two images choose between two, the others have no choice.
    assert found["retrieval_clip_chance"] == 0.75
    # The mean of what they are made of: (0, 1, 1, 8) / 4; each target against it.
    middle = np.array([0.0, 0.25, 0.25, 2.0])
    each = [image(0)[0], image(1)[0], image(2)[0], image(0, -1.0)[0]]
    cosine = np.mean([x @ middle / np.linalg.norm(x) / np.linalg.norm(middle) for x in each])
    assert found["constant_cosine"] == pytest.approx(cosine, abs=0.01)
    assert facts["a"][0].startswith("cosine 1.000 (a constant 0.") and facts["a"][2] == (
        "own target nearest 2 of 2")
    assert facts["b"][2] == "own target nearest 1 of 1" and set(facts) == {"a", "b", "c"}


def test_a_constant_is_told_in_every_way(tmp_path):
    true = {key: [image(axis)] for key, axis in (("a", 0), ("b", 1), ("c", 2))}
    constant = np.tile(np.float32([1, 1, 1, 6]), (2, 1))
    found, facts = told(tmp_path, dict.fromkeys(true, [constant]), true)
    assert found["self_similarity"] == pytest.approx(1.0)
    assert found["cosine"] == pytest.approx(found["constant_cosine"], abs=1e-3)
    assert found["centred_cosine"] == pytest.approx(0.0, abs=0.05)
    assert found["retrieval_top1"] <= found["retrieval_top1_chance"] + 1e-6
    alike, near, chance = found["warnings"]
    assert "latents of different clips are alike" in alike and "A constant is as near" in near
    assert "no more often than by chance" in chance
    page = add_diagnosis(Page("An evaluation"), found).html()
    assert page.index("Look out") < page.index("What is imagined, against what should be")
    assert "different clips are alike" in page and "own target nearest among all" in page


def test_swapped_targets_are_no_hits(tmp_path):
    """As near to targets as they can be, and each nearest to another's."""
    true = {"a": [image(0)], "b": [image(1)], "c": [image(2)]}
    found, facts = told(tmp_path, {"a": true["b"], "b": true["c"], "c": true["a"]}, true)
    assert found["retrieval_top1"] == 0.0 and found["retrieval_clip"] == 1.0
    assert found["centred_cosine"] < 0 < found["cosine"]
    assert facts["a"][2] == "own target nearest 0 of 1"


def test_images_without_a_target_and_broken_blocks_are_left_out(tmp_path):
    """A response of two images and a half, whose row has one overlay; an item that has none."""
    own = {"a": [image(0), image(1), image(2)[:1]], "b": [image(1)], "silent": [image(0)[:0]]}
    found, facts = told(tmp_path, own, {"a": [image(0)], "b": [image(1)]})
    assert found["images"] == 2 and set(facts) == {"a", "b"}
    assert found["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_without_targets_likeness_among_themselves_remains(tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "record_targets", lambda subject, source, items, *rest: iter(items))
    found, facts = told(tmp_path, {"a": [image(0)], "b": [image(0)]}, {})
    assert found["images"] == 2 and facts == {} and "cosine" not in found
    assert "are alike" in found["warnings"][0]
    nothing, _ = told(tmp_path / "none", {"a": [image(0)[:0]]}, {})
    assert nothing == {"images": 0, "warnings": []}
    assert "What is imagined" not in add_diagnosis(Page("x"), nothing).html()


def test_what_was_fed_is_recorded_of_the_chosen_items_alone(tmp_path):
    store = ArrayStore(tmp_path)
    index = np.full((3, 6), -1, np.int32)
    index[0, 1:5] = [0, 1, 2, 3]
    index[2, 2:4] = [0, 1]
    rollout = dataclasses.replace(
        Rollout.fake(3, 6, 4, 2, block=2), latent_index=index,
        latents=np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2))
    observe = recorder(store, {"a", "b"})
    assert observe(["a", "b", "c"], object.__new__(AskedBatch), rollout) == [{}, {}, {}]
    np.testing.assert_array_equal(store.load("a")["latents"], rollout.latents[0])
    assert store.load("b")["latents"].shape == (0, 2)  # It imagined nothing, and that is known.
    assert "c" not in store
