"""The simulator: exact labels, visible things, one sequence however it is cut."""

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.synth.camera import motion_labels
from fourd4d.synth.questions import geometry
from fourd4d.synth.simulator import clips, render
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.sample_scene import sample_scene, wanted_pool
from fourd4d.synth.simulator.scene import project, rotation, to_camera
from fourd4d.synth.simulator.spec import KINDS, SceneSpec

SPEC = SceneSpec()


@pytest.fixture(scope="module")
def some():
    return list(simulate_clips(SPEC, seed=3, start=0, count=48))


def test_a_clip_depends_on_seed_and_number_only(some):
    again = list(simulate_clips(SPEC, seed=3, start=5, count=3))
    for one, two in zip(some[5:8], again, strict=True):
        assert one.video_id == two.video_id and one.provenance == two.provenance
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.tracks[0].masks, two.tracks[0].masks)
    other = next(simulate_clips(SPEC, seed=4, start=5, count=1))
    assert (other.frames != some[5].frames).any()


def test_masks_lie_where_the_geometry_says(some):
    compared = 0
    for clip in some:
        assert clip.poses is not None
        start = clip.poses[0]
        for track in clip.tracks:
            world = track.centers @ start[:3, :3].T + start[:3, 3]
            expected = project(to_camera(clip.poses, world), SPEC.focal)
            inside = track.seen & (np.abs(expected - 0.5) < 0.3).all(1)
            gap = np.abs(geometry.box_center(track) - expected)[inside]
            assert gap.max(initial=0) < 0.06, track.name
            compared += len(gap)
    assert compared > 100


def test_what_is_asked_about_is_seen_and_big_enough(some):
    for clip in some:
        track = clip.landmark if clip.provenance["kind"] == "camera" else clip.dynamic
        assert track is not None and track.seen.all()
        width, height = (track.boxes[:, 2:] - track.boxes[:, :2]).T * SPEC.width
        assert min(width.min(), height.min()) >= 5 and np.sqrt(width * height).min() >= 7


def test_camera_labels_agree_with_the_rule_for_poses(some):
    """The simulator names its moves; the rule that serves real videos finds the same."""
    compared = 0
    for clip in some:
        if clip.provenance["kind"] != "camera":
            continue
        found = motion_labels.label_motion(clip.poses, clip.timestamps)
        assert [s.moves for s in found] == [s.moves for s in clip.camera]
        compared += 1
    assert compared >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_can_be_drawn(kind):
    rng = np.random.default_rng(0)
    for wanted in wanted_pool(kind):
        drawn = sample_scene(rng, SPEC, kind, wanted)
        assert drawn.wanted == wanted and (drawn.scene.half[1] > 0).all()
        if kind == "camera":
            assert drawn.moves == ((wanted,),)


def test_things_differ_in_colour(some):
    for clip in some:
        colours = [track.name.split()[0] for track in clip.tracks]
        assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(("angles", "axis", "sign"), [
    ((0.3, 0.0, 0.0), 0, 1), ((0.0, 0.3, 0.0), 1, -1),
])
def test_pan_right_and_tilt_up_turn_the_view_right_and_up(angles, axis, sign):
    forward = rotation(*angles) @ np.array([0, 0, 1.0])
    assert forward[axis] * sign > 0.2
    np.testing.assert_allclose(rotation(*angles) @ rotation(*angles).T, np.eye(3), atol=1e-12)


def test_roll_clockwise_turns_the_right_side_down():
    assert (rotation(0.0, 0.0, 0.3) @ np.array([1.0, 0, 0]))[1] > 0.2


def test_impossible_specs_are_refused():
    with pytest.raises(InputError, match="kinds"):
        SceneSpec(kinds=("camera", "flight"), weights=(1.0, 1.0))
    with pytest.raises(InputError, match="frames"):
        SceneSpec(frames=2)
    with pytest.raises(InputError, match="movers=2, things=3"):
        SceneSpec(kinds=("vacated",), weights=(1.0,))


def test_frames_drawn_together_and_one_by_one_are_the_same(monkeypatch):
    """Of plain scenes: a CPU's compiler crashes on whole rich clips, which it never gets."""
    scenes = [clips.scene(SPEC, 5, number) for number in range(3)]
    drawn = []
    for rays in (0, 1 << 20):
        monkeypatch.setattr(render, "load", lambda rays=rays: render.Load(rays, 0, 8))
        drawn.append(render.render(scenes, 48, 64, 1))
    for one, two in zip(*drawn, strict=True):
        assert np.mean(~np.isclose(one, two, rtol=1e-3, atol=1)) < 1e-3
