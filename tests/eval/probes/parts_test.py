"""Donors, tables, statistics, content and truth of the probes, computed by hand."""

import dataclasses

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.source import Row
from fourd4d.eval.probes import content, donors, effects, report, tables, truth
from fourd4d.eval.probes.controls import judge
from fourd4d.eval.probes.donors import Asked, Donor
from fourd4d.eval.probes.recordings import ArrayStore, Recording, Recordings, join
from fourd4d.eval.probes.run import ProbeSpec

WAYS = ("Left", "Right", "Up", "Down")


def asked(key, answer, kind="direction", clip=None, options=WAYS):
    return Asked(key, kind, clip or key, options, answer)


def test_donors_have_the_type_another_clip_and_an_option_for_an_answer():
    items = [
        asked("a", "A"),
        asked("b", "A"),  # Left too.
        asked("c", "B"),  # Right.
        asked("same clip", "B", clip="a"),
        asked("other type", "B", kind="speed"),
        asked("other words", "A", options=("Toward", "Right", "Up", "Down")),
    ]
    same, other = donors.choose(items)
    assert same["a"] == Donor("b", "A") and same["b"] == Donor("a", "A")
    assert other["a"] == Donor("c", "B")
    assert other["b"].letter == "B" and other["b"].key in ("c", "same clip")
    assert "other type" not in same and "other type" not in other
    assert other["other words"].key in ("c", "same clip") and "other words" not in same
    # "Toward" is no option of a's, so it is nobody's donor but where it is asked for.
    assert all(found.key != "other words" for found in other.values())


def test_donors_letters_are_those_of_the_one_who_is_fed():
    items = [asked("a", "A"), asked("d", "C", options=("Up", "Left", "Right", "Down"))]
    _, other = donors.choose(items)
    assert other["a"] == Donor("d", "B")  # Right: C over there, B here.
    assert other["d"] == Donor("a", "B")


def test_the_choice_of_donors_depends_on_key_and_seed_alone():
    items = [asked(f"k{i}", "ABCD"[i % 4]) for i in range(40)]
    one, other = donors.choose(items), donors.choose(items[::-1])
    assert one == other and one != donors.choose(items, seed=1)
    assert len({donor.key for donor in one[1].values()}) > 10


@pytest.fixture
def material(tmp_path):
    recordings, targets = Recordings(tmp_path / "r"), ArrayStore(tmp_path / "t")
    rng = np.random.default_rng(0)
    for key in "abc":
        latents = rng.standard_normal((4, 3)).astype(np.float32)
        nothing = np.zeros((0, 3), np.float32)
        recordings.save(key, Recording(np.arange(6), np.ones(6, bool), np.arange(6) - 2, latents,
                                       nothing, nothing))
    for key in "ac":
        targets.save(key, targets=np.arange(12, dtype=np.float32).reshape(4, 3) + ord(key),
                     wrong=np.ones((4, 3), np.float32))
    real = rng.standard_normal((500, 2, 3)) @ np.diag([1, 2, 3]) + 5
    return tables.Material(recordings, targets, {"a": Donor("b", "A")}, {"a": Donor("c", "B")},
                           real, np.full(3, 7, np.float32), latent_size=2)


def test_tables_feed_what_they_say(material):
    own, made = material.own("a"), {name: arm.table(material, "a")
                                    for name, arm in tables.ARMS.items() if arm.table}
    assert not made["zero"].any() and made["zero"].shape == own.shape
    np.testing.assert_allclose(np.linalg.norm(made["noise"], axis=-1),
                               np.linalg.norm(own, axis=-1), rtol=1e-5)
    assert np.abs(made["noise"] - own).max() > 0.1
    np.testing.assert_array_equal(made["swap_same"], material.own("b"))
    np.testing.assert_array_equal(made["swap_other"], material.own("c"))
    np.testing.assert_array_equal(made["freeze"], np.stack([own[0]] * 4))
    assert (made["markers"] == 7).all()
    true = material.targets.load("a")["targets"]
    np.testing.assert_array_equal(made["oracle"], true)
    np.testing.assert_array_equal(made["oracle_time"], true[[2, 3, 0, 1]])
    np.testing.assert_array_equal(made["oracle_wrong"], np.ones((4, 3)))
    np.testing.assert_array_equal(made["donor_oracle"], material.targets.load("c")["targets"])
    for name in ("swap_same", "swap_other", "oracle", "oracle_time", "donor_oracle"):
        assert tables.ARMS[name].table(material, "b") is None


def test_matched_random_has_the_mean_and_covariance_of_real_latents(material):
    drawn = np.concatenate([tables.matched(dataclasses.replace(material, seed=i), "a")
                            .reshape(2, 2, 3) for i in range(1500)])
    for place in range(2):
        real, random = material.real[:, place], drawn[:, place]
        np.testing.assert_allclose(random.mean(0), real.mean(0), atol=0.2)
        np.testing.assert_allclose(np.cov(random.T), np.cov(real.T), atol=0.6)


