"""Points followed through a shot: corners, tracked by Lucas-Kanade and checked backwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


@dataclasses.dataclass(frozen=True)
class PointTracks:
    """Points of a shot, N of them in T frames.

    Attributes:
      xy: pixels, x right and y down, pixel centres at integers; NaN where not seen.
      first: frame in which each point was found; it is seen without a gap from there on.
    """

    xy: Float[np.ndarray, "N T 2"]
    first: Int[np.ndarray, "N"]

    @property
    def seen(self) -> Bool[np.ndarray, "N T"]:
        return np.isfinite(self.xy[..., 0])

    @property
    def last(self) -> Int[np.ndarray, "N"]:
        """Last frame in which each point is seen."""
        seen = self.seen
        return seen.shape[1] - 1 - seen[:, ::-1].argmax(1)

    def take(self, keep: np.ndarray) -> PointTracks:
        """The points chosen by an index or a mask."""
        return PointTracks(self.xy[keep], self.first[keep])


def track_points(
    grey: UInt8[np.ndarray, "T H W"], points: int = 240, spacing: float = 0.025,
    refill: float = 0.75, backward: float = 0.7,
) -> PointTracks:
    """Follows corners spread over the picture; lost ones are replaced.

    Args:
      grey: frames.
      points: how many are kept alive.
      spacing: least distance of a new point from others, share of the frame's diagonal.
      refill: share of ``points`` below which new ones are looked for; also done twice a second
        in cells of the picture that went empty.
      backward: largest forward-backward error, pixels.
    """
    count, height, width = grey.shape
    distance = max(3.0, spacing * float(np.hypot(height, width)))
    levels = max(2, int(np.log2(max(min(height, width), 32) / 16)))
    window: Any = dict(
        winSize=(15, 15), maxLevel=levels,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01))
    rows: list[np.ndarray] = []
    first: list[int] = []
    alive = np.zeros(0, int)
    for t in range(count):
        if t and len(alive):
            before = np.array([rows[i][t - 1] for i in alive], np.float32)
            # Steady motion is foretold, so repeating patterns are not matched a period off.
            guess = before + _foretold(rows, alive, first, t)
            after, ok, _ = cv2.calcOpticalFlowPyrLK(
                grey[t - 1], grey[t], before[:, None], guess[:, None].copy(),
                flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **window)
            back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
                grey[t], grey[t - 1], after, before[:, None] + after - guess[:, None],
                flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **window)
            error = np.linalg.norm(back[:, 0] - before, axis=-1)
            inside = ((after[:, 0] >= 2) & (after[:, 0] < (width - 2, height - 2))).all(-1)
            good = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (error < backward) & inside
            for i, place in zip(alive[good], after[good, 0]):
                rows[i][t] = place
            alive = alive[good]
        if t == count - 1:
            break
        for place in _new_points(grey[t], [rows[i][t] for i in alive], points, distance, refill):
            row = np.full((count, 2), np.nan, np.float32)
            row[t] = place
            rows.append(row)
            first.append(t)
            alive = np.append(alive, len(rows) - 1)
    xy = np.array(rows, np.float32).reshape(-1, count, 2)
    start = np.array(first, int)
    long = np.isfinite(xy[..., 0]).sum(1) >= 2
    return PointTracks(xy[long], start[long])


def _foretold(rows: list[np.ndarray], alive: np.ndarray, first: list[int], t: int) -> np.ndarray:
    """Each point's last step; new points take the step of their nearest older neighbours."""
    old = np.array([first[i] < t - 1 for i in alive])
    out = np.zeros((len(alive), 2), np.float32)
    if old.sum() < 4:
        return out
    now = np.array([rows[i][t - 1] for i in alive])
    steps = now[old] - np.array([rows[i][t - 2] for i in alive[old]])
    out[old] = steps
    for i in np.flatnonzero(~old):
        near = np.argsort(((now[old] - now[i]) ** 2).sum(1))[:5]
        out[i] = np.median(steps[near], axis=0)
    return out


def _new_points(
    grey: np.ndarray, old: list[np.ndarray], points: int, distance: float, refill: float
) -> np.ndarray:
    """Corners away from the old ones, the same number a cell so that none crowds the rest."""
    height, width = grey.shape
    cells = 6
    cell = (max(height, width) + cells - 1) // cells
    quota = max(2, int(np.ceil(points / (np.ceil(height / cell) * np.ceil(width / cell)))))
    places = np.array(old).reshape(-1, 2)
    counts = np.zeros((cells + 1, cells + 1), int)
    if len(places):
        np.add.at(counts, tuple((places[:, ::-1] // cell).astype(int).T), 1)
    down, across = (height - 1) // cell + 1, (width - 1) // cell + 1
    wanted = [(r, c) for r in range(down) for c in range(across)
              if counts[r, c] < refill * quota]
    if not wanted:
        return np.zeros((0, 2), np.float32)
    free = np.full((height, width), 255, np.uint8)
    free[:3], free[-3:], free[:, :3], free[:, -3:] = 0, 0, 0, 0
    for x, y in places:
        cv2.circle(free, (int(x), int(y)), int(distance), 0, -1)
    quality = cv2.cornerMinEigenVal(grey, 5)
    # Half the picture is seldom corners, so the lower half tells the level of noise.
    noise = 8 * float(np.percentile(quality, 25))
    floor = max(min(noise, 0.05 * float(quality.max())), 0.004 * float(quality.max()), 1e-5)
    found = []
    for r, c in wanted:
        area = np.s_[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell]
        need = quota - int(counts[r, c])
        q = np.where(free[area] > 0, quality[area], 0)
        for _ in range(need):
            y, x = np.unravel_index(int(q.argmax()), q.shape)
            if q[y, x] <= floor:
                break
            found.append((x + c * cell, y + r * cell))
            cv2.circle(q, (int(x), int(y)), int(distance), 0, -1)
            cv2.circle(free, (int(x + c * cell), int(y + r * cell)), int(distance), 0, -1)
    return np.array(found, np.float32).reshape(-1, 2)
