"""What a mask backend is asked, made for tests."""

import numpy as np

from fourd4d.synth.camera.bundle_adjustment import Solution
from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.point_tracks import PointTracks
from fourd4d.synth.objects.mask_backends.base import MaskRequest

COUNT, HEIGHT, WIDTH = 10, 48, 64
TIMES = np.arange(COUNT) / 5


def sight(pan=0.0, evidence=None, things=None):
    """Ten frames of a camera that pans ``pan`` degrees a frame."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(np.outer(np.radians(pan * np.arange(COUNT)), [0, 1, 0]))
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, :3, :3] = turn.as_matrix()
    none = PointTracks(np.zeros((0, COUNT, 2), np.float32), np.zeros(0, int))
    fit = Solution(poses[:, :3, :3], poses[:, :3, 3], np.zeros(0), 60.0, np.zeros(0), 0.0)
    motion = CameraMotion(poses, np.ones(COUNT), "turning", 60.0, none, np.zeros(0, bool),
                          np.zeros(0), np.zeros((0, COUNT)), 1.0, fit, (HEIGHT, WIDTH))
    frames = np.full((COUNT, HEIGHT, WIDTH, 3), 90, np.uint8)
    blank = np.zeros((COUNT, HEIGHT, WIDTH), np.float32)
    return MaskRequest(frames, TIMES, np.arange(COUNT), motion,
                       blank if evidence is None else evidence,
                       frames)


def square(x, y, side=10, size=(HEIGHT, WIDTH)):
    """Masks of a square whose corner goes through ``x``, ``y``."""
    out = np.zeros((COUNT, *size), bool)
    for m, (a, b) in enumerate(zip(np.broadcast_to(x, COUNT), np.broadcast_to(y, COUNT))):
        out[m, int(b) : int(b) + side, int(a) : int(a) + side] = True
    return out
GOING = square(4 + 4 * np.arange(COUNT), 10)
