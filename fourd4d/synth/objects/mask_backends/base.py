"""Types that a mask backend takes and returns."""

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
    """What a mask backend is given: M keyframes of one shot.

    Attributes:
      times: seconds from the start of the video.
      chosen: indices of the keyframes among the frames that ``motion`` was estimated from.
      evidence: motion evidence; above 1 where something moves by itself.
      background: median over the other frames, as seen from each keyframe.
      whole: height and width of the file's frames at this scale, black bars included; None where
        they are these frames' own.
      window: which part of them these frames are.
    """

    frames: UInt8[np.ndarray, "M H W 3"]
    times: Float[np.ndarray, "M"]
    chosen: Int[np.ndarray, "M"]
    motion: CameraMotion
    evidence: Float[np.ndarray, "M H W"]
    background: UInt8[np.ndarray, "M H W 3"]
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
    """One object in M keyframes.

    Attributes:
      masks: False throughout a frame in which it is not found.
      name: as a person would call it; empty where the backend knows none.
      role: ``dynamic`` or ``static`` where the backend knows; else ``role_of`` decides.
    """

    masks: Bool[np.ndarray, "M H W"]
    name: str = ""
    role: Literal["dynamic", "static", ""] = ""


@dataclasses.dataclass(frozen=True)
class MaskBackend:
    """A named source of masks: its name in provenance, and the function that finds masks."""

    name: str
    find: Callable[[MaskRequest], Sequence[ObjectMask]]
