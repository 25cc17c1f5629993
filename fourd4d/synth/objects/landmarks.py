"""Finds one landmark of the static scene: a region that stands out and stays in view."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from fourd4d.synth.camera.motion import CameraMotion, inverse_depth_map

_MIN_AREA, _MAX_AREA = 0.004, 0.09  # Shares of the frame.
_MIN_VISIBLE_SHARE = 0.6  # Of a region, in a frame in which it counts.
_DISC_RADII = 0.07, 0.045  # Shares of the diagonal.


def find_landmark(
    frames: UInt8[np.ndarray, "M H W 3"],
    chosen: Int[np.ndarray, "M"],
    motion: CameraMotion,
    moving: Bool[np.ndarray, "M H W"],
) -> Bool[np.ndarray, "M H W"] | None:
    """Return the masks of the best landmark; None where nothing qualifies.

    Regions of one colour are proposed in three frames and warped to the others by the camera's
    motion, at the depth of the static points around them. The best in contrast, shape and time in
    view is taken; without one, a disc around well-tracked points.

    Args:
      chosen: indices of the frames among those that ``motion`` was estimated from.
      moving: what moves by itself, in each frame.
    """
    best, best_score = None, 0.0
    count = len(frames)
    keyframes = list(dict.fromkeys((count // 2, count // 5, (4 * count) // 5)))
    depths = {m: inverse_depth_map(motion, int(chosen[m])) for m in keyframes}
    for m in sorted(keyframes):
        regions = _regions(frames[m], moving[m], motion, int(chosen[m]))
        for merit, contour in regions[:6]:
            masks = _warp_region(contour, m, chosen, motion, depths[m], moving)
            same = _has_same_colour(frames, masks, m)
            masks[~same] = False
            score = merit * float(masks.any((1, 2)).mean()) ** 2
            if score > best_score and masks.any((1, 2)).mean() >= 0.5:
                best, best_score = masks, score
    if best is None:
        for m, size in itertools.product(keyframes, _DISC_RADII):
            contour = _disc(size, moving[m], motion, int(chosen[m]))
            if contour is not None:
                masks = _warp_region(contour, m, chosen, motion, depths[m], moving)
                score = float(masks.any((1, 2)).mean())
                if score >= max(0.5, best_score + 1e-6):
                    best, best_score = masks, score
    return best


def _regions(frame: np.ndarray, moving: np.ndarray, motion: CameraMotion, t: int
             ) -> list[tuple[float, np.ndarray]]:
    """Return contours of regions of one colour with their merit, the best first."""
    height, width = moving.shape
    flat = cv2.pyrMeanShiftFiltering(frame, 7, 18, maxLevel=1)
    lab = cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).astype(np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 12, 1.0)
    sample = lab[::2, ::2].reshape(-1, 3)
    _, _, palette = cv2.kmeans(sample, 9, None, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore
    label = ((lab[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    side = max(3, round(0.04 * np.hypot(height, width)))
    avoid = cv2.dilate(moving.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    points = motion.tracks.xy[motion.static & motion.tracks.seen[:, t], t]
    out = []
    for k in range(len(palette)):
        layer = cv2.morphologyEx((label == k).astype(np.uint8), cv2.MORPH_OPEN,
                                 np.ones((3, 3), np.uint8))
        contours, _ = cv2.findContours(layer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            area = cv2.contourArea(contour) / (height * width)
            x, y, w, h = cv2.boundingRect(contour)
            edge = x <= 1 or y <= 1 or x + w >= width - 1 or y + h >= height - 1
            if edge or not _MIN_AREA <= area <= _MAX_AREA:
                continue
            solid = cv2.contourArea(contour) / cv2.contourArea(cv2.convexHull(contour))
            mask = np.zeros((height, width), np.uint8)
            cv2.drawContours(mask, [contour], -1, 1, -1)
            if solid < 0.75 or (avoid & (mask > 0)).any():
                continue
            ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - cv2.dilate(
                mask, np.ones((3, 3), np.uint8))
            contrast = float(np.linalg.norm(lab[mask > 0].mean(0) - lab[ring > 0].mean(0)))
            wide = cv2.dilate(mask, np.ones((11, 11), np.uint8)) > 0
            inside = wide[np.clip(points[:, 1].round().astype(int), 0, height - 1),
                          np.clip(points[:, 0].round().astype(int), 0, width - 1)].sum()
            if contrast < 14 or inside < 2:
                continue
            out.append((contrast * area**0.25 * solid**2 * min(int(inside), 6) ** 0.5, contour))
    return sorted(out, key=lambda item: -item[0])


def _disc(size: float, moving: np.ndarray, motion: CameraMotion, t: int) -> np.ndarray | None:
    """Return a disc around the static point with most long-lived static points near it.

    None where there are too few. ``size`` is its radius, a share of the diagonal.
    """
    height, width = moving.shape
    radius = size * float(np.hypot(height, width))
    far = cv2.distanceTransform((~moving).astype(np.uint8), cv2.DIST_L2, 5)
    alive = motion.static & motion.tracks.seen[:, t]
    xy = motion.tracks.xy[alive, t]
    life = motion.tracks.seen[alive].sum(1) / motion.tracks.xy.shape[1]
    room = np.min([xy[:, 0], width - 1 - xy[:, 0], xy[:, 1], height - 1 - xy[:, 1]], axis=0)
    good = (room > radius) & (far[xy[:, 1].astype(int), xy[:, 0].astype(int)] > radius)
    if good.sum() < 3:
        return None
    near = np.linalg.norm(xy[good, None] - xy[None], axis=-1) < radius
    centre = xy[good][int((near * life).sum(1).argmax())]
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return circle.round().astype(np.int32)[:, None]


def _warp_region(contour: np.ndarray, m: int, chosen: np.ndarray, motion: CameraMotion,
           depth: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Warp a region to every frame; empty where too much of it is out of view or hidden."""
    height, width = depth.shape
    outline = contour[:, 0].astype(np.float64)
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, -1)
    inverse = float(np.median(depth[inside > 0]))
    masks = np.zeros((len(chosen), height, width), bool)
    for n, t in enumerate(chosen):
        there = motion.place(int(chosen[m]), int(t), outline, inverse).astype(np.float32)
        total = cv2.contourArea(there)
        if not 4 < total < 0.3 * height * width:
            continue
        mask = np.zeros((height, width), np.uint8)
        cv2.drawContours(mask, [there.round().astype(np.int32)[:, None]], -1, 1, -1)
        seen = (mask > 0) & ~moving[n]
        if seen.sum() >= _MIN_VISIBLE_SHARE * total:
            masks[n] = seen
    return masks


def _has_same_colour(frames: np.ndarray, masks: np.ndarray, m: int) -> np.ndarray:
    """Return in which frames the region has the colour that it has in frame ``m``, (M,)."""
    means = np.array([cv2.cvtColor(f[mask][None], cv2.COLOR_RGB2LAB)[0].mean(0) if mask.any()
                      else np.full(3, np.inf) for f, mask in zip(frames, masks)])
    return np.linalg.norm(means - means[m], axis=1) < 18
