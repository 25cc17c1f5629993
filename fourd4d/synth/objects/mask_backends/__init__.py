"""Mask backends by name, for one video after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth.objects.mask_backends import files
from fourd4d.synth.objects.mask_backends.base import MaskBackend
from fourd4d.synth.objects.mask_backends.motion import MOTION
from fourd4d.synth.objects.mask_backends.sam import Sam2Masks, Sam3Masks

MASK_BACKENDS: Final = ("motion", "sam2", "sam3", "given")


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Where masks come from.

    Attributes:
      source: one of ``MASK_BACKENDS``.
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
        need = {"sam2": "model", "sam3": "model", "given": "root"}.get(self.source)
        if self.source not in MASK_BACKENDS:
            raise InputError("masks.source", f"unknown value {self.source!r}",
                             f"Choose among {MASK_BACKENDS}")
        if need and not getattr(self, need):
            raise InputError(f"masks.{need}", f"nothing given for {self.source!r}",
                             f"Give a directory, --config.masks.{need}=DIR")


def mask_backend_finder(spec: MaskSpec) -> Callable[[str], MaskBackend]:
    """A video's name → its source of masks. A model is loaded once, at its first use.

    The result raises InputError where a video has no masks.
    """
    if spec.source == "given":
        return lambda name: files.find_given(spec.root, name, spec.fps).source()
    if spec.source == "sam2":
        one = Sam2Masks(spec.model, device=spec.device, dtype=spec.dtype).source()
    elif spec.source == "sam3":
        one = Sam3Masks(spec.model, tuple(spec.prompts), device=spec.device, dtype=spec.dtype
                        ).source()
    else:
        one = MOTION
    return lambda _: one
