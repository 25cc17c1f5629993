"""The camera's motion over a span, as the point tracks tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float

from fourd4d.synth.camera.bundle_adjustment import Solution
from fourd4d.synth.camera.point_tracks import PointTracks

Kind = Literal["still", "flat", "turning", "moving"]

# From inverse depths of pixels, and if not of all their rows and columns, to x and y elsewhere.
Warp = Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class CameraMotion:
    """What the camera did.

    Attributes:
      poses: camera-to-world, in units of scene depth.
      scene_depth: median depth of the static scene at each frame, same unit.
      kind: which camera explains the tracks.
      focal: pixels, at the resolution of the frames that were analysed.
      tracks: the points followed.
      static: which points belong to the static scene.
      inverse_depth: of each point in its first frame; 1 where the camera tells nothing of it.
      residual: pixels, of each point in each frame; NaN where not seen.
      support: share of points explained.
      solution: the camera as it was fitted (a flat one still slides here).
      size: height and width of the pictures analysed.
    """

    poses: Float[np.ndarray, "T 4 4"]
    scene_depth: Float[np.ndarray, "T"]
    kind: Kind
    focal: float
    tracks: PointTracks
    static: Bool[np.ndarray, "N"]
    inverse_depth: Float[np.ndarray, "N"]
    residual: Float[np.ndarray, "N T"]
    support: float
    solution: Solution
    size: tuple[int, int]

    def depth(self, t: int) -> float:
        """Typical depth of the static scene at a frame, in the solution's unit."""
        if self.kind == "flat":
            return max(1 - float(self.solution.centre[t, 2]), 0.05)
        return float(self.scene_depth[t])

    def place(
        self, source: int, target: int, xy: np.ndarray, inverse_depth: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Where static points seen at ``xy`` in one frame are in another, pixels.

        Without travel, depths do not matter; a flat camera has ``depth`` everywhere.
        """
        s, middle = self.solution, np.array([self.size[1] - 1, self.size[0] - 1]) / 2
        ray = np.concatenate([(xy - middle) / s.focal, np.ones((*xy.shape[:-1], 1))], -1)
        back = s.rotation[target].T
        shift = back @ (s.centre[source] - s.centre[target])
        q = ray @ (back @ s.rotation[source]).T + np.asarray(inverse_depth)[..., None] * shift
        return s.focal * q[..., :2] / np.maximum(q[..., 2:], 0.05) + middle

    def warp(self, source: int, target: int) -> Warp:
        """``place`` of pixels, for many depths: a map of inverse depth to x and y, float32.

        Of every pixel, or of those whose rows and columns are given.
        """
        s, (height, width) = self.solution, self.size
        back = s.rotation[target].T
        turn, shift = back @ s.rotation[source], back @ (s.centre[source] - s.centre[target])
        middle = np.array([width - 1, height - 1]) / 2
        x = ((np.arange(width) - middle[0]) / s.focal).astype(np.float32)
        y = ((np.arange(height) - middle[1]) / s.focal).astype(np.float32)
        turn, shift = turn.astype(np.float32), shift.astype(np.float32)

        def at(inverse_depth: np.ndarray | float, where: tuple[np.ndarray, ...] | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
            down, across = (y[:, None], x) if where is None else (y[where[0]], x[where[1]])
            q = [row[0] * across + (row[1] * down + row[2]) + inverse_depth * step
                 for row, step in zip(turn, shift)]
            scale = np.float32(s.focal) / np.maximum(q[2], np.float32(0.05))
            return (q[0] * scale + np.float32(middle[0]), q[1] * scale + np.float32(middle[1]))

        return at


class NoMotion(ValueError):
    """The camera's motion is unclear; the message says why."""

def inverse_depth_map(motion: CameraMotion, t: int) -> Float[np.ndarray, "H W"]:
    """Inverse depth in a frame, spread from the static points seen there to their surroundings."""
    height, width = motion.size
    s = motion.solution
    middle = np.array([width - 1, height - 1]) / 2
    point = np.flatnonzero(motion.static & motion.tracks.seen[:, t])
    if len(point) < 4:
        return np.full((height, width), 1 / motion.depth(t))
    first = motion.tracks.first[point]
    ray = np.concatenate([(motion.tracks.xy[point, first] - middle) / s.focal,
                          np.ones((len(point), 1))], 1)
    base = np.einsum("nij,nj->ni", s.rotation[first], ray)
    base += s.inverse_depth[point, None] * (s.centre[first] - s.centre[t])
    ahead = np.maximum(base @ s.rotation[t][:, 2], 0.05)
    value = np.clip(s.inverse_depth[point] / ahead, 0.0, 20.0)
    cell = 8
    rows, columns = np.meshgrid(np.arange(cell / 2, height, cell), np.arange(cell / 2, width, cell),
                                indexing="ij")
    xy = motion.tracks.xy[point, t]
    distance = (rows[..., None] - xy[:, 1]) ** 2 + (columns[..., None] - xy[:, 0]) ** 2
    near = np.argpartition(distance, min(5, len(point) - 1), -1)[..., :6]
    weight = 1 / (np.take_along_axis(distance, near, -1) + cell**2)
    coarse = (weight * value[near]).sum(-1) / weight.sum(-1)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
