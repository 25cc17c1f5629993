"""Whole things behind the edges that show their motion.

A smooth thing under a moving camera shows that it moves at its edges alone, often on one side: its
inside looks the same wherever it is put. What is of one colour and has such an edge along enough of
its border is taken to be the thing.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_LIKE: Final = 26, 9, 9  # How far lightness and the two hues may be from a seed's, 8-bit Lab.
_SEEDS: Final = 12  # Places around a piece of evidence from which a colour is followed.
_PIECES: Final = 8  # Largest pieces of evidence looked at.


def find_color_regions(frame: UInt8[np.ndarray, "H W 3"], evidence: Float[np.ndarray, "H W"],
                       smallest: float, largest: float, border: float = 0.25
                       ) -> list[Bool[np.ndarray, "H W"]]:
    """Regions of one colour with evidence of motion along a share ``border`` of their outline, the
    most so first.

    Args:
      evidence: above 1 where something moves by itself.
      smallest, largest: area, shares of the frame.
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
        turn = np.argsort(np.arctan2(ys - ys.mean(), xs - xs.mean()))
        for i in turn[np.linspace(0, len(turn) - 1, _SEEDS).astype(int)]:
            if tried[ys[i], xs[i]]:
                continue
            alike = _flood(soft, int(xs[i]), int(ys[i]))
            tried |= alike
            body = _largest_piece(alike)
            if not smallest <= body.mean() <= largest:
                continue
            outside = (cv2.dilate(body, five) > 0) & (body == 0)
            share = float(near[outside].mean()) if outside.any() else 0.0
            if share >= border:
                out.append((share, body > 0))
    return [body for _, body in sorted(out, key=lambda item: -item[0])]


def above(evidence: Float[np.ndarray, "H W"], level: float) -> UInt8[np.ndarray, "H W"]:
    """1 where evidence exceeds a level over two pixels by two at least, else 0."""
    return cv2.morphologyEx((evidence > level).astype(np.uint8), cv2.MORPH_OPEN,
                            np.ones((2, 2), np.uint8))


def _flood(soft: np.ndarray, x: int, y: int) -> np.ndarray:
    """What hangs together with a pixel and looks like it."""
    mask = np.zeros((soft.shape[0] + 2, soft.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(soft, mask, (x, y), 0, _LIKE, _LIKE, flags)
    return mask[1:-1, 1:-1] > 0


def _largest_piece(alike: np.ndarray) -> np.ndarray:
    """Without its holes and hairs."""
    thick = cv2.morphologyEx(alike.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(thick, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    out = np.zeros(alike.shape, np.uint8)
    if contours:
        cv2.drawContours(out, [max(contours, key=cv2.contourArea)], -1, 1, -1)
    return out
