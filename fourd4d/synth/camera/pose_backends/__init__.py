"""The table of camera pose backends: where the poses of a video come from.

To add one: write a module beside this file with a ``base.PoseBackend``, a function from a span's
frames, their times and the motion that features show to a ``base.CameraPath``, and put one line
with its name into the table below. ``--config.poses=NAME`` then chooses it. A backend that reads
files has a function from ``--config.poses_root`` and the video's name to the backend of that video.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth.camera.pose_backends.base import PoseBackend
from fourd4d.synth.camera.pose_backends.colmap import from_colmap
from fourd4d.synth.camera.pose_backends.features import from_features
from fourd4d.synth.camera.pose_backends.files import find_poses, find_spatialvid


@dataclasses.dataclass(frozen=True)
class PoseBackendEntry:
    """A line of the table: one of the two.

    Attributes:
      backend: the same for every video.
      find: the backend of a video, from the folder of all files and the video's name. Raises
        InputError where the video has no files.
    """

    backend: PoseBackend | None = None
    find: Callable[[Path, str], PoseBackend] | None = None


POSE_BACKENDS: Final[dict[str, PoseBackendEntry]] = {
    "features": PoseBackendEntry(from_features),
    "colmap": PoseBackendEntry(from_colmap),
    "poses": PoseBackendEntry(find=find_poses),
    "spatialvid": PoseBackendEntry(find=find_spatialvid),
}


def open_named(name: str) -> PoseBackend:
    """Return a backend that needs no files. Raises InputError on unknown names."""
    known = {key: entry.backend for key, entry in POSE_BACKENDS.items() if entry.backend}
    if name not in known:
        raise InputError("pose backend", f"unknown value {name!r}", f"Use one of {sorted(known)}")
    return known[name]


def pose_backend_finder(name: str, root: str | os.PathLike[str] = ""
                        ) -> Callable[[str], PoseBackend]:
    """Return a function from a video's name to its pose backend.

    ``poses`` reads ``<root>/<video>.npz``; ``spatialvid`` the folder ``<root>/<video>`` or
    ``<root>/<group>/<video>``. Raises InputError on unknown names; so does the result where a
    video has no files.
    """
    if name not in POSE_BACKENDS:
        raise InputError("config.poses", f"unknown value {name!r}",
                         f"Choose among {tuple(POSE_BACKENDS)}")
    find = POSE_BACKENDS[name].find
    if find is None:
        return lambda _: open_named(name)
    if not str(root) or not Path(root).is_dir():
        raise InputError("config.poses_root", f"no such folder: {str(root)!r}",
                         f"Give the folder of the {name} files")
    return functools.partial(find, Path(root))
