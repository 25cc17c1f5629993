"""Moving objects from evidence: edges that belong together, growth, what is far away."""

import dataclasses

import cv2
import numpy as np
import pytest

from fourd4d.synth.camera.bundle_adjustment import Solution
from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.point_tracks import PointTracks
from fourd4d.synth.objects import color_regions, mask_motion, motion_evidence, motion_segmentation

COUNT, HEIGHT, WIDTH = 12, 96, 128
TIMES = np.arange(COUNT) / 5


def camera(centre=None):
    """A camera that keeps its direction, and its place too unless told where it is."""
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    if centre is not None:
        poses[:, :3, 3] = centre
    none = PointTracks(np.zeros((0, COUNT, 2), np.float32), np.zeros(0, int))
    fit = Solution(poses[:, :3, :3], poses[:, :3, 3], np.zeros(0), 120.0, np.zeros(0), 0.0)
    return CameraMotion(poses, np.ones(COUNT), "still" if centre is None else "moving", 120.0,
                        none, np.zeros(0, bool), np.zeros(0), np.zeros((0, COUNT)), 1.0, fit,
                        (HEIGHT, WIDTH))


def texture(seed, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(60, 200, (height // 3 + 2, width // 3 + 2)).astype(np.float32)
    grey = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, -1)


def crossing(inside):
    """A square that goes to the right, its evidence at two opposite edges only, and its masks."""
    scene = texture(0)
    frames = np.repeat(scene[None], COUNT, 0)
    evidence, masks = (np.zeros((COUNT, HEIGHT, WIDTH), d) for d in (np.float32, bool))
    for m in range(COUNT):
        x = 10 + 6 * m
        masks[m, 30:60, x : x + 30] = True
        if inside is not None:
            frames[m][masks[m]] = inside
        else:  # Two posts with the scene between them.
            frames[m, 30:60, x : x + 5] = frames[m, 30:60, x + 25 : x + 30] = (200, 30, 30)
        evidence[m, 30:60, x : x + 5] = evidence[m, 30:60, x + 25 : x + 30] = 3.0
    return frames, evidence, np.repeat(scene[None], COUNT, 0), masks


def find(frames, evidence, background, shift=None):
    flow = mask_motion.backward_flow(np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY)
                                               for f in frames]))
    return motion_segmentation.find_moving(
        frames, TIMES, np.arange(COUNT), evidence, background=background, flow=flow,
        motion=camera(shift))


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_edges_with_the_same_colours_between_them_are_one_thing():
    frames, evidence, usual, masks = crossing(inside=(200, 30, 30))
    found = find(frames, evidence, usual)
    assert len(found) == 1 and overlap(found[0].masks, masks) > 0.9


def test_edges_with_the_scene_between_them_are_two_things():
    frames, evidence, usual, _ = crossing(inside=None)
    found = find(frames, evidence, usual)
    assert len(found) == 2
    assert all(thing.masks.any(1).sum(1).max() <= 8 for thing in found)  # Columns of each.


def test_a_thing_is_followed_by_its_looks_while_it_shows_no_motion():
    frames, evidence, usual, masks = crossing(inside=(200, 30, 30))
    evidence[:3], evidence[9:] = 0, 0
    found = find(frames, evidence, usual)
    assert len(found) == 1 and found[0].found.all() and overlap(found[0].masks, masks) > 0.9


@pytest.mark.parametrize("grows", [True, False])
def test_growth_is_told_by_masks_where_evidence_hides_it(grows):
    # Evidence also shows where the thing is at other times: its region grows too little, or where
    # a thing does not.
    scene = texture(1)
    frames = np.repeat(scene[None], COUNT, 0)
    evidence = np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    for m in range(COUNT):
        half = 14 + m if grows else 20
        reach = max(half, 21) if grows else 21 + m // 2
        evidence[m, 48 - reach : 48 + reach, 64 - reach : 64 + reach] = 3.0
        frames[m, 48 - half : 48 + half, 64 - half : 64 + half] = (40, 60, 210)
    found = find(frames, evidence, np.repeat(scene[None], COUNT, 0))
    assert len(found) == (1 if grows else 0)


def test_what_is_far_away_is_static_under_a_camera_that_travels():
    # Nothing near it tells how far the wall is; it rests while the camera goes sideways.
    frames = np.repeat(texture(2)[None], COUNT, 0)
    way = np.zeros((COUNT, 3))
    way[:, 0] = 0.05 * np.arange(COUNT)
    evidence, _ = motion_evidence.motion_evidence(frames, TIMES, np.arange(COUNT), camera(way))
    assert evidence.max() < 1


def test_a_sweep_finds_any_depth_and_no_depth_for_what_moves():
    near, far = texture(3, width=4 * WIDTH), texture(4, width=4 * WIDTH)
    frames, times = [], np.arange(COUNT) / 5
    for m in range(COUNT):
        frame = far[:, 6 * m : 6 * m + WIDTH].copy()  # At depth 1: 120 * 0.05 pixels a frame.
        frame[60:] = near[60:, 9 * m : 9 * m + WIDTH]  # At 1 / 1.5.
        frame[20:50, 20 + 4 * m : 40 + 4 * m] = (210, 40, 40)  # Against the scene's way.
        frames.append(frame)
    way = np.zeros((COUNT, 3))
    way[:, 0] = 0.05 * np.arange(COUNT)
    evidence, _ = motion_evidence.motion_evidence(np.stack(frames), times, np.arange(COUNT),
                                                  camera(way))
    inside, outside = evidence[5, 20:50, 40:60], evidence[5, 64:, 30:100]
    assert np.mean(inside > 1) > 0.5 and np.mean(outside > 1) < 0.02


