"""Sources of poses and masks by name, for one video after another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth import masks, poses, video
from fourd4d.synth.clip import Clip
from fourd4d.synth.masks import MaskSource
from fourd4d.synth.poses import PoseSource
from fourd4d.synth.sam import Sam2Masks, Sam3Masks
from fourd4d.synth.video import DigestSpec

POSES: Final = ("features", "colmap", "poses", "spatialvid")
MASKS: Final = ("motion", "sam2", "sam3", "given")


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Where masks come from.

    Attributes:
      source: one of ``MASKS``.
      root: of ``given`` masks; see ``masks.find_given``.
      fps: frames a second that numbered mask images count.
      model: directory of a SAM checkpoint.
      prompts: words for SAM 3.
      device, dtype: where and how SAM runs.
    """

    source: str = "motion"
    root: str = ""
    fps: float = 0.0
    model: str = ""
    prompts: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        need = {"sam2": "model", "sam3": "model", "given": "root"}.get(self.source)
        if self.source not in MASKS:
            raise InputError("masks.source", f"unknown value {self.source!r}",
                             f"Choose among {MASKS}")
        if need and not getattr(self, need):
            raise InputError(f"masks.{need}", f"nothing given for {self.source!r}",
                             f"Give a directory, --config.masks.{need}=DIR")


def mask_sources(spec: MaskSpec) -> Callable[[str], MaskSource]:
    """A video's name → its source of masks. A model is loaded once, at its first use.

    The result raises InputError where a video has no masks.
    """
    if spec.source == "given":
        return lambda name: masks.find_given(spec.root, name, spec.fps).source()
    if spec.source == "sam2":
        one = Sam2Masks(spec.model, device=spec.device, dtype=spec.dtype).source()
    elif spec.source == "sam3":
        one = Sam3Masks(spec.model, tuple(spec.prompts), device=spec.device, dtype=spec.dtype
                        ).source()
    else:
        one = masks.MOTION
    return lambda _: one


def pose_sources(source: str, root: str | os.PathLike[str] = "") -> Callable[[str], PoseSource]:
    """A video's name → its source of poses.

    ``poses`` reads ``<root>/<name>.npz``; ``spatialvid`` the folder ``<root>/<name>`` or
    ``<root>/<group>/<name>``. Raises InputError on unknown sources; so does the result where a
    video has no files.
    """
    if source not in POSES:
        raise InputError("config.poses", f"unknown value {source!r}", f"Choose among {POSES}")
    if source in poses.SOURCES:
        return lambda _: poses.named(source)
    folder = Path(root)
    if not str(root) or not folder.is_dir():
        raise InputError("config.poses_root", f"no such folder: {str(root)!r}",
                         f"Give the folder of the {source} files")

    def find(name: str) -> PoseSource:
        if source == "poses":
            file = folder / f"{name}.npz"
            if not file.is_file():
                raise InputError(file, "no such file", "Give an npz of poses for every video")
            return poses.GivenPoses(file)
        for place in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if (place / "poses.npy").is_file():
                return poses.SpatialVidPoses(place)
        raise InputError(folder, f"no annotation of {name!r} here",
                         f"Give {name}/poses.npy or GROUP/{name}/poses.npy")

    return find


def clips(path: str | os.PathLike[str], name: str, spec: DigestSpec,
          pose_of: Callable[[str], PoseSource], mask_of: Callable[[str], MaskSource]
          ) -> Iterator[Clip]:
    """The clips of a file, with the sources of that video. Raises InputError as they do."""
    spec = dataclasses.replace(spec, poses=pose_of(name), masks=mask_of(name))
    return video.iterate(path, spec, name)
