"""Robust bundle adjustment of one shot, small enough for NumPy.

Unknowns: a pose a frame, one inverse depth a point (in the frame that first sees it, where the
point's ray is taken as measured) and, if asked, the focal length. Points are eliminated by the
Schur complement. Scale is fixed by a weak prior that inverse depths are near 1, so travel comes
out in units of the scene's typical depth. See Triggs et al., "Bundle Adjustment: A Modern
Synthesis" (2000); robust weights are Cauchy's with a scale that shrinks from coarse to fine.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
from scipy.spatial.transform import Rotation

from fourd4d.synth.camera.point_tracks import PointTracks

DEPTH_SPREAD = 2.0  # Prior of inverse depth about 1.
STEP_SPREAD = 0.05  # Prior of travel between neighbouring frames, scene depths.
FOCAL_SPREAD = 0.15  # Prior of log focal length.


@dataclasses.dataclass
class Solution:
    """State of the adjustment.

    Attributes:
      rotation: (T, 3, 3) camera-to-world.
      centre: (T, 3).
      inverse_depth: (N,) in each point's first frame.
      focal: pixels.
      residual: (N, T) pixels, NaN where a point is not seen; 0 in its first frame.
      cost: robust cost at the last scale, lower is better.
    """

    rotation: np.ndarray
    centre: np.ndarray
    inverse_depth: np.ndarray
    focal: float
    residual: np.ndarray
    cost: float

    def poses(self) -> np.ndarray:
        out = np.tile(np.eye(4), (len(self.centre), 1, 1))
        out[:, :3, :3], out[:, :3, 3] = self.rotation, self.centre
        return out


@dataclasses.dataclass(frozen=True)
class _Projection:
    """Where points fall; observations come last, so that each number of theirs is one long row.

    Attributes:
      turn, base: (3, 3, k), (3, k) from the host's axes to the frame's own.
      q, z: (3, k), (k,) the point over its depth in the host, in the frame's own axes; z > 0.
      ray, residual: (2, k) q over z; pixels.
    """

    turn: np.ndarray
    base: np.ndarray
    q: np.ndarray
    z: np.ndarray
    ray: np.ndarray
    residual: np.ndarray


class BundleAdjuster:
    """Observations of one shot, ready to be solved from several starts."""

    def __init__(self, tracks: PointTracks, size: tuple[int, int]):
        height, width = size
        self.count = tracks.xy.shape[1]
        self.points = len(tracks.first)
        self.middle = np.array([(width - 1) / 2, (height - 1) / 2])
        self.point, self.frame = np.nonzero(tracks.seen)
        self.host = tracks.first[self.point]
        other = self.frame != self.host
        # By pair of frames: the observations of a pair are one block of the normal equations.
        point, frame, host = self.point[other], self.frame[other], self.host[other]
        order = np.lexsort((point, frame, host))
        self.point, self.frame, self.host = point[order], frame[order], host[order]
        self.pair = self.frame * self.count + self.host
        cuts = np.flatnonzero(np.diff(self.pair)) + 1
        starts = np.append(0, cuts)[: len(self.pair)]
        self.pairs = list(zip(starts, np.append(cuts, len(self.pair))))
        # Their columns: the frame's own pose, the host's pose, the lens.
        own, host = (6 * f[starts, None] + np.arange(6) for f in (self.frame, self.host))
        lens = np.full((len(starts), 1), 6 * self.count)
        self.columns = np.concatenate([own, host, lens], 1)
        self.xy = (tracks.xy[self.point, self.frame].astype(np.float64) - self.middle).T
        self.xy_host = (tracks.xy[self.point, self.host].astype(np.float64) - self.middle).T
        self.first = tracks.first

    def _project(self, s: Solution) -> _Projection:
        back = s.rotation.swapaxes(1, 2)
        turns = (back[:, None] @ s.rotation[None]).reshape(-1, 9).T
        bases = (back[:, None] @ (s.centre[None] - s.centre[:, None])[..., None]).reshape(-1, 3).T
        turn = turns.take(self.pair, 1).reshape(3, 3, -1)
        base = bases.take(self.pair, 1)
        x, y = self.xy_host / s.focal
        q = turn[:, 0] * x + turn[:, 1] * y + turn[:, 2] + s.inverse_depth[self.point] * base
        z = np.maximum(q[2], 0.05)
        ray = q[:2] / z
        return _Projection(turn, base, q, z, ray, s.focal * ray - self.xy)

    def solve(
        self, start: Solution, *, turn: tuple[bool, bool, bool] = (True, True, True),
        travel: bool = True, depth: bool = True, plane: bool = False, focal: bool = False,
        scales: tuple[float, ...], iterations: int,
        weights: np.ndarray | None = None,
    ) -> Solution:
        """Levenberg-Marquardt at each robust scale (pixels) in turn.

        Args:
          start: where to begin; not changed.
          turn: axes of rotation (x, y, z) that are estimated.
          travel, depth, focal: what else is estimated; the rest stays as it starts. Depth needs
            travel.
          plane: all points lie in the plane z = 1 of the first frame, whichever frame sees them
            first; instead of ``depth``.
          weights: (N,) prior trust in each point.
        """
        s = dataclasses.replace(start)
        if plane:
            depth, s.inverse_depth = False, self._in_plane(s.centre)
        trust = np.ones(self.points) if weights is None else weights
        trust = trust[self.point]
        n = self.count
        columns = np.ones((n, 6), bool)
        columns[0] = False
        columns[:, :3] &= turn
        columns[:, 3:] &= travel
        free = np.append(columns.reshape(-1), focal)
        first_focal, seen = s.focal, self._project(s)
        for scale in scales:
            damping, before = 1e-4, self._cost(s, seen, scale, trust, first_focal)
            for _ in range(iterations):
                step_p, step_l = self._step(s, seen, scale, trust, free, travel, depth, plane,
                                            damping, first_focal)
                new = self._apply(s, step_p, step_l)
                if plane:
                    new.inverse_depth = self._in_plane(new.centre)
                there = self._project(new)
                after = self._cost(new, there, scale, trust, first_focal)
                if after < before:
                    done = before - after < 1e-4 * before
                    s, seen, before, damping = new, there, after, max(damping / 5, 1e-9)
                    if done:
                        break
                else:
                    damping *= 10
                    if damping > 1e3:
                        break
        residual = np.full((self.points, n), np.nan)
        residual[self.point, self.frame] = np.linalg.norm(seen.residual, axis=0)
        residual[self.point, self.host] = 0.0
        return dataclasses.replace(s, residual=residual,
                                   cost=self._cost(s, seen, scales[-1], trust, first_focal))

    def _cost(self, s: Solution, seen: _Projection, scale: float, trust: np.ndarray, focal: float
              ) -> float:
        square = (seen.residual**2).sum(0)
        data = (trust * scale**2 * np.log1p(square / scale**2)).sum()
        prior = ((s.inverse_depth - 1) ** 2).sum() / DEPTH_SPREAD**2
        prior += (np.diff(s.centre, axis=0) ** 2).sum() / STEP_SPREAD**2
        prior += (np.log(s.focal / focal) / FOCAL_SPREAD) ** 2 * len(square) * 1e-3
        return float(data + prior)

    def _in_plane(self, centre: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(1 - centre[self.first, 2], 0.05)

    def _jacobian(self, s: Solution, seen: _Projection, gain: np.ndarray, root: np.ndarray,
                  wanted: np.ndarray, plane: bool) -> np.ndarray:
        """Weighted derivatives of the residuals by the wanted columns of ``columns``: (C, 2, k)."""
        (qx, qy, qz), (x, y) = seen.q, self.xy_host / s.focal
        turn, inverse = seen.turn, s.inverse_depth[self.point]
        zero = np.zeros_like(qx)

        def space(column: int) -> Any:
            """What a column does to the place in the frame's own axes."""
            kind, axis = divmod(column, 3)
            if kind == 0:
                return ((zero, qz, -qy), (-qz, zero, qx), (qy, -qx, zero))[axis]
            if kind in (1, 3):
                way = inverse * s.rotation[:, axis].T.take(self.frame, 1)
                if kind == 1:
                    return -way
                # The host's way forward changes its points' depth in the plane.
                return way + inverse**2 * seen.base if plane and axis == 2 else way
            if kind == 2:
                return (turn[:, 2] * y - turn[:, 1], turn[:, 0] - turn[:, 2] * x,
                        turn[:, 1] * x - turn[:, 0] * y)[axis]
            return -(turn[:, 0] * x + turn[:, 1] * y) / s.focal

        out = np.empty((len(wanted), 2, len(qx)))
        for row, column in zip(out, wanted, strict=True):
            right, down, ahead = space(int(column))
            row[0] = gain * (right - seen.ray[0] * ahead)
            row[1] = gain * (down - seen.ray[1] * ahead)
            if column == 12:
                row += root * seen.ray
        return out

    def _normal(self, jac: np.ndarray, r: np.ndarray, wanted: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray]:
        """Hessian and gradient of all columns; 0 in those not wanted."""
        size = 6 * self.count + 1
        rows = np.concatenate([jac, r[None]])
        blocks = np.empty((len(self.pairs), len(rows), len(rows)))
        for block, (start, end) in zip(blocks, self.pairs, strict=True):
            part = rows[:, :, start:end].reshape(len(rows), -1)
            np.matmul(part, part.T, out=block)
        place = self.columns[:, wanted]
        cells = (place[:, :, None] * size + place[:, None]).ravel()
        hessian = np.bincount(cells, blocks[:, :-1, :-1].ravel(), size * size)
        return (hessian.reshape(size, size),
                np.bincount(place.ravel(), blocks[:, :-1, -1].ravel(), size))

    def _step(self, s, seen, scale, trust, free, travel, depth, plane, damping, first_focal):
        n, k = self.count, len(self.point)
        root = np.sqrt(trust / (1 + (seen.residual**2).sum(0) / scale**2))
        gain = root * s.focal / seen.z
        axes = free[:-1].reshape(n, 6).any(0)
        wanted = np.flatnonzero(np.concatenate([axes, axes, free[-1:]]))
        jac = self._jacobian(s, seen, gain, root, wanted, plane)
        r = seen.residual * root
        every, sums = self._normal(jac, r, wanted)
        hessian, gradient = every[np.ix_(free, free)], sums[free]
        full = np.zeros(6 * n + 1)
        diagonal = np.zeros(6 * n + 1)
        extra = np.zeros((6 * n + 1, 6 * n + 1))
        if travel:
            c = 6 * np.arange(n)[:, None] + 3 + np.arange(3)
            pull = np.zeros((n, 3))
            d = np.diff(s.centre, axis=0) / STEP_SPREAD**2
            pull[1:] += d
            pull[:-1] -= d
            full[c] += pull
            number = np.full(n, 2.0)
            number[[0, -1]] = 1
            diagonal[c] += number[:, None] / STEP_SPREAD**2
            extra[c[1:], c[:-1]] = extra[c[:-1], c[1:]] = -1 / STEP_SPREAD**2
        strength = k * 1e-3 / FOCAL_SPREAD**2
        full[-1] += strength * np.log(s.focal / first_focal) / s.focal
        diagonal[-1] += strength / s.focal**2
        extra[np.arange(6 * n + 1), np.arange(6 * n + 1)] += diagonal
        hessian += extra[np.ix_(free, free)]
        gradient = gradient + full[free]
        depth = depth and travel
        if depth:
            along = gain * (seen.base[:2] - seen.ray * seen.base[2])
            h_l = self._by_point((along**2).sum(0)) + 1 / DEPTH_SPREAD**2
            h_l *= 1 + damping
            g_l = self._by_point((along * r).sum(0)) + (s.inverse_depth - 1) / DEPTH_SPREAD**2
            mixed = np.zeros((6 * n + 1, self.points))
            for column, both in zip(wanted, (jac * along).sum(1), strict=True):
                if column < 6:
                    mixed[6 * self.frame + column, self.point] = both
                elif column < 12:
                    mixed[6 * self.first + column - 6, np.arange(self.points)] = \
                        self._by_point(both)
                else:
                    mixed[-1] = self._by_point(both)
            mixed = mixed[free]
            hessian -= (mixed / h_l) @ mixed.T
            gradient = gradient - mixed @ (g_l / h_l)
        spread = np.diagonal(hessian).copy()
        hessian[np.diag_indices_from(hessian)] += damping * np.maximum(spread, 1e-6) + 1e-9
        step = -scipy.linalg.solve(hessian, gradient, assume_a="sym", check_finite=False)
        step_l = -(g_l + mixed.T @ step) / h_l if depth else np.zeros(self.points)
        out = np.zeros(6 * n + 1)
        out[free] = step
        return out, step_l

    def _by_point(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.point, values, minlength=self.points)

    def _apply(self, s: Solution, step: np.ndarray, step_l: np.ndarray) -> Solution:
        move = step[:-1].reshape(-1, 6)
        turn = Rotation.from_rotvec(move[:, :3]).as_matrix()
        depth = np.clip(s.inverse_depth + np.clip(step_l, -1, 1), 0, 6)
        lens = s.focal * np.exp(np.clip(step[-1] / s.focal, -0.2, 0.2))
        return dataclasses.replace(s, rotation=s.rotation @ turn, centre=s.centre + move[:, 3:],
                                   inverse_depth=depth, focal=float(lens))
