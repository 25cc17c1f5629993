"""Classifies objects as moving or static."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool

from fourd4d.synth.camera.motion import inverse_depth_map
from fourd4d.synth.objects import mask_motion
from fourd4d.synth.objects.mask_backends.base import MaskRequest


def role_of(request: MaskRequest, masks: Bool[np.ndarray, "M H W"]
            ) -> Literal["dynamic", "static", ""]:
    """Return whether an object moves by itself; '' where that is unclear.

    It is ``dynamic`` where its displacement against the scene is ``spec.travel`` of the diagonal,
    or its size changes by ``spec.growth`` beyond what the camera's motion does to it. It is
    ``static`` where neither holds and less than a tenth of it has motion evidence.
    """
    seen = np.flatnonzero(masks.any((1, 2)))
    if len(seen) < 2:
        return ""
    whole = seen[~mask_motion.touches_border(masks[seen])]
    seen = whole if len(whole) >= 2 else seen
    first = int(seen[0])
    centre = mask_motion.centres(masks)[seen]
    ys, xs = np.nonzero(masks[first])
    depth = inverse_depth_map(request.motion, int(request.chosen[first]))
    inverse = float(np.median(depth[ys, xs]))
    corners = np.array([[xs.min(), ys.min()], [xs.max(), ys.min()], [xs.min(), ys.max()],
                        [xs.max(), ys.max()]], float)
    distances, growth = [], []
    for m, middle in zip(seen, centre):
        ends = int(request.chosen[first]), int(request.chosen[m])
        at_rest = request.motion.place(*ends, centre[0], inverse)
        there = request.motion.place(*ends, corners, inverse)
        scale = np.linalg.norm(np.ptp(there, 0)) / max(np.linalg.norm(np.ptp(corners, 0)), 1e-6)
        distances.append(float(np.linalg.norm(middle - at_rest)))
        growth.append(np.sqrt(masks[m].sum() / masks[first].sum()) / max(scale, 1e-3))
    diagonal = float(np.hypot(*masks.shape[1:]))
    moved = np.percentile(distances, 90) / diagonal >= request.spec.travel
    smooth = np.convolve(growth, np.ones(3) / 3, "valid") if len(growth) >= 3 else np.array(growth)
    if moved or smooth.max() / smooth.min() >= request.spec.growth:
        return "dynamic"
    own = float(np.mean([(request.evidence[m][masks[m]] > 1).mean() for m in seen]))
    return "static" if own < 0.1 else ""
