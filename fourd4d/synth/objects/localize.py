"""Where an object is: boxes, centres and depths from its masks."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.synth.camera.motion import CameraMotion, inverse_depth_map
from fourd4d.synth.camera.pose_backends.base import CameraPath
from fourd4d.synth.objects import mask_motion
from fourd4d.synth.objects.mask_backends.base import MaskRequest


def enlarge(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a mask at another size: a pixel is in where more than half of it is."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask.astype(np.float32), (width, height)) > 0.5


def boxes(masks: np.ndarray) -> np.ndarray:
    """Return boxes around masks, fractions of the frame; NaN where there is none."""
    count, height, width = masks.shape
    out = np.full((count, 4), np.nan, np.float32)
    for i, mask in enumerate(masks):
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(xs):
            out[i] = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return out


@dataclasses.dataclass(frozen=True)
class ObjectPath:
    """Where a moving object is in K keyframes, and how far off that may be.

    Lengths are in the unit of the camera path's poses; NaN where it is not seen.

    Attributes:
      centers: in the axes of the first frame's camera.
      depth: from the camera plane.
      error: how far the true centre may be from ``centers``.
      depth_error: shares by which each depth may be off, by two ways to tell.
      depth_within: factor that all depths may be wrong by, either way.
    """

    centers: Float[np.ndarray, "K 3"]
    depth: Float[np.ndarray, "K"]
    error: Float[np.ndarray, "K"]
    depth_error: Float[np.ndarray, "2 K"]
    depth_within: float


def localize(request: MaskRequest, masks: Bool[np.ndarray, "M H W"],
             flow: Float[np.ndarray, "M-1 H W 2"], path: CameraPath,
             keyframes: Int[np.ndarray, "K"], depth_within: float) -> ObjectPath:
    """Return where a moving object is in some keyframes.

    Args:
      flow: the object's own, see ``mask_motion.object_flow``.
      keyframes: which of the M are asked for.
      depth_within: how well depths are known, see ``ObjectPath``.
    """
    motion = request.motion
    sizes, grown = mask_motion.sizes(masks)
    flicker, drift = mask_motion.split_flicker(mask_motion.drift(masks, flow))
    centres, depth = _centres(masks, sizes, flicker, request.chosen, motion, path)
    error = depth * np.linalg.norm(drift, axis=1) / motion.focal
    scale_errors = np.stack([mask_motion.scale_error(masks, flow, sizes), grown])
    return ObjectPath(centres[keyframes], depth[keyframes], error[keyframes],
                      scale_errors[:, keyframes], depth_within)


def _centres(masks: np.ndarray, sizes: np.ndarray, flicker: np.ndarray, chosen: np.ndarray,
             motion: CameraMotion, path: CameraPath
             ) -> tuple[np.ndarray, np.ndarray]:
    """Return centres in the first frame's axes and depths, in the poses' unit; NaN if not seen.

    The object is taken to be as far as the scene about it when first seen, and from then on
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
