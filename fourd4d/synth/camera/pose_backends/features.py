"""Poses from the tracked features themselves."""

from __future__ import annotations

import numpy as np

from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.pose_backends.base import CameraPath, Frames


def from_features(frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
    """The poses that tracked features gave."""
    del frames, times
    return CameraPath(motion.poses, motion.scene_depth, "relative", "features")
