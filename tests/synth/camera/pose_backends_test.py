"""Pose sources: files read as they are, times kept true, faults told."""

import dataclasses
import importlib.util
import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fourd4d.core.errors import InputError
from fourd4d.synth.camera.bundle_adjustment import Solution
from fourd4d.synth.camera.estimate import estimate, explain
from fourd4d.synth.camera.motion import CameraMotion, NoMotion
from fourd4d.synth.camera.point_tracks import PointTracks
from fourd4d.synth.camera.pose_backends import open_named, pose_backend_finder
from fourd4d.synth.camera.pose_backends.base import interpolate
from fourd4d.synth.camera.pose_backends.colmap import from_colmap, sys
from fourd4d.synth.camera.pose_backends.features import from_features
from fourd4d.synth.camera.pose_backends.files import (
    GivenPoses,
    SpatialVidPoses,
    read_instructions,
)
from fourd4d.synth.clip import CameraSegment

TIMES = np.arange(25) / 8
FRAMES = np.zeros((25, 8, 8, 3), np.uint8)


def motion(speed=0.1, kind="moving"):
    poses = np.tile(np.eye(4), (25, 1, 1))
    poses[:, 0, 3] = speed * TIMES
    none = PointTracks(np.zeros((0, 25, 2), np.float32), np.zeros(0, int))
    solution = Solution(poses[:, :3, :3], poses[:, :3, 3], np.zeros(0), 10.0, np.zeros(0), 0.0)
    return CameraMotion(poses, np.ones(25), kind, 10.0, none, np.zeros(0, bool), np.zeros(0),
                        np.zeros((0, 25)), 1.0, solution, (8, 8))


def travel(speed, at):
    poses = np.tile(np.eye(4), (len(at), 1, 1))
    poses[:, 0, 3] = speed * at
    return poses


def told(source, **kwargs):
    return [s.moves for s in source(FRAMES, TIMES, motion(**kwargs)).camera(TIMES)]


def test_features_pass_through():
    assert told(from_features) == [("Truck Right",)]
    assert open_named("features") is from_features
    with pytest.raises(InputError, match="unknown value 'magic'"):
        open_named("magic")


def test_poses_of_any_scale_obey_the_rule(tmp_path):
    at = np.arange(20) / 5
    for scale in (0.01, 1.0, 300.0):
        np.savez(tmp_path / "p.npz", poses=travel(scale, at), timestamps=at)
        assert told(GivenPoses(tmp_path / "p.npz")) == [("Truck Right",)]
    np.savez(tmp_path / "p.npz", poses=travel(0.05, at), timestamps=at)
    assert told(GivenPoses(tmp_path / "p.npz", metric=True)) == [("Static",)]
    np.savez(tmp_path / "p.npz", cam_c2w=travel(0.5, at), fps=5.0, scene_depth=100.0)
    assert told(GivenPoses(tmp_path / "p.npz")) == [("Static",)]


@pytest.mark.parametrize("arrays, message", [
    (dict(timestamps=np.arange(20) / 5), "no .N, 4, 4. array"),
    (dict(poses=travel(1, np.arange(20) / 5)), "neither 'timestamps' nor 'fps'"),
    (dict(poses=travel(1, np.arange(20) / 5), fps=50.0), "poses cover"),
    (dict(poses=travel(1, np.arange(20) / 5), timestamps=np.zeros(20)), "do not rise"),
])
def test_bad_pose_files_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match=message):
        told(GivenPoses(tmp_path / "p.npz"))


def test_interpolation_keeps_constant_motion():
    at = np.array([0.0, 1.0, 3.0])
    poses = travel(2.0, at)
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(at, [0, 0.2, 0])).as_matrix()
    out = interpolate(poses, at, np.array([0.5, 2.0, 9.0]))
    np.testing.assert_allclose(out[:, 0, 3], [1.0, 4.0, 6.0])
    turned = Rotation.from_matrix(out[:, :3, :3]).as_rotvec()
    np.testing.assert_allclose(turned[:, 1], [0.1, 0.4, 0.6], atol=1e-9)


def annotation(folder, instructions):
    rows = np.zeros((20, 7))
    rows[:, 3:] = Rotation.from_rotvec(np.outer(np.radians(2.0 * np.arange(20)), [0, 1, 0])
                                       ).as_quat()
    np.save(folder / "poses.npy", rows)
    if instructions is not None:
        (folder / "instructions.json").write_text(json.dumps(instructions))


def test_spatialvid_steps_are_a_fifth_of_a_second(tmp_path):
    annotation(tmp_path, None)
    path = SpatialVidPoses(tmp_path)(FRAMES, TIMES, motion(kind="turning"))
    angle = np.degrees(Rotation.from_matrix(path.poses[:, :3, :3]).as_rotvec()[:, 1])
    np.testing.assert_allclose(angle, 10 * TIMES, atol=1e-6)
    assert [s.moves for s in path.camera(TIMES)] == [("Pan Right",)]
    annotation(tmp_path, {"0->5": ["Stay"], "5->19": ["Pan Left", "Roll CW"]})
    path = SpatialVidPoses(tmp_path)(FRAMES, TIMES, motion(kind="turning"))
    assert path.camera(TIMES) == (CameraSegment(0.0, 1.0, ("Static",)),
                                  CameraSegment(1.0, 3.0, ("Pan Left", "Roll CW")))


