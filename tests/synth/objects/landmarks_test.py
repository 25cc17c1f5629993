"""The landmark: what stands out and rests, carried by the camera; else a disc about good points."""

import cv2
import numpy as np
import pytest

from fourd4d.synth.camera.bundle_adjustment import Solution
from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.point_tracks import PointTracks
from fourd4d.synth.objects.landmarks import find_landmark

COUNT, HEIGHT, WIDTH, FOCAL = 8, 96, 128, 110.0
SQUARE = np.s_[30:54, 40:64]


def pan(step, grid=6):
    """A camera that turns right by about ``step`` pixels a frame, and the points it follows."""
    turn = np.arctan(step * np.arange(COUNT) / FOCAL)
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(turn)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(turn), -np.sin(turn)
    ys, xs = np.mgrid[4 : HEIGHT - 4 : grid, 4 : WIDTH - 4 : grid]
    start = np.stack([xs.ravel(), ys.ravel()], 1).astype(np.float32)
    fit = Solution(poses[:, :3, :3], poses[:, :3, 3], np.ones(len(start)), FOCAL, np.zeros(0), 0.0)
    tracks = PointTracks(np.repeat(start[:, None], COUNT, 1), np.zeros(len(start), int))
    motion = CameraMotion(poses, np.ones(COUNT), "turning", FOCAL, tracks,
                          np.ones(len(start), bool), np.ones(len(start)),
                          np.zeros((len(start), COUNT)), 1.0, fit, (HEIGHT, WIDTH))
    for t in range(COUNT):
        xy = motion.place(0, t, start)
        inside = ((xy >= 0) & (xy <= (WIDTH - 1, HEIGHT - 1))).all(1)
        tracks.xy[:, t] = np.where(inside[:, None], xy, np.nan)
    return motion


def seen(motion, picture):
    """What the camera sees of the picture that its first frame is."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    out = []
    for t in range(COUNT):
        at = motion.place(t, 0, np.stack([x, y], -1)).astype(np.float32)
        out.append(cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR,
                             borderMode=cv2.BORDER_REPLICATE))
    return np.stack(out)


def scene(stands_out):
    """Stripes from edge to edge, and a square before them."""
    rng = np.random.default_rng(0)
    stripes = rng.integers(80, 150, (1, 8, 3), dtype=np.uint8)
    picture = np.repeat(np.repeat(stripes, HEIGHT, 0), WIDTH // 8, 1)
    if stands_out:
        picture[SQUARE] = (30, 60, 200)
    return picture


NOTHING = np.zeros((COUNT, HEIGHT, WIDTH), bool)


@pytest.mark.parametrize("step", [0.0, 3.0])
def test_what_stands_out_is_carried_by_the_camera(step):
    motion = pan(step)
    frames = seen(motion, scene(True))
    marks = find_landmark(frames, np.arange(COUNT), motion, NOTHING)
    for frame, mark in zip(frames, marks):
        blue = frame[..., 2].astype(int) - frame[..., 0] > 100
        assert (mark & blue).sum() > 0.8 * (mark | blue).sum()


def test_a_landmark_is_left_out_where_something_hides_it_and_never_moves_itself():
    motion = pan(0.0)
    frames = seen(motion, scene(True))
    hidden = NOTHING.copy()
    hidden[7, 20:60, 30:60] = True
    marks = find_landmark(frames, np.arange(COUNT), motion, hidden)
    assert marks[:7].any((1, 2)).all() and not marks[7].any()
    # A thing that moves is no landmark; what is left of the scene gives a disc.
    moves = NOTHING.copy()
    moves[:, 26:58, 36:68] = True
    marks = find_landmark(frames, np.arange(COUNT), motion, moves)
    assert marks.any((1, 2)).all() and not (marks & moves).any()


def test_where_nothing_stands_out_a_disc_about_good_points_serves():
    motion = pan(2.0)
    marks = find_landmark(seen(motion, scene(False)), np.arange(COUNT), motion, NOTHING)
    assert marks.any((1, 2)).mean() >= 0.5
    ys, xs = np.nonzero(marks[marks.any((1, 2)).argmax()])
    assert abs(np.ptp(xs) - np.ptp(ys)) <= 2 and 8 <= np.ptp(xs) <= 26


def test_without_points_there_is_no_landmark():
    motion = pan(0.0, grid=400)
    assert find_landmark(seen(motion, scene(True)), np.arange(COUNT), motion, NOTHING) is None
