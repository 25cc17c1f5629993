"""Where camera poses come from: one interface, four sources.

A source is called with a span of a video and the motion that features tell, and answers with a
``CameraPath`` at the span's analysed frames. ``features`` costs nothing more; ``colmap`` runs
structure from motion where the camera travels (a camera that only turns gives it no baseline);
``GivenPoses`` and ``SpatialVidPoses`` read files.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation, Slerp

from fourd4d.core.errors import InputError
from fourd4d.synth import colmap
from fourd4d.synth.camera import CameraRule, segments
from fourd4d.synth.clip import MOVES, CameraSegment
from fourd4d.synth.features import CameraMotion
from fourd4d.synth.tracking import PointTracks

SPATIALVID_STEP = 0.2  # Seconds between annotated frames.


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

    def camera(self, times: Float[np.ndarray, "T"], rule: CameraRule | None = None
               ) -> tuple[CameraSegment, ...]:
        """Spans with their moves: the source's own, else by the rule."""
        if self.labels is not None:
            return _within(self.labels, float(times[0]), float(times[-1]))
        return segments(self.poses, times, self.scene_depth, rule)


Frames = UInt8[np.ndarray, "T H W 3"]
PoseSource = Callable[[Frames, Float[np.ndarray, "T"], CameraMotion], CameraPath]


def _within(spans: tuple[CameraSegment, ...], start: float, end: float
            ) -> tuple[CameraSegment, ...]:
    cut = (CameraSegment(max(s.start, start), min(s.end, end), s.moves) for s in spans)
    return tuple(s for s in cut if s.end - s.start > 1e-6)


