"""Masks of what moves against the scene, cut out by its evidence and colours."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool

from fourd4d.synth.objects import mask_motion, motion_segmentation
from fourd4d.synth.objects.mask_backends.base import MaskBackend, MaskRequest, ObjectMask


def find_by_motion(request: MaskRequest) -> list[ObjectMask]:
    """Return the objects that move against the scene."""
    objects = motion_segmentation.find_moving(
        request.frames, request.times, request.chosen, request.evidence,
        background=request.background, flow=request.flow, motion=request.motion,
        spec=request.spec)
    return [ObjectMask(np.stack([without_limb(mask) for mask in one.masks]), role="dynamic")
            for one in objects]


def without_limb(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Remove the arm that holds an object into the frame.

    An arm joins the object to the border and is thin beside it. What is as thick at the border as
    elsewhere leaves the frame, and stays as it is.
    """
    if not mask_motion.touches_border(mask[None])[0]:
        return mask
    radius = max(2, round(0.2 * float(np.sqrt(mask.sum()))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thick)
    if len(stats) < 2:
        return mask
    core = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    # This restores corners, and the stump of the arm.
    near = cv2.dilate(core, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (radius | 1,) * 2)) > 0
    own = mask & near
    apart = not mask_motion.touches_border(own[None])[0]
    return own if apart and own.sum() >= 0.4 * mask.sum() else mask


MOTION: Final = MaskBackend("motion", find_by_motion)
"""What moves against the scene, cut out by its evidence and colours."""

def boxes_of(request: MaskRequest
             ) -> list[tuple[int, tuple[float, float, float, float], ObjectMask]]:
    """Return, for each moving object, its best frame and its box there, pixels (x0 y0 x1 y1).

    Boxes prompt segmentation models. The best frame has most motion evidence; an object that
    touches the border counts for less.
    """
    out = []
    for found in find_by_motion(request):
        merit = (found.masks & (request.evidence > 1)).sum((1, 2))
        best = int((merit * np.where(mask_motion.touches_border(found.masks), 0.2, 1.0)).argmax())
        ys, xs = np.nonzero(found.masks[best])
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        out.append((best, box, found))
    return out
