"""Links regions of single frames into tracks: constant velocity, best links first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, Int

from fourd4d.synth.camera.motion import CameraMotion


def predict_centre(
    centres: Mapping[int, Float[np.ndarray, "2"]],
    now: int,
    times: Float[np.ndarray, "M"],
    chosen: Int[np.ndarray, "M"],
    motion: CameraMotion,
) -> Float[np.ndarray, "2"]:
    """Return where an object's centre is expected in keyframe ``now``, pixels (x, y).

    The last centre is moved by the camera's motion, and on by the object's own velocity between
    its last two centres, for at most twice the time between these.

    Args:
      centres: of the object, by keyframe, all before ``now``.
      times: of the keyframes, seconds.
      chosen: their indices among the frames that ``motion`` was estimated from.
    """
    last = max(centres)
    expected = _moved(centres[last], last, now, chosen, motion)
    earlier = [m for m in centres if m < last]
    if earlier:
        before = max(earlier)
        at_rest = _moved(centres[before], before, last, chosen, motion)
        ratio = (times[now] - times[last]) / (times[last] - times[before])
        expected = expected + np.clip(ratio, 0, 2) * (centres[last] - at_rest)
    return expected


def _moved(centre: np.ndarray, source: int, target: int, chosen: np.ndarray,
           motion: CameraMotion) -> np.ndarray:
    """Return where a static point at the scene's typical depth is in another keyframe."""
    return motion.place(int(chosen[source]), int(chosen[target]), centre,
                        1 / motion.depth(int(chosen[source])))


def match_greedily(candidates: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pairs (track, region), given best first, of which neither was taken before."""
    tracks: set[int] = set()
    regions: set[int] = set()
    pairs = []
    for track, region in candidates:
        if track not in tracks and region not in regions:
            tracks.add(track)
            regions.add(region)
            pairs.append((track, region))
    return pairs