@pytest.mark.parametrize("table, message", [
    ({"0->5": ["Spin"]}, "unknown moves"), ({"0-5": ["Stay"]}, "span '0-5'"),
    ({"0->5": ["Stay"], "4->9": ["Stay"]}, "overlap"), (["Stay"], "not a JSON object"),
])
def test_bad_instructions_are_told(tmp_path, table, message):
    (tmp_path / "i.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=message):
        read_instructions(tmp_path / "i.json")


def test_each_video_gets_its_own_files(tmp_path):
    (tmp_path / "group" / "uuid").mkdir(parents=True)
    annotation(tmp_path / "group" / "uuid", {"0->19": ["Pan Right"]})
    find = pose_backend_finder("spatialvid", tmp_path)
    path = find("uuid")(FRAMES, TIMES, motion(kind="turning"))
    assert path.source == "spatialvid" and path.camera(TIMES)[0].moves == ("Pan Right",)
    with pytest.raises(InputError, match="no annotation of 'other' here"):
        find("other")
    at = np.arange(20) / 5
    np.savez(tmp_path / "a.npz", poses=travel(1.0, at), timestamps=at)
    find = pose_backend_finder("poses", tmp_path)
    assert find("a")(FRAMES, TIMES, motion()).source == "poses"
    with pytest.raises(InputError, match="b.npz: no such file"):
        find("b")
    with pytest.raises(InputError, match="no such folder"):
        pose_backend_finder("poses", tmp_path / "none")
    assert pose_backend_finder("features")("any") is from_features


def seen(poses, points, focal=150.0, size=(120, 160)):
    """Tracks of 3-D points before a camera."""
    back = np.linalg.inv(poses)
    local = np.einsum("tij,nj->nti", back[:, :3, :3], points) + back[:, :3, 3]
    xy = focal * local[..., :2] / local[..., 2:] + np.array([size[1] - 1, size[0] - 1]) / 2
    inside = ((xy >= 0) & (xy <= (size[1] - 1, size[0] - 1))).all(-1).cumprod(1).astype(bool)
    xy[~inside] = np.nan
    keep = inside.sum(1) >= 4
    return PointTracks(xy[keep].astype(np.float32), np.zeros(keep.sum(), int))


@pytest.mark.parametrize("axis, kind", [(0, "moving"), (2, "moving"), (None, "turning")])
def test_travel_and_turning_are_told_apart(axis, kind):
    rng = np.random.default_rng(0)
    depth = rng.uniform(2, 9, 160)
    rays = rng.uniform([-0.5, -0.38], [0.5, 0.38], (160, 2))
    points = np.concatenate([rays, np.ones((160, 1))], 1) * depth[:, None]
    poses = np.tile(np.eye(4), (25, 1, 1))
    if axis is None:
        poses[:, :3, :3] = Rotation.from_rotvec(np.outer(TIMES, [0, 0.09, 0])).as_matrix()
    else:
        poses[:, axis, 3] = 0.45 * TIMES
    points[:16, 0] += 1e-3  # The first points move by themselves below.
    tracks = seen(poses, points)
    tracks.xy[:16] += np.array([3.0, 2.0]) * np.arange(25)[None, :, None] * 0.5
    found = explain(tracks, (120, 160))
    assert found.kind == kind
    assert not found.static[:16].any() and found.static[16:].mean() > 0.9
    way = found.poses[-1, :3, 3]
    if axis is not None:
        assert abs(way[axis]) > 5 * np.delete(np.abs(way), axis).max()
        truth = 0.45 * TIMES[-1] / np.median(depth)
        assert 0.5 < way[axis] / truth < 2


def test_a_thing_that_owns_most_points_is_no_scene_and_far_things_at_rest_are_no_still_camera():
    """Points rest beside a hand-held box; before a camera that travels the ground never rests."""
    rng = np.random.default_rng(1)
    rest = rng.uniform([4, 4], [156, 116], (60, 2))
    rest = rest[(np.abs(rest - (80, 45)) > (55, 42)).any(1)]
    corner = rng.uniform([-1, -1, -1], [1, 1, 1], (140, 3)) * (0.9, 0.6, 0.5)
    box = []
    for t in np.arange(30) / 29:
        turned = corner @ Rotation.from_rotvec([0, 0.9 * t, 0.2 * t]).as_matrix().T
        turned += (0.25 * t - 0.1, -0.3, 3.2 - 0.9 * t)
        box.append(144 * turned[:, :2] / turned[:, 2:] + (79.5, 59.5))
    xy = np.concatenate([np.stack([rest] * 30, 1), np.stack(box, 1)]).astype(np.float32)
    xy += rng.normal(0, 0.1, xy.shape).astype(np.float32)
    held = explain(PointTracks(xy, np.zeros(len(xy), int)), (120, 160))
    assert held.kind == "still" and held.static[: len(rest)].all()

    far = rng.uniform([-0.5, -0.38, 1], [0.5, 0.05, 1], (120, 3)) * 400
    ground = rng.uniform([-0.5, 0.1, 1], [0.5, 0.38, 1], (70, 3))
    poses = np.tile(np.eye(4), (30, 1, 1))
    poses[:, 0, 3] = 0.5 * np.arange(30) / 29
    points = np.concatenate([far, ground * (0.9 / ground[:, 1:2])])
    assert explain(seen(poses, points[60:]), (120, 160)).kind == "moving"
    with pytest.raises(NoMotion, match="the ground moves"):
        explain(seen(poses, points), (120, 160))


def fish(seed, corners, number=8):
    """A still camera above darting fish; of the tank's frame some corners show."""
    rng = np.random.default_rng(seed)
    at, turn = rng.uniform([30, 30], [170, 162], (number, 2)), rng.uniform(0, 2 * np.pi, number)
    out = []
    for _ in range(50):
        picture = np.full((192, 240), 175, np.float32)
        for x, y in corners:
            cv2.rectangle(picture, (x, y), (x + 9, y + 9), 200, 1)
        for k in range(number):
            turn[k] += rng.normal(0, 0.5)
            ahead = np.array([np.cos(turn[k]), np.sin(turn[k])])
            place = at[k] + ahead * 9 * rng.uniform(0.2, 1.6)
            at[k] = place.clip((15, 15), (175, 177))
            turn[k] += np.pi / 2 * (place != at[k]).sum()
            ends = np.round(at[k] + np.outer([-6, 6], ahead)).astype(int)
            cv2.line(picture, *ends.tolist(), 70, 2, cv2.LINE_AA)
        picture += rng.normal(0, 1.5, picture.shape)
        out.append(cv2.GaussianBlur(picture, (0, 0), 0.8).clip(0, 255).astype(np.uint8))
    return np.stack(out)


def test_what_flits_about_before_a_plain_ground_is_no_camera_motion():
    # What lives for two frames or three fits any camera.
    frame = [(200, 20), (200, 60), (215, 40), (215, 80)]
    assert estimate(fish(1, frame, number=14)).kind == "still"
    with pytest.raises(NoMotion, match="flits about"):
        estimate(fish(1, [(200, 50)]))


def test_too_few_points_tell_nothing():
    with pytest.raises(NoMotion, match="points could be followed"):
        explain(PointTracks(np.full((3, 5, 2), 9.0, np.float32), np.zeros(3, int)), (60, 80))


@pytest.mark.slow
@pytest.mark.parametrize("axis, move", [(0, "Truck Right"), (1, "Pedestal Down")])
def test_colmap_tells_travel(axis, move):
    pytest.importorskip("pycolmap")
    rng = np.random.default_rng(0)
    depth = rng.uniform(2, 9, 160)
    rays = rng.uniform([-0.5, -0.38], [0.5, 0.38], (160, 2))
    points = np.concatenate([rays, np.ones((160, 1))], 1) * depth[:, None]
    poses = np.tile(np.eye(4), (25, 1, 1))
    poses[:, axis, 3] = 0.45 * TIMES
    tracks = seen(poses, points)
    tracks.xy[:] += rng.normal(0, 0.2, tracks.xy.shape)
    tracks.xy[:12] += np.array([3.0, 2.0]) * np.arange(25)[None, :, None] * 0.5
    static = np.arange(len(tracks.first)) >= 12
    count = len(tracks.first)
    guess = dataclasses.replace(
        motion(), tracks=tracks, static=static, size=(120, 160), focal=120.0,  # Truly 150.
        inverse_depth=np.ones(count), residual=np.zeros((count, 25)))
    path = from_colmap(FRAMES, TIMES, guess)
    assert path.source == "colmap"
    assert [s.moves for s in path.camera(TIMES)] == [(move,)]
    way = path.poses[-1, :3, 3] - path.poses[0, :3, 3]
    assert way[axis] > 5 * np.delete(np.abs(way), axis).max()


def test_a_mapping_that_the_system_ends_is_tried_again_and_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    ended = tmp_path / "ended"
    ended.write_text(f"#!/bin/sh\necho x >> {tmp_path}/count\nkill -9 $$\n")
    ended.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ended))
    assert from_colmap(FRAMES, TIMES, motion()).source == "features (colmap failed)"
    assert (tmp_path / "count").read_text().split() == ["x", "x"]
    assert capsys.readouterr().err.count("ended by signal 9") == 2


def test_a_mapping_that_fails_leaves_the_features_poses(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(sys, "executable", "false")
    path = from_colmap(FRAMES, TIMES, motion())
    assert path.source == "features (colmap failed)"
    np.testing.assert_array_equal(path.poses, motion().poses)
    assert from_colmap(FRAMES, TIMES, motion(kind="turning")).source.startswith("features (no")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pycolmap is not installed. pip install"):
        from_colmap(FRAMES, TIMES, motion())