def test_latents_run_out_and_begin_anew():
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(tables.tiled(x, 5), x[[0, 1, 2, 0, 1]])
    np.testing.assert_array_equal(tables.tiled(x[:0], 2), np.zeros((2, 2)))


def test_a_response_without_its_images_keeps_the_words():
    start, pad, end = 90, 91, 92
    one = Recording(np.array([1, start, pad, pad, end, 2, start, pad, pad, end, 3]),
                    np.array([1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1], bool),
                    np.array([-1, -1, 0, 1, -1, -1, -1, 2, 3, -1, -1]),
                    np.ones((4, 2), np.float32), np.zeros((2, 2)), np.zeros((2, 2)))
    bare = one.without_images(start)
    assert bare.tokens.tolist() == [1, 2, 3] and len(bare.latents) == 0
    both = join([one, bare], rows=3, tokens=12, latents=4)
    assert both.mask.sum(1).tolist() == [11, 3, 0] and both.latents[0].all()
    assert both.latent_index[1].max() == -1


def record(chosen, answer="A", clip="v", **more):
    return {"status": "answered", "chosen": chosen, "correct": chosen == answer, "answer": answer,
            "video_id": clip, **more}


def test_effects_by_hand():
    plain = {"1": record("A", clip="v", text_logp=-1.0, letter_logp=-0.5),
             "2": record("A", clip="w", text_logp=-1.0, letter_logp=None),
             "3": record("B", clip="x", text_logp=-2.0, letter_logp=-3.0),
             "4": {"status": "failed", "video_id": "y"}}
    changed = {"1": record("B", clip="v", text_logp=-3.0, letter_logp=-2.5),
               "2": record("A", clip="w", text_logp=-2.0, letter_logp=-1.0),
               "3": record("C", clip="x", text_logp=-5.0, letter_logp=-1.0),
               "4": record("B", clip="y")}
    found = effects.effect(plain, changed, {"1": Donor("2", "B"), "3": Donor("1", "B")})
    assert found["items"] == 3 and found["failed"] == 0
    assert found["accuracy_delta"] == pytest.approx(-1 / 3)
    assert found["flip_rate"] == pytest.approx(2 / 3)
    assert found["text_logp_delta"] == pytest.approx(-2.0)
    assert found["letter_logp_delta"] == pytest.approx(0.0)  # Of 1 and 3: -2 and +2.
    assert (found["follow_before"], found["follow_after"], found["follow_gain"]) == (0.5, 0.5, 0)
    changed["3"] = {**plain["3"], "status": "failed"}
    assert effects.effect(plain, changed)["failed"] == 1


def test_the_bootstrap_draws_whole_clips():
    # Two clips of one item each: means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert effects.estimate([0, 1], ["v", "w"]) == (0.5, 0.0, 1.0)
    # One clip: every draw is the clip itself.
    assert effects.estimate([0, 1], ["v", "v"]) == (0.5, 0.5, 0.5)


def arm(delta, gain, items=100, width=0.1):
    return {"items": items,
            **effects.named("accuracy_delta", (float(delta), delta - width, delta + width)),
            **effects.named("follow_gain", (float(gain), gain - width, gain + width))}


@pytest.mark.parametrize("swap, control, depends, words", [
    (arm(-0.5, 0.5), arm(-0.5, 0.6), True, "depends on the latents"),
    (arm(-0.05, 0.5), arm(-0.5, 0.6), False, "does not depend on the latents"),
    (arm(-0.5, 0.05), arm(-0.5, 0.6), False, "does not depend on the latents"),
    (arm(0.5, 0.5), arm(-0.5, 0.6), False, "does not depend on the latents"),
    (arm(-0.5, 0.5), {}, False, "positive control"),
    (arm(-0.5, 0.5), arm(-0.5, 0.0), False, "cannot be told"),
    ({"items": 0}, {}, False, "Nothing can be said"),
])
def test_the_pass_rule(swap, control, depends, words):
    arms = {"zero": arm(-0.9, 0), "swap_other": swap, "donor_oracle": control}
    found, text = effects.verdict(arms)
    assert found is depends and words in text


def images(own, targets):
    names = [f"clip{i // 2}" for i in range(len(own))]
    return content.Images(own, targets, names, names)


def test_a_constant_is_told_from_an_image():
    rng = np.random.default_rng(0)
    common = 3 * rng.standard_normal(8)
    targets = (common + rng.standard_normal((12, 2, 8))).astype(np.float32)
    right = content.likeness(images(targets, targets))
    assert right["cosine"] == pytest.approx(1, abs=1e-5) and right["retrieval_top1"] == 1
    assert right["centred_cosine"] == pytest.approx(1, abs=1e-3) and right["norm_ratio"] == 1
    assert not content.warnings(right)

    mean = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    constant = np.broadcast_to(mean.mean(0), targets.shape)
    flat = content.likeness(images(constant, targets))
    assert flat["cosine"] == pytest.approx(flat["constant_cosine"], abs=1e-6)
    assert flat["cosine"] > 0.9 and abs(flat["centred_cosine"]) < 5e-3
    assert flat["retrieval_top1"] == pytest.approx(1 / 12) == flat["retrieval_top1_chance"]
    assert flat["retrieval_clip"] == pytest.approx(1 / 2) == flat["retrieval_clip_chance"]
    told = " ".join(content.warnings(flat))
    assert "are alike" in told and "A constant is as near" in told and "by chance" in told


