"""Pairs of clips that differ in one fact: the same question and options, another answer."""

from __future__ import annotations

import collections
import itertools
from typing import Any

import numpy as np
import pytest

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.synth.dataset import build
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.simulator import clips
from fourd4d.synth.simulator.clips import outline, plan_pairs, simulate_clips
from fourd4d.synth.simulator.counterfactuals import CHANGES, changes_of
from fourd4d.synth.simulator.spec import KINDS, SceneSpec

SPEC = SceneSpec()
RECIPE = DatasetSpec(KINDS, QuestionSpec(style="short"), seed=1)
SIDES = {"Left": "Right", "Right": "Left", "CW": "CCW", "CCW": "CW"}


def swapped(words: str) -> str:
    """The words with left and right exchanged."""
    parts = [SIDES.get(part, part) for part in words.replace("-", " - ").split()]
    return " ".join(parts).replace(" - ", "-")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, list[build.ClipResult]]]:
    """Every possible pair of some scenes, without pictures."""
    found = []
    for number in range(60):
        drawn = clips._draw(SPEC, 5, number)
        for change in changes_of(drawn, tuple(CHANGES)):
            both = [outline(SPEC, 5, number), outline(SPEC, 5, number, change=change)]
            found.append((change, build.pair_of(both, change, RECIPE, number)))
    return found


def members(results: list[build.ClipResult]) -> list[Any]:
    return [one.sample for result in results for one in result.samples if one.sample.pair]


def test_members_differ_in_clip_and_answer_alone(pairs: Any) -> None:
    made = collections.Counter()
    for change, results in pairs:
        for name, both in itertools.groupby(members(results), lambda sample: sample.pair):
            first, second = both
            assert (first.question, first.options, first.kind) == (
                second.question, second.options, second.kind)
            assert first.answer != second.answer and first.video_id != second.video_id
            assert first.id == name and second.provenance["change"] == change
            assert first.response and second.response  # Both can be learnt from.
            made[change, first.kind] += 1
    assert set(made) >= {("mirror", "direction"), ("reverse", "direction"), ("path", "direction"),
                         ("mirror", "camera"), ("reverse", "camera"), ("path", "distance")}


def test_the_answers_are_those_that_the_change_implies(pairs: Any) -> None:
    """Mirrored: left and right exchanged. Backwards: the opposite, as the pools have it."""
    seen = collections.Counter()
    for change, results in pairs:
        found = members(results)
        for first, second in zip(found[::2], found[1::2], strict=True):
            was, now = first.answer_text, second.answer_text
            if change == "mirror":
                assert now == swapped(was)
            elif first.kind == "direction":
                assert now == opposite(was)
            seen[change] += 1
    assert min(seen[change] for change in CHANGES) >= 3


def opposite(words: str) -> str:
    turned = {**SIDES, "Up": "Down", "Down": "Up", "Toward": "Away", "Away": "Toward"}
    first, _, rest = words.partition(" the camera")
    parts = [turned[part] for part in first.removesuffix(" from").split("-")]
    name = "-".join(parts)
    if name in ("Toward", "Away"):
        return {"Toward": "Toward the camera", "Away": "Away from the camera"}[name]
    return name + rest


def test_what_no_change_alters_is_asked_alone(pairs: Any) -> None:
    for kind, wanted in (("direction", "Stationary"), ("distance", "same"), ("speed", "constant"),
                         ("camera", "Static"), ("box_direction", "Left")):
        drawn = next(one for number in range(400)
                     if (one := clips._draw(SPEC, 5, number)).kind == kind
                     and one.wanted == wanted)
        assert changes_of(drawn, tuple(CHANGES)) == []
    # Where the counterpart's answer is the same or not clear, the first is kept, without a pair.
    alone = [one.sample for _, results in pairs for one in results[0].samples
             if not one.sample.pair]
    assert all("change" not in sample.provenance for sample in alone)
    with pytest.raises(InputError, match=r"unknown changes \['rewind'\]"):
        changes_of(drawn, ("rewind",))


