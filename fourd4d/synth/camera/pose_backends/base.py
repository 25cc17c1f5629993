"""What a camera pose backend is given and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation, Slerp

from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.motion_labels import MotionLabelSpec, label_motion
from fourd4d.synth.clip import CameraSegment


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Poses at given times and what is known of their scale.

    Attributes:
      poses: camera-to-world.
      scene_depth: typical distance of the static scene, in the poses' unit; None for metric poses
        of unknown scene depth.
      scale: ``metric`` or ``relative``.
      source: name of the source.
      labels: spans that the source itself labels; None to apply the rule to the poses.
    """

    poses: Float[np.ndarray, "T 4 4"]
    scene_depth: Float[np.ndarray, "T"] | None
    scale: Literal["metric", "relative"]
    source: str
    labels: tuple[CameraSegment, ...] | None = None

    def camera(self, times: Float[np.ndarray, "T"], rule: MotionLabelSpec | None = None
               ) -> tuple[CameraSegment, ...]:
        """Spans with their moves: the source's own, else by the rule."""
        if self.labels is not None:
            return _within(self.labels, float(times[0]), float(times[-1]))
        return label_motion(self.poses, times, self.scene_depth, rule)


Frames = UInt8[np.ndarray, "T H W 3"]
PoseBackend = Callable[[Frames, Float[np.ndarray, "T"], CameraMotion], CameraPath]


def _within(spans: tuple[CameraSegment, ...], start: float, end: float
            ) -> tuple[CameraSegment, ...]:
    cut = (CameraSegment(max(s.start, start), min(s.end, end), s.moves) for s in spans)
    return tuple(s for s in cut if s.end - s.start > 1e-6)


def interpolate(
    poses: Float[np.ndarray, "N 4 4"], at: Float[np.ndarray, "N"], times: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T 4 4"]:
    """Poses at other times: rotations on the shortest arc, centres straight; ends are held."""
    moments = np.clip(times, at[0], at[-1])
    out = np.tile(np.eye(4), (len(times), 1, 1))
    if len(at) == 1:
        out[:] = poses[0]
        return out
    out[:, :3, :3] = Slerp(at, Rotation.from_matrix(poses[:, :3, :3]))(moments).as_matrix()
    for k in range(3):
        out[:, k, 3] = np.interp(moments, at, poses[:, k, 3])
    return out
