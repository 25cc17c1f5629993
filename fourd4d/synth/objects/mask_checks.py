"""Drops masks that break one of a strict set of rules, each with its reason.

A mask is dropped from its frame when it breaks a rule there; a track is dropped when too little of
it is left. Nothing is repaired.
"""

from __future__ import annotations

import collections
import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourd4d.synth.objects import mask_motion


@dataclasses.dataclass(frozen=True)
class MaskCheckSpec:
    """Thresholds of the rules.

    Attributes:
      smallest, largest: area, shares of the frame.
      growth: maximum ratio of areas of neighbouring masks half a second apart.
      usual: maximum ratio of an area to the median of its neighbours in time.
      jump: maximum step between neighbours, in sides of the object (root of its area).
      alike: minimum Bhattacharyya coefficient of the colours with the whole track's.
      pieces: minimum share of a mask in its largest connected piece.
      thick: minimum radius of a disc that fits into a mask, in sides of the object; a sliver
        along an edge in the image is thinner.
      carried: minimum IoU of a mask with the one before it, warped by the flow.
      lost: seconds without a mask after which it may be another object.
      share: minimum share of the frames from a track's first to its last that keep their masks.
      seconds: minimum time from the first to the last.
    """

    smallest: float = 0.0012
    largest: float = 0.5
    growth: float = 2.2
    usual: float = 1.8
    jump: float = 2.5
    alike: float = 0.35
    pieces: float = 0.7
    thick: float = 0.15
    carried: float = 0.4
    lost: float = 0.45
    share: float = 0.5
    seconds: float = 0.6


def check(
    frames: UInt8[np.ndarray, "T H W 3"],
    times: Float[np.ndarray, "T"],
    masks: Bool[np.ndarray, "T H W"],
    spec: MaskCheckSpec | None = None,
    flow: Float[np.ndarray, "T-1 H W 2"] | None = None,
) -> tuple[Bool[np.ndarray, "T"], dict[str, int]]:
    """Return which masks keep all rules, and the number of masks by the rule that they break.

    All False, with the reason ``seen too briefly``, where too little of the track is left.

    Args:
      times: seconds.
      flow: ``mask_motion.backward_flow`` of the frames, pixels; without it, ``carried`` is not
        checked.
    """
    spec = spec or MaskCheckSpec()
    reasons: collections.Counter[str] = collections.Counter()
    area = masks.mean((1, 2))
    good = area > 0
    track_colours = _colour_histogram(frames, masks)
    for t in np.flatnonzero(good):
        reason = _broken_rule(frames[t], masks[t], float(area[t]), track_colours, spec)
        if reason:
            good[t] = False
            reasons[reason] += 1
    for t, reason in _outliers(times, masks, area, good, spec):
        good[t] = False
        reasons[reason] += 1
    if flow is not None:
        lost = _off_flow(times, masks, good, flow, spec)
        good[lost] = False
        if lost:
            reasons["not carried by the picture's motion"] += len(lost)
    seen = np.flatnonzero(good)
    brief = len(seen) < 2 or times[seen[-1]] - times[seen[0]] < spec.seconds
    if brief or len(seen) < spec.share * (np.ptp(seen) + 1):
        reasons["seen too briefly"] += int(good.sum())
        good[:] = False
    return good, dict(reasons)


def _off_flow(times: np.ndarray, masks: np.ndarray, good: np.ndarray, flow: np.ndarray,
               spec: MaskCheckSpec) -> list[int]:
    """Return the frames outside the longest run of masks that the flow warps onto the next."""
    seen = np.flatnonzero(good)
    overlap = mask_motion.warped_iou(masks & good[:, None, None], flow)
    broken = [b == a + 1 and overlap[a] < spec.carried or times[b] - times[a] > spec.lost
              for a, b in zip(seen, seen[1:])]
    runs = np.split(seen, np.flatnonzero(broken) + 1)
    longest = max(runs, key=len)
    return [int(t) for t in seen if t not in longest]


def _broken_rule(frame: np.ndarray, mask: np.ndarray, area: float, track_colours: np.ndarray,
           spec: MaskCheckSpec) -> str:
    """Return the rule that a mask breaks by itself, or ''."""
    if area < spec.smallest:
        return "too small"
    if area > spec.largest:
        return "too large"
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if stats[1:, cv2.CC_STAT_AREA].max() < spec.pieces * mask.sum():
        return "in pieces"
    inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    if inner.max() < spec.thick * np.sqrt(mask.sum()):
        return "too thin"
    own = _colour_histogram(frame[None], mask[None])
    if float(np.sqrt(own * track_colours).sum()) < spec.alike:
        return "other colours"
    return ""


def _outliers(times: np.ndarray, masks: np.ndarray, area: np.ndarray, good: np.ndarray,
           spec: MaskCheckSpec) -> list[tuple[int, str]]:
    """Return masks that do not fit their neighbours in time: frame and reason."""
    seen = np.flatnonzero(good)
    if len(seen) < 3:
        return []
    centre = mask_motion.centres(masks)[seen]
    side = np.sqrt(area[seen] * masks[0].size)
    out: dict[int, str] = {}
    for i, t in enumerate(seen):
        near = [j for j in range(max(i - 2, 0), min(i + 3, len(seen))) if j != i]
        middle = float(np.median(area[seen[near]]))
        gap = max(1.0, float(np.abs(times[seen[near]] - times[t]).min()) / 0.5)
        if not 1 / (spec.usual * gap) < area[t] / middle < spec.usual * gap:
            out[int(t)] = "size out of line"
        elif 0 < i < len(seen) - 1:
            # A single mask elsewhere: both its neighbours are far, though near each other.
            steps = [np.linalg.norm(centre[i] - centre[j]) for j in (i - 1, i + 1)]
            across = np.linalg.norm(centre[i + 1] - centre[i - 1])
            if min(steps) > max(0.8 * across, 1.0 * side[i]):
                out[int(t)] = "jumps away and back"
    kept = [i for i, t in enumerate(seen) if int(t) not in out]
    for a, b in zip(kept, kept[1:]):
        gap = max(1.0, float(times[seen[b]] - times[seen[a]]) / 0.5)
        ratio = max(area[seen[b]] / area[seen[a]], area[seen[a]] / area[seen[b]])
        step = np.linalg.norm(centre[b] - centre[a]) / max(side[a], side[b])
        if ratio > spec.growth**gap or step > spec.jump * gap:
            # What follows is another object: keep the longer part.
            cut = [int(t) for t in (seen[: a + 1] if 2 * (a + 1) < len(seen) else seen[b:])]
            out.update({t: "another thing" for t in cut if t not in out})
    return sorted(out.items())


def _colour_histogram(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the histogram of colours inside the masks, normalised."""
    count = np.zeros(6 * 6 * 6)
    for frame, mask in zip(frames, masks):
        codes = (frame[mask].astype(int) * 6 // 256) @ np.array([36, 6, 1])
        count += np.bincount(codes, minlength=len(count))
    soft = cv2.GaussianBlur(count.reshape(36, 6), (3, 1), 0).ravel()
    return soft / max(soft.sum(), 1.0)
