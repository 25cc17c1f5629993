"""Camera poses → move labels."""

import cv2
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.synth.camera.motion_labels import MotionLabelSpec, label_motion, rates
from fourd4d.synth.clip import MOVES, OPPOSITE_MOVE

FPS = 8
UNIT = {
    "Pan Right": (0, 1, 0, 0, 0, 0), "Tilt Up": (1, 0, 0, 0, 0, 0), "Roll CW": (0, 0, 1, 0, 0, 0),
    "Truck Right": (0, 0, 0, 1, 0, 0), "Pedestal Down": (0, 0, 0, 0, 1, 0),
    "Dolly In": (0, 0, 0, 0, 0, 1),
}
UNIT |= {OPPOSITE_MOVE[k]: tuple(-x for x in v) for k, v in UNIT.items()}
SPEED = np.array([8, 8, 8, 0.6, 0.6, 0.6])  # Degrees and metres a second.


def path(velocities):
    """Poses from rates in camera axes, one row an interval of 1 / FPS seconds."""
    poses = [np.eye(4)]
    for rate in np.asarray(velocities, float):
        step = np.eye(4)
        step[:3, :3] = cv2.Rodrigues(np.radians(rate[:3]) / FPS)[0]
        step[:3, 3] = rate[3:] / FPS
        poses.append(poses[-1] @ step)
    return np.array(poses), np.arange(len(poses)) / FPS


def moves(velocities, **kwargs):
    return [s.moves for s in label_motion(*path(velocities), **kwargs)]


@pytest.mark.parametrize("name", sorted(UNIT))
def test_each_move_has_its_name(name):
    assert moves([np.array(UNIT[name]) * SPEED] * 16) == [(name,)]


def test_every_name_of_the_treaty_is_reachable():
    assert set(UNIT) | {"Static"} == set(MOVES)


def test_a_still_camera_is_static_and_combinations_keep_both():
    assert moves(np.zeros((16, 6))) == [("Static",)]
    both = (np.array(UNIT["Pan Left"]) + np.array(UNIT["Dolly In"])) * SPEED
    assert moves([both] * 16) == [("Pan Left", "Dolly In")]


def test_spans_are_cut_where_the_motion_changes():
    pan, truck = (np.array(UNIT[n]) * SPEED for n in ("Pan Left", "Truck Right"))
    found = label_motion(*path([pan] * 16 + [np.zeros(6)] * 16 + [truck] * 16))
    assert [s.moves for s in found] == [("Pan Left",), ("Static",), ("Truck Right",)]
    assert found[0].start == 0 and found[-1].end == 6
    assert abs(found[0].end - 2) < 0.3 and abs(found[1].end - 4) < 0.3
    assert all(a.end == b.start for a, b in zip(found, found[1:]))


def test_shake_is_static_and_does_not_hide_a_move():
    rng = np.random.default_rng(0)
    t = np.arange(48)[:, None] / FPS
    shake = 12 * np.sin(2 * np.pi * (rng.uniform(1.5, 3, 3) * t + rng.random(3)))
    shake = np.concatenate([shake, 0.3 * np.sin(2 * np.pi * (2 * t + rng.random(3)))], 1)
    assert moves(shake) == [("Static",)]
    assert moves(shake + np.array(UNIT["Pan Right"]) * SPEED) == [("Pan Right",)]


def test_what_does_not_add_up_is_no_move():
    # Swings back and forth; what is left over at the end would be a pan of 3 degrees a second.
    swing = np.zeros((10, 6))
    swing[:, 1] = [20, 20, -20, -20, 20, 20, -20, -20, 20, 10]
    assert moves(swing) == [("Static",)]
    swing[:, 1] = [20, 20, 0, 0, 20, 20, 0, 0, 20, 10]
    assert moves(swing) == [("Pan Right",)]


def test_a_rate_near_its_threshold_is_not_told():
    rule = MotionLabelSpec()
    assert moves([[0, 0.8 * rule.turn, 0, 0, 0, 0]] * 16) == [()]
    assert moves([[0, 0.5 * rule.turn, 0, 0, 0, 0]] * 16) == [("Static",)]
    assert moves([[0, 1.1 * rule.turn, 0, 0, 0, 0]] * 16) == [("Pan Right",)]


def test_a_slow_creep_that_goes_on_is_not_static():
    rule = MotionLabelSpec()
    creep = [[0.25 * rule.turn, 0, 0, 0, 0, 0]]
    assert moves(creep * 16) == [("Static",)]
    assert moves(creep * 80) == [()]
    assert moves([[0, 8, 0, *creep[0][:1], 0, 0]] * 80, scene_depth=200.0) == [("Pan Right",)]


def test_scene_depth_makes_the_rule_free_of_scale():
    rate = np.array([[0, 0, 0, 0.6, 0, 0]] * 16)
    assert moves(rate, scene_depth=4.0) == moves(100 * rate, scene_depth=400.0) != [("Static",)]
    assert moves(rate, scene_depth=100.0) == [("Static",)]
    with pytest.raises(InputError, match="not positive"):
        moves(rate, scene_depth=0.0)


def test_thresholds_are_per_second_whatever_the_frame_rate():
    poses, times = path([[0, 3.0, 0, 0, 0, 0]] * 32)
    for step in (1, 2, 4):
        assert label_motion(poses[::step], times[::step])[0].moves == ("Pan Right",)


def test_rates_are_in_the_axes_of_the_earlier_camera():
    poses, times = path([[3, -2, 1, 0.1, 0.2, -0.3]] * 5)
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.array([0.3, 1.0, -2.0]))[0]
    np.testing.assert_allclose(rates(turn @ poses, times), [[3, -2, 1, 0.1, 0.2, -0.3]] * 5,
                               atol=1e-9)


@pytest.mark.parametrize("spoil, message", [
    (lambda p, t: (p[:-1], t), "shape"),
    (lambda p, t: (np.where(np.arange(len(t)) == 2, np.nan, p.T).T, t), "finite"),
    (lambda p, t: (2 * p, t), "no rotation"),
    (lambda p, t: (p, t[::-1]), "rise"),
])
def test_bad_poses_are_told(spoil, message):
    with pytest.raises(InputError, match=message):
        rates(*spoil(*path(np.zeros((4, 6)))))
