"""The table of mask backends: where the masks of a video's objects come from.

To add one: write a module beside this file with a function from a ``base.MaskRequest`` to a list of
``base.ObjectMask``, wrapped in a ``base.MaskBackend`` whose name goes into provenance, and put one
line into the table below: its name, and how it is opened by a ``MaskSpec``.
``--config.masks.source=NAME`` then chooses it. What a backend finds is held to be moving or fixed
by one rule, ``classify.role_of``, and each mask to the rules of ``mask_checks``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth.objects.mask_backends import files
from fourd4d.synth.objects.mask_backends.base import MaskBackend
from fourd4d.synth.objects.mask_backends.motion import MOTION
from fourd4d.synth.objects.mask_backends.sam import Sam2Masks, Sam3Masks


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Where masks come from.

    Attributes:
      source: a name of ``MASK_BACKENDS``.
      root: of ``given`` masks; see ``files.find_given``.
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
        if self.source not in MASK_BACKENDS:
            raise InputError("masks.source", f"unknown value {self.source!r}",
                             f"Choose among {tuple(MASK_BACKENDS)}")
        need = MASK_BACKENDS[self.source].needs
        if need and not getattr(self, need):
            raise InputError(f"masks.{need}", f"nothing given for {self.source!r}",
                             f"Give a directory, --config.masks.{need}=DIR")


@dataclasses.dataclass(frozen=True)
class MaskBackendEntry:
    """A line of the table.

    Attributes:
      open: a function from a video's name to its backend, by a spec. Called once a run, so a model
        is loaded once. What it returns raises InputError where a video has no masks.
      needs: the field of ``MaskSpec`` that must be given.
    """

    open: Callable[[MaskSpec], Callable[[str], MaskBackend]]
    needs: str = ""


def _open_sam2(spec: MaskSpec) -> Callable[[str], MaskBackend]:
    backend = Sam2Masks(spec.model, device=spec.device, dtype=spec.dtype).source()
    return lambda _: backend


def _open_sam3(spec: MaskSpec) -> Callable[[str], MaskBackend]:
    backend = Sam3Masks(spec.model, tuple(spec.prompts), device=spec.device, dtype=spec.dtype
                        ).source()
    return lambda _: backend


def _open_given(spec: MaskSpec) -> Callable[[str], MaskBackend]:
    return lambda name: files.find_given(spec.root, name, spec.fps).source()


MASK_BACKENDS: Final[dict[str, MaskBackendEntry]] = {
    "motion": MaskBackendEntry(lambda spec: lambda name: MOTION),
    "sam2": MaskBackendEntry(_open_sam2, needs="model"),
    "sam3": MaskBackendEntry(_open_sam3, needs="model"),
    "given": MaskBackendEntry(_open_given, needs="root"),
}


def mask_backend_finder(spec: MaskSpec) -> Callable[[str], MaskBackend]:
    """Return a function from a video's name to its mask backend.

    The function raises InputError where a video has no masks.
    """
    return MASK_BACKENDS[spec.source].open(spec)
