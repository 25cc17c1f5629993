"""Camera poses from files: one npz a video, or SpatialVID's annotations."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fourd4d.core.errors import InputError
from fourd4d.core.files import read_arrays, read_object
from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.pose_backends.base import CameraPath, Frames, interpolate
from fourd4d.synth.clip import MOVES, CameraSegment

SPATIALVID_STEP = 0.2  # Seconds between annotated frames.


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
        stored = read_arrays(self.path)
        poses = stored.get("poses", stored.get("cam_c2w"))
        if poses is None or poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
            raise InputError(self.path, "no (N, 4, 4) array 'poses' or 'cam_c2w'", "Add it")
        if poses.dtype.kind not in "fiu":
            raise InputError(self.path, f"poses are {poses.dtype}", "Give numbers")
        at = stored_times(stored, len(poses), 0.0, self.path)
        _covers(self.path, at, times)
        depth = stored.get("scene_depth")
        if depth is not None:
            try:
                depth = np.interp(times, at, np.broadcast_to(np.asarray(depth, float), at.shape))
            except (TypeError, ValueError) as error:
                raise InputError(self.path, f"scene_depth is not a depth a pose ({error})",
                                 "Give one number, or one a pose") from error
        elif not self.metric:
            depth = _depth_by_features(interpolate(poses.astype(float), at, times), motion)
        return CameraPath(interpolate(poses.astype(float), at, times), depth,
                          "metric" if self.metric else "relative", "poses")


def stored_times(stored: Mapping[str, np.ndarray], count: int, fps: float, where: object
                 ) -> Float[np.ndarray, "N"]:
    """Return the seconds of ``count`` poses or masks of a file: its ``timestamps``, or by ``fps``.

    Raises InputError where they are not ``count`` rising numbers.
    """
    try:
        if "timestamps" in stored:
            at = np.asarray(stored["timestamps"], float)
        elif "fps" in stored or fps:
            at = np.arange(count) / float(stored.get("fps", fps))
        else:
            raise InputError(where, "neither 'timestamps' nor 'fps'", "Say when they hold")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(where, f"its times are not numbers ({error})", "Give seconds") from error
    if at.shape != (count,) or not count or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise InputError(where, "timestamps do not rise or do not match", "Give one each")
    return at


def _covers(where: object, at: np.ndarray, times: np.ndarray) -> None:
    if times[-1] - at[-1] > 0.5 or at[0] - times[0] > 0.5:
        raise InputError(where, f"poses cover {at[0]:.2f}-{at[-1]:.2f} s, the clip lies at "
                         f"{times[0]:.2f}-{times[-1]:.2f} s", "Give poses of the whole video")


def _depth_by_features(poses: np.ndarray, motion: CameraMotion) -> np.ndarray:
    """Return scene depth in the poses' unit: their path, over the features' in scene depths."""
    lengths = [np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1).sum()
               for p in (poses, motion.poses)]
    if motion.kind != "moving" or min(lengths) <= 1e-9:
        return np.full(len(poses), max(lengths[0], 1e-6) * 1e3)  # No translation that shows.
    return motion.scene_depth * lengths[0] / lengths[1]


def find_poses(root: Path, name: str) -> GivenPoses:
    """Return a video's poses, ``<root>/<name>.npz``. Raises InputError where there are none."""
    file = root / f"{name}.npz"
    if not file.is_file():
        raise InputError(file, "no such file", "Give an npz of poses for every video")
    return GivenPoses(file)


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
        rows = read_arrays(folder / "poses.npy", "Fetch it again").get("", np.zeros(0))
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] != 7 or not len(rows):
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


def find_spatialvid(root: Path, name: str) -> SpatialVidPoses:
    """Return the annotation of a clip, in ``<root>/<name>`` or ``<root>/<group>/<name>``.

    Raises InputError where there is none.
    """
    for folder in (root / name, *sorted(root.glob(f"*/{glob.escape(name)}"))):
        if (folder / "poses.npy").is_file():
            return SpatialVidPoses(folder)
    raise InputError(root, f"no annotation of {name!r} here",
                     f"Give {name}/poses.npy or GROUP/{name}/poses.npy")


def read_instructions(path: str | os.PathLike[str]) -> tuple[CameraSegment, ...]:
    """Spans of an ``instructions.json``, seconds. Raises InputError on unknown moves or spans."""
    table = read_object(path, "Fetch it again")
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