def test_self_similarity_is_of_different_clips():
    x = np.array([[[1.0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]])
    root = 0.5**0.5
    assert content.self_similarity(x, ["a", "a", "b", "b"]) == pytest.approx((2 * root) / 4)
    assert content.self_similarity(x, ["a"] * 4) is None


def test_linear_probes_find_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    states, clips = rng.standard_normal((120, 10)), [f"c{i // 3}" for i in range(120)]
    truth_ = states[:, :2] @ np.array([[1.0, 2], [0, 1]])
    found = content.linear_probe(states, truth_, clips)
    assert found["r2"] > 0.99 and found["r2_low"] <= found["r2"] <= found["r2_high"]
    assert content.linear_probe(states, rng.standard_normal((120, 1)), clips)["r2"] < 0.1
    # A clip's own signature must not help: each clip is on one side of a fold.
    mark = np.repeat(rng.standard_normal((40, 30)), 3, axis=0)
    label = np.repeat(rng.standard_normal((40, 1)), 3, axis=0)
    assert content.linear_probe(mark, label, clips)["r2"] < 0.2
    assert content.linear_probe(states[:10], truth_[:10], clips[:10]) is None
    assert content.linear_probe(states, np.ones((120, 1)), clips) is None


def mask_at(x, y, side=4, shape=(32, 32)):
    mask = np.zeros(shape, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def row(clip="v"):
    return Row(Sample(id="1", question="?", video_id=clip, frames=tuple("abcd"),
                      timestamps=(0.0, 0.5, 1.0, 1.5), overlays=("x", "y"),
                      overlay_timestamps=(0.0, 1.0)), "here")


def test_facts_of_masks():
    found = truth.facts([mask_at(0, 0), mask_at(8, 4)], (0.0, 0.5))
    np.testing.assert_allclose(found["place"], [[2 / 32, 2 / 32], [10 / 32, 6 / 32]])
    np.testing.assert_allclose(found["size"], [[4 / 32]] * 2)
    np.testing.assert_allclose(found["velocity"], [[0.5, 0.25]] * 2)
    assert np.isnan(truth.facts([mask_at(0, 0)], (0.0,))["velocity"]).all()


def test_the_wrong_thing_stands_where_another_does():
    masks = [mask_at(2, 2), mask_at(6, 2)]
    places = np.array([truth.centre(m) for m in masks])
    path = np.array([places[0], places[0], places[1], places[1]])
    other = np.tile([24 / 32, 20 / 32], (4, 1))
    tracks = [truth.Track("red cube", path), truth.Track("blue ball", other)]
    assert truth.name_of(tracks, row(), places) == "red cube"
    for moved in truth.wrong_masks(masks, row(), tracks):
        np.testing.assert_allclose(truth.centre(moved), [24 / 32, 20 / 32])
        assert moved.sum() == 16
    mirrored = truth.wrong_masks(masks, row(), ())
    np.testing.assert_allclose([truth.centre(m) for m in mirrored], 1 - places)
    middle = truth.wrong_masks([mask_at(14, 14)] * 2, row(), ())
    assert not (middle[0] & mask_at(14, 14)).any()


def test_controls_are_judged_by_the_weakest():
    def tasks(follow=1.0, moved=0.0, accuracy=1.0):
        still = {"accuracy_delta": 0.0}
        return {
            "positive": {"accuracy": accuracy, "arms": {
                "zero": {}, "swap_other": {"follow_after": follow},
                "oracle": {"accuracy_delta": 0.0}, "donor_oracle": {"follow_after": 1.0}}},
            "negative": {"accuracy": 1.0, "arms": {
                "zero": still, "oracle": still, "donor_oracle": still,
                "swap_other": {"accuracy_delta": moved}}}}

    assert judge(tasks())["sound"]
    assert not judge(tasks(follow=0.8))["sound"] and not judge(tasks(moved=-0.02))["sound"]
    assert not judge(tasks(accuracy=0.5))["sound"]


def test_a_broken_probe_and_a_floor_are_told_first():
    result = {"verdict": "v", "controls": {"sound": False, "positive": 0.5, "negative": 0.0},
              "arms": {"repeat": {"flip_rate": 0.1}}, "imagining_share": 0.5, "warnings": ["w"]}
    lines = report.statements(result)
    assert "BROKEN" in lines[1] and "not repeatable" in lines[2] and "50 %" in lines[3]
    assert lines[-1] == "w"


def test_unknown_arms_are_named():
    with pytest.raises(InputError, match="unknown names .'swop'."):
        ProbeSpec(arms=("zero", "swop"))
    assert ProbeSpec(arms=("swap_other", "zero")).chosen == ["zero", "swap_other"]
    assert ProbeSpec().chosen == list(tables.ARMS)