def test_one_path_is_changed_and_nothing_else() -> None:
    drawn = next(one for number in range(60)
                 if (one := clips._draw(SPEC, 5, number)).kind == "direction")
    changed = CHANGES["path"](drawn)
    np.testing.assert_array_equal(changed.scene.centers[:, 1:], drawn.scene.centers[:, 1:])
    np.testing.assert_array_equal(changed.scene.centers[::-1, 0], drawn.scene.centers[:, 0])
    np.testing.assert_array_equal(changed.scene.poses, drawn.scene.poses)
    twice = CHANGES["mirror"](CHANGES["mirror"](drawn)).scene
    for name in ("poses", "centers", "yaw", "light"):
        np.testing.assert_allclose(getattr(twice, name), getattr(drawn.scene, name), atol=1e-12)
    assert np.linalg.det(CHANGES["mirror"](drawn).scene.poses[0, :3, :3]) == pytest.approx(1)


def test_a_sequence_of_pairs_depends_on_numbers_alone(monkeypatch: Any) -> None:
    """However it is cut into batches; its first clips are those without pairs."""
    drawn = []

    def blank(scenes: Any, spec: SceneSpec) -> tuple[np.ndarray, np.ndarray]:
        drawn.append(len(scenes))
        things = len(scenes[0].names)
        return (np.zeros((len(scenes), spec.frames, 1, 1, 3), np.uint8),
                np.ones((len(scenes), spec.frames, things, 1, 1), bool))

    monkeypatch.setattr(clips, "_images", blank)
    monkeypatch.setattr(clips, "batch_size", lambda spec: 3)
    changes = ("mirror", "reverse")
    whole = list(plan_pairs(SPEC, 5, 0, 12, changes))
    again = [*plan_pairs(SPEC, 5, 0, 5, changes), *plan_pairs(SPEC, 5, 5, 7, changes)]
    plain = [clip.video_id for clip in simulate_clips(SPEC, 5, 0, 12)]
    assert [pair.video_id for pair in whole] == plain
    assert {"", "reverse"} <= {pair.change for pair in whole}
    for one, two in zip(whole, again, strict=True):
        first, second = one.render(), two.render()
        assert one.change == two.change and len(first) == 1 + bool(one.change)
        assert first[0].video_id == one.video_id
        for a, b in zip(first, second, strict=True):
            assert a.video_id == b.video_id
            np.testing.assert_array_equal(a.tracks[0].centers, b.tracks[0].centers)
        if one.change:
            assert first[1].video_id == f"{one.video_id}_{one.change}"
    assert set(drawn) == {3}


def test_clips_that_nobody_asks_for_are_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = clips._images, []
    monkeypatch.setattr(clips, "_images", lambda *given: drawn.append(1) or real(*given))
    monkeypatch.setattr(clips, "batch_size", lambda spec: 3)
    planned = list(clips.plan_clips(SPEC, 5, 0, 9))
    assert [one.video_id for one in planned] == [f"scene00000{i}" for i in range(9)] and not drawn
    (late,) = planned[7].render()
    assert late.video_id == "scene000007" and len(drawn) == 1
    planned[6].render()
    assert len(drawn) == 1  # Of the same batch.


def test_pairs_lie_in_both_layouts_and_resume(tmp_path: Any) -> None:
    def job(number: int) -> VideoJob:
        drawn = clips._draw(SPEC, 5, number)
        change = (changes_of(drawn, ("reverse",)) or [""])[0]
        made = [outline(SPEC, 5, number)]
        made += [outline(SPEC, 5, number, change=change)] if change else []
        return VideoJob(made[0].video_id, lambda: made, change)

    jobs = [job(number) for number in range(12)]
    build.build_dataset(tmp_path, jobs[:5], 5, RECIPE, config={"seed": 1})
    build.build_dataset(tmp_path, jobs, 12, RECIPE, config={"seed": 1})
    for layout in ("dift", "rl"):
        names = [s.pair for s in jsonl.read(tmp_path / f"{layout}.jsonl") if s.pair]
        counted = collections.Counter(names)
        assert len(counted) >= 3 and set(counted.values()) == {2}
