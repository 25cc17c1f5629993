"""Draws overlays: a frame with one object tinted red and outlined."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fourd4d.core.errors import InputError

RED = np.array([255, 0, 0], np.float32)


def overlay(
    frame: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "rows columns"], alpha: float = 0.4
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the frame with the mask tinted red (share ``alpha``) and its contour drawn red.

    The contour is one pixel wide, plus one for every 360 rows of the frame.
    """
    if mask.shape != frame.shape[:2]:
        raise InputError("overlay", f"mask {mask.shape} on frame {frame.shape[:2]}",
                         "Resize the mask to the frame")
    out = frame.copy()
    out[mask] = np.round(frame[mask] * (1 - alpha) + RED * alpha).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL,
                                   cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, (255, 0, 0), 1 + frame.shape[0] // 360)
    return out