def from_features(frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
    """The poses that tracked features gave."""
    del frames, times
    return CameraPath(motion.poses, motion.scene_depth, "relative", "features")


def from_colmap(frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
    """Structure from motion (pycolmap) where features say that the camera travels.

    Elsewhere, and where the mapping registers less than four fifths of the frames, the features'
    own poses stand; ``source`` says so. What moves by itself is left out, see ``colmap``. Raises
    InputError if pycolmap is not installed.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise InputError("pose source 'colmap'", "pycolmap is not installed",
                         "pip install 'fourd4d[synth]'")
    if motion.kind != "moving":
        return dataclasses.replace(from_features(frames, times, motion),
                                   source="features (no travel for colmap)")
    static = PointTracks(motion.tracks.xy[motion.static], motion.tracks.first[motion.static])
    model = colmap.reconstruct(static, motion.size, motion.focal)
    if model is None:
        return dataclasses.replace(from_features(frames, times, motion),
                                   source="features (colmap failed)")
    at = times[model.frames]
    return CameraPath(interpolate(model.poses, at, times), np.interp(times, at, model.depth),
                      "relative", "colmap")


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


@dataclasses.dataclass(frozen=True)
class GivenPoses:
    """Poses of a whole video from an npz file, e.g. MegaSaM's.

    Keys: ``poses`` (N, 4, 4) or ``cam_c2w``, camera-to-world; ``timestamps`` (N,) seconds, or
    ``fps``; optional ``scene_depth``, one number or N. ``metric`` poses need no depth.
    """

    path: str | os.PathLike[str]
    metric: bool = False

    def __call__(self, frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
        """Raises InputError where the file is not as described or covers too little."""
        try:
            with np.load(self.path, allow_pickle=False) as data:
                stored = {key: data[key] for key in data.files}
        except (OSError, ValueError) as error:
            raise InputError(self.path, f"no readable npz ({error})", "Give a NumPy archive"
                             ) from error
        poses = stored.get("poses", stored.get("cam_c2w"))
        if poses is None or poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
            raise InputError(self.path, "no (N, 4, 4) array 'poses' or 'cam_c2w'", "Add it")
        if "timestamps" in stored:
            at = np.asarray(stored["timestamps"], float)
        elif "fps" in stored:
            at = np.arange(len(poses)) / float(stored["fps"])
        else:
            raise InputError(self.path, "neither 'timestamps' nor 'fps'", "Say when poses hold")
        if at.shape != (len(poses),) or (np.diff(at) <= 0).any():
            raise InputError(self.path, "timestamps do not rise or do not match the poses",
                             "Give one a pose")
        _covers(self.path, at, times)
        depth = stored.get("scene_depth")
        if depth is not None:
            depth = np.interp(times, at, np.broadcast_to(np.asarray(depth, float), at.shape))
        elif not self.metric:
            depth = _depth_by_features(interpolate(poses.astype(float), at, times), motion)
        return CameraPath(interpolate(poses.astype(float), at, times), depth,
                          "metric" if self.metric else "relative", "poses")


def _covers(where: object, at: np.ndarray, times: np.ndarray) -> None:
    if times[-1] - at[-1] > 0.5 or at[0] - times[0] > 0.5:
        raise InputError(where, f"poses cover {at[0]:.2f}-{at[-1]:.2f} s, the clip lies at "
                         f"{times[0]:.2f}-{times[-1]:.2f} s", "Give poses of the whole video")


def _depth_by_features(poses: np.ndarray, motion: CameraMotion) -> np.ndarray:
    """Scene depth in the poses' unit: their way, over the way in scene depths of the features."""
    ways = [np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1).sum()
            for p in (poses, motion.poses)]
    if motion.kind != "moving" or min(ways) <= 1e-9:
        return np.full(len(poses), max(ways[0], 1e-6) * 1e3)  # No travel that pictures show.
    return motion.scene_depth * ways[0] / ways[1]


@dataclasses.dataclass(frozen=True)
class SpatialVidPoses:
    """Poses and labels of one SpatialVID clip: its annotation folder.

    ``poses.npy`` holds t xyz and a quaternion xyzw a row, 0.2 s apart; ``instructions.json`` maps
    ``start->end``, in those steps, to moves. The labels are used where there are any.
    """

    folder: str | os.PathLike[str]

    def __call__(self, frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
        """Raises InputError on missing or malformed files."""
        folder = Path(self.folder)
        try:
            rows = np.load(folder / "poses.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(folder / "poses.npy", f"no readable array ({error})",
                             "Fetch it again") from error
        if rows.ndim != 2 or rows.shape[1] != 7 or not len(rows):
            raise InputError(folder / "poses.npy", f"shape {rows.shape}", "It must be (N, 7)")
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        poses[:, :3, :3] = Rotation.from_quat(rows[:, 3:]).as_matrix()
        poses[:, :3, 3] = rows[:, :3]
        at = SPATIALVID_STEP * np.arange(len(rows))
        _covers(folder / "poses.npy", at, times)
        there = interpolate(poses, at, times)
        labels = None
        if (folder / "instructions.json").exists():
            labels = read_instructions(folder / "instructions.json")
        return CameraPath(there, _depth_by_features(there, motion), "relative", "spatialvid",
                          labels or None)


def read_instructions(path: str | os.PathLike[str]) -> tuple[CameraSegment, ...]:
    """Spans of an ``instructions.json``, seconds. Raises InputError on unknown moves or spans."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, f"no readable JSON ({error})", "Fetch it again") from error
    if not isinstance(table, Mapping):
        raise InputError(path, "no object", "It maps 'start->end' to lists of moves")
    out = []
    for key, moves in table.items():
        try:
            start, end = (SPATIALVID_STEP * int(part) for part in key.split("->"))
        except ValueError as error:
            raise InputError(path, f"span {key!r}", "Write 'start->end'") from error
        names = tuple("Static" if m in ("Stay", "Static") else m for m in moves)
        unknown = sorted(set(names) - set(MOVES))
        if unknown:
            raise InputError(path, f"unknown moves {unknown}", f"Known: {MOVES}")
        if end > start:
            # Still beside a move says nothing.
            names = tuple(n for n in names if n != "Static") or names[:1]
            out.append(CameraSegment(start, end, names))
    out.sort(key=lambda s: s.start)
    if any(b.start < a.end - 1e-6 for a, b in zip(out, out[1:])):
        raise InputError(path, "spans overlap", "Each moment has one set of moves")
    return tuple(out)


SOURCES: Mapping[str, PoseSource] = {"features": from_features, "colmap": from_colmap}


def named(name: str) -> PoseSource:
    """A source that needs no files. Raises InputError on unknown names."""
    if name not in SOURCES:
        raise InputError("pose source", f"unknown {name!r}", f"Known: {sorted(SOURCES)}")
    return SOURCES[name]
