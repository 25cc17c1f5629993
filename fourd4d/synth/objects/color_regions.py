"""Finds whole objects behind the edges with motion evidence.

Before a moving camera, a smooth object has motion evidence at its edges only, often on one side:
its inside fits any depth. A region of one colour with such evidence along enough of its outline is
taken to be the object.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_LIKE: Final = 26, 9, 9  # Maximum difference from a seed's colour, 8-bit Lab.
_SEEDS: Final = 12  # Pixels around a piece of evidence from which a colour is filled.
_PIECES: Final = 8  # Largest pieces of evidence that are used.


def find_color_regions(frame: UInt8[np.ndarray, "H W 3"], evidence: Float[np.ndarray, "H W"],
                       smallest: float, largest: float, border: float = 0.25
                       ) -> list[Bool[np.ndarray, "H W"]]:
    """Return regions of one colour with motion evidence along their outline, the most first.

    Args:
      evidence: above 1 where something moves by itself.
      smallest, largest: area, shares of the frame.
      border: minimum share of the outline with evidence.
    """
    strong = above(evidence, 1.0)
    five, nine = np.ones((5, 5), np.uint8), np.ones((9, 9), np.uint8)
    near = cv2.dilate(strong, five) > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(strong, cv2.MORPH_CLOSE, five))
    soft = cv2.medianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2LAB), 5)
    tried = np.zeros(evidence.shape, bool)
    out = []
    for label in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:_PIECES]:
        if stats[label, cv2.CC_STAT_AREA] < 12:
            break
        around = cv2.dilate((labels == label).astype(np.uint8), nine) > 0
        ys, xs = np.nonzero(around & (evidence < 0.5))
        if not len(ys):
            continue
        order = np.argsort(np.arctan2(ys - ys.mean(), xs - xs.mean()))
        for i in order[np.linspace(0, len(order) - 1, _SEEDS).astype(int)]:
            if tried[ys[i], xs[i]]:
                continue
            similar = _flood(soft, int(xs[i]), int(ys[i]))
            tried |= similar
            region = _largest_piece(similar)
            if not smallest <= region.mean() <= largest:
                continue
            outside = (cv2.dilate(region, five) > 0) & (region == 0)
            share = float(near[outside].mean()) if outside.any() else 0.0
            if share >= border:
                out.append((share, region > 0))
    return [region for _, region in sorted(out, key=lambda item: -item[0])]


def above(evidence: Float[np.ndarray, "H W"], level: float) -> UInt8[np.ndarray, "H W"]:
    """Return 1 where evidence exceeds a level over at least two by two pixels, else 0."""
    return cv2.morphologyEx((evidence > level).astype(np.uint8), cv2.MORPH_OPEN,
                            np.ones((2, 2), np.uint8))


def _flood(soft: np.ndarray, x: int, y: int) -> np.ndarray:
    """Return the pixels connected to a seed whose colours are like the seed's, (H, W)."""
    mask = np.zeros((soft.shape[0] + 2, soft.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(soft, mask, (x, y), 0, _LIKE, _LIKE, flags)
    return mask[1:-1, 1:-1] > 0


def _largest_piece(similar: np.ndarray) -> np.ndarray:
    """Return the largest piece without holes and hairs, (H, W) of 0 and 1."""
    thick = cv2.morphologyEx(similar.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(thick, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    out = np.zeros(similar.shape, np.uint8)
    if contours:
        cv2.drawContours(out, [max(contours, key=cv2.contourArea)], -1, 1, -1)
    return out
