"""What a mask backend is given and returns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.objects import mask_motion
from fourd4d.synth.objects.motion_segmentation import MotionSegmentationSpec
from fourd4d.synth.video.letterbox import WHOLE, Window


@dataclasses.dataclass(frozen=True)
class MaskRequest:
    """What a source of masks gets to see: M frames of one shot.

    Attributes:
      times: seconds from the start of the video.
      chosen: numbers of the frames among those that ``motion`` was estimated from.
      evidence: above 1 where something moves by itself.
      usual: what most other frames show in each pixel's place.
      whole: height and width of the file's frames at this scale, black bars included; None where
        they are these frames' own.
      window: which part of them these frames are.
    """

    frames: UInt8[np.ndarray, "M H W 3"]
    times: Float[np.ndarray, "M"]
    chosen: Int[np.ndarray, "M"]
    motion: CameraMotion
    evidence: Float[np.ndarray, "M H W"]
    usual: UInt8[np.ndarray, "M H W 3"]
    spec: MotionSegmentationSpec = MotionSegmentationSpec()
    whole: tuple[int, int] | None = None
    window: Window = WHOLE

    @functools.cached_property
    def flow(self) -> Float[np.ndarray, "L H W 2"]:
        """``mask_motion.backward_flow`` of the frames."""
        return mask_motion.backward_flow(
            np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames]))


@dataclasses.dataclass(frozen=True)
class ObjectMask:
    """One thing.

    Attributes:
      masks: False throughout a frame in which it is not found.
      name: as a person would call it; empty where the source knows none.
      role: ``dynamic`` or ``static`` where the source knows; else it is told by ``role_of``.
    """

    masks: Bool[np.ndarray, "M H W"]
    name: str = ""
    role: Literal["dynamic", "static", ""] = ""


@dataclasses.dataclass(frozen=True)
class MaskBackend:
    """A named source: what it is called in provenance, and how to ask it."""

    name: str
    find: Callable[[MaskRequest], Sequence[ObjectMask]]