@pytest.mark.parametrize("strength, told", [(3.0, True), (1.7, False)])
def test_what_shows_plainly_all_the_time_may_go_less_far(strength, told):
    scene = texture(2)
    frames = np.repeat(scene[None], COUNT, 0)
    evidence = np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    for m in range(COUNT):
        x = 50 + 5 * m // COUNT  # 0.03 of the diagonal, not quite.
        frames[m, 30:60, x : x + 30] = (200, 30, 30)
        evidence[m, 30:60, x : x + 30] = strength
    assert len(find(frames, evidence, np.repeat(scene[None], COUNT, 0))) == told


def one_sided():
    """A square that goes down and shows that it moves along its lower edge alone."""
    frames = np.repeat(texture(5)[None], COUNT, 0)
    evidence, masks = (np.zeros((COUNT, HEIGHT, WIDTH), d) for d in (np.float32, bool))
    for m in range(COUNT):
        y = 10 + 4 * m
        masks[m, y : y + 30, 50:80] = True
        frames[m][masks[m]] = (200, 30, 30)
        evidence[m, y + 28 : y + 33, 50:80] = 3.0
    return frames, evidence, masks


def test_a_body_is_found_behind_one_edge_that_shows_its_motion():
    frames, evidence, masks = one_sided()
    (body,) = color_regions.find_color_regions(frames[3], evidence[3], 0.001, 0.15)
    assert overlap(body, masks[3]) > 0.95


def test_nothing_is_a_body_of_which_too_little_shows_or_that_is_too_large():
    frames, evidence, _ = one_sided()
    assert not color_regions.find_color_regions(frames[3], evidence[3], 0.001, 0.15, border=0.4)
    assert not color_regions.find_color_regions(frames[3], evidence[3], 0.001, 0.05)


def test_one_edge_finds_a_thing_where_the_camera_travels():
    frames, evidence, masks = one_sided()
    # The inside is as usual, and is not taken for a shadow of its own for that.
    usual = np.where(evidence[..., None] > 0, texture(5), frames)
    way = np.zeros((COUNT, 3))
    way[:, 0] = 1e-3 * np.arange(COUNT)
    (thing,) = find(frames, evidence, usual, way)
    assert overlap(thing.masks, masks) > 0.9
    # Elsewhere motion shows all over a thing, and an edge of one colour is no more than that.
    assert not any(overlap(other.masks, masks) > 0.5 for other in find(frames, evidence, usual))


def test_a_soft_shadow_is_no_thing():
    scene = texture(6)
    frames, usual = np.repeat(scene[None], COUNT, 0), np.repeat(scene[None], COUNT, 0)
    evidence = np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for m in range(COUNT):
        dark = 0.35 * np.exp(-(((columns - 25 - 6 * m) / 14) ** 4) - ((rows - 48) / 14) ** 4)
        frames[m] = (1 - dark)[..., None] * scene
        evidence[m] = dark / 0.1
    assert not find(frames, evidence, usual)
    frames[evidence > 1] = (200, 30, 30)
    assert len(find(frames, evidence, usual)) == 1


def test_what_a_thing_uncovers_is_no_thing():
    # Bars of the scene that come free one after the other, where most frames show the thing.
    scene = texture(6)
    frames = np.repeat(scene[None], COUNT, 0)
    usual, evidence = frames.copy(), np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    for m in range(COUNT):
        x = 20 + 6 * m
        usual[m, 30:60, x : x + 12] = (200, 30, 30)
        evidence[m, 30:60, x : x + 12] = 3.0
    assert not find(frames, evidence, usual)
    assert find(usual, evidence, frames)  # The thing itself.


@pytest.mark.parametrize("step", [0, 1])
def test_a_caption_is_no_moving_thing(step):
    """It keeps its place in the picture while the camera turns; what hardly does is a thing."""
    wide, usual = texture(7, width=2 * WIDTH), []
    frames, evidence = [], np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    for m in range(COUNT):
        usual.append(wide[:, 4 * m : 4 * m + WIDTH])
        frames.append(usual[-1].copy())
        x = 50 + step * m // 2
        frames[-1][40:56, x : x + 40] = (240, 240, 240)
        evidence[m, 40:56, x : x + 40] = 3.0
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    turn = np.arctan(4 * np.arange(COUNT) / 120.0)
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(turn)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(turn), -np.sin(turn)
    still = camera()
    turning = dataclasses.replace(still, kind="turning", poses=poses, solution=dataclasses.replace(
        still.solution, rotation=poses[:, :3, :3]))
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames])
    found = motion_segmentation.find_moving(
        np.stack(frames), TIMES, np.arange(COUNT), evidence, background=np.stack(usual),
        flow=mask_motion.backward_flow(grey), motion=turning)
    assert len(found) == step
