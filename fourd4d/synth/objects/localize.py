"""Where an object is: boxes, centres and depths from its masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fourd4d.synth.camera.motion import CameraMotion, inverse_depth_map
from fourd4d.synth.camera.pose_backends.base import CameraPath
from fourd4d.synth.objects import mask_motion


def enlarge(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask.astype(np.float32), (width, height)) > 0.5


def boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes around masks, fractions of the frame; NaN where there is none."""
    count, height, width = masks.shape
    out = np.full((count, 4), np.nan, np.float32)
    for i, mask in enumerate(masks):
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(xs):
            out[i] = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return out


def localize(masks: np.ndarray, flow: np.ndarray, chosen: np.ndarray,
             motion: CameraMotion, path: CameraPath, out: np.ndarray
             ) -> dict[str, Any]:
    """Where a moving thing is in the looks ``out``, and how far off that may be: fields of
    ``Track``. ``flow`` is its own, see ``mask_motion.object_flow``."""
    sizes, grown = mask_motion.sizes(masks)
    flicker, drift = mask_motion.split_flicker(mask_motion.drift(masks, flow))
    centres, depth = _centres(masks, sizes, flicker, chosen, motion, path)
    error = depth * np.linalg.norm(drift, axis=1) / motion.focal
    scale_errors = np.stack([mask_motion.scale_error(masks, flow, sizes), grown])
    return dict(centers=centres[out], depth=depth[out], error=error[out],
                depth_error=scale_errors[:, out])


def _centres(masks: np.ndarray, sizes: np.ndarray, flicker: np.ndarray, chosen: np.ndarray,
             motion: CameraMotion, path: CameraPath
             ) -> tuple[np.ndarray, np.ndarray]:
    """Centres in the first frame's axes and depths, in the poses' unit; NaN where not seen.

    The thing is taken to be as far as the scene about it when first seen, and from then on
    farther or nearer as its size says. ``flicker`` (M, 2), pixels, is taken off its masks' centres.
    """
    height, width = motion.size
    seen = np.flatnonzero(masks.any((1, 2)))
    centres, depth = np.full((len(masks), 3), np.nan), np.full(len(masks), np.nan)
    for m in seen:
        # Averaged over neighbours in time: a mask's edge flickers.
        near = seen[np.abs(seen - m) <= 1]
        depth[m] = 1 / np.exp(np.log(sizes[near]).mean())
    first = int(seen[0])
    ys, xs = np.nonzero(masks[first])
    if motion.kind == "moving":
        ground = inverse_depth_map(motion, int(chosen[first]))
        foot = min(int(ys.max()) + 2, height - 1)
        around = 1 / max(float(ground[foot, int(xs.mean())]), 0.05)
    else:
        around = 1.0
    if path.scene_depth is not None:  # From the features' scene depths to the poses' unit.
        around *= float(path.scene_depth[chosen[first]] / motion.scene_depth[chosen[first]])
    depth *= around / depth[first]
    start = np.linalg.inv(path.poses[0])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    places = mask_motion.centres(masks) - flicker
    for m in seen:
        ray = np.append((places[m] - middle) / motion.focal, 1.0)
        pose = start @ path.poses[chosen[m]]
        centres[m] = pose[:3, :3] @ (ray * depth[m]) + pose[:3, 3]
    return centres, depth
