"""Camera pose backends by name, for one video after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth.camera.pose_backends.base import PoseBackend
from fourd4d.synth.camera.pose_backends.colmap import from_colmap
from fourd4d.synth.camera.pose_backends.features import from_features
from fourd4d.synth.camera.pose_backends.files import GivenPoses, SpatialVidPoses

SOURCES: Mapping[str, PoseBackend] = {"features": from_features, "colmap": from_colmap}


def open_named(name: str) -> PoseBackend:
    """A source that needs no files. Raises InputError on unknown names."""
    if name not in SOURCES:
        raise InputError("pose source", f"unknown {name!r}", f"Known: {sorted(SOURCES)}")
    return SOURCES[name]


POSE_BACKENDS: Final = ("features", "colmap", "poses", "spatialvid")


def pose_backend_finder(source: str, root: str | os.PathLike[str] = ""
                        ) -> Callable[[str], PoseBackend]:
    """A video's name → its source of poses.

    ``poses`` reads ``<root>/<name>.npz``; ``spatialvid`` the folder ``<root>/<name>`` or
    ``<root>/<group>/<name>``. Raises InputError on unknown sources; so does the result where a
    video has no files.
    """
    if source not in POSE_BACKENDS:
        raise InputError("config.poses", f"unknown value {source!r}",
                         f"Choose among {POSE_BACKENDS}")
    if source in SOURCES:
        return lambda _: open_named(source)
    folder = Path(root)
    if not str(root) or not folder.is_dir():
        raise InputError("config.poses_root", f"no such folder: {str(root)!r}",
                         f"Give the folder of the {source} files")

    def find(name: str) -> PoseBackend:
        if source == "poses":
            file = folder / f"{name}.npz"
            if not file.is_file():
                raise InputError(file, "no such file", "Give an npz of poses for every video")
            return GivenPoses(file)
        for place in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if (place / "poses.npy").is_file():
                return SpatialVidPoses(place)
        raise InputError(folder, f"no annotation of {name!r} here",
                         f"Give {name}/poses.npy or GROUP/{name}/poses.npy")

    return find
