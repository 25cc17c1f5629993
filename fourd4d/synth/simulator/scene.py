"""Scenes as arrays: the input of the renderer and the source of labels.

World axes are those of a level camera: x right, y down, z forward; the ground is the plane y = 0,
so objects above it have negative y. Lengths are metres, angles radians.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Float, Int

SHAPES: Final = ("ball", "cube", "cylinder", "cone")
COLOURS: Final = {
    "red": (0.86, 0.10, 0.10), "green": (0.10, 0.62, 0.16), "blue": (0.12, 0.22, 0.88),
    "yellow": (0.96, 0.86, 0.12), "purple": (0.55, 0.16, 0.68), "cyan": (0.15, 0.82, 0.85),
    "orange": (0.96, 0.50, 0.08), "black": (0.07, 0.07, 0.09),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One clip to render; N objects, T frames. Unused objects have ``half`` 0.

    Attributes:
      poses: camera-to-world.
      shape: index into SHAPES.
      half: half extents, metres.
      centers: metres.
      yaw: rotation of each object about the vertical, radians.
      colour: linear-light RGB of each object.
      texture: contrast and spatial frequency (cycles a metre) of each object's pattern.
      ground: two RGB colours of the checkered ground.
      far: two RGB colours of the hills at infinity.
      sky: RGB at the horizon and above.
      phase: random phases of the hills and clouds.
      light: unit vector towards the light.
      focal: focal length in frame heights.
      detail: strength of fine texture, 0 … 1.
      fog: share of light lost per 10 m, 0 … 1.
    """

    poses: Float[np.ndarray, "T 4 4"]
    shape: Int[np.ndarray, "N"]
    half: Float[np.ndarray, "N 3"]
    centers: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "N"]
    colour: Float[np.ndarray, "N 3"]
    texture: Float[np.ndarray, "N 2"]
    ground: Float[np.ndarray, "2 3"]
    far: Float[np.ndarray, "2 3"]
    sky: Float[np.ndarray, "2 3"]
    phase: Float[np.ndarray, "4"]
    light: Float[np.ndarray, "3"]
    focal: float
    detail: float = 0.0
    fog: float = 0.0


def rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Return a camera-to-world rotation; radians, pan right, tilt up, roll clockwise positive."""
    cy, sy = np.cos(yaw), np.sin(yaw)
    cp, sp = np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    pan = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    twist = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return pan @ tilt @ twist


def to_camera(
    poses: Float[np.ndarray, "T 4 4"], points: Float[np.ndarray, "T 3"]
) -> Float[np.ndarray, "T 3"]:
    """Transform world points into the axes of each frame's camera, metres."""
    return np.einsum("tji,tj->ti", poses[:, :3, :3], points - poses[:, :3, 3])


def project(
    points: Float[np.ndarray, "T 3"], focal: float, aspect: float = 1.0
) -> Float[np.ndarray, "T 2"]:
    """Project camera-axes points to fractions of frame width and height; NaN behind the camera.

    ``aspect`` is width / height.
    """
    z = np.where(points[:, 2:] > 1e-3, points[:, 2:], np.nan)
    return 0.5 + focal * points[:, :2] / z / np.array([aspect, 1.0])
