"""Robust bundle adjustment of one shot, small enough for NumPy.

Unknowns: a pose a frame, one inverse depth a point (in the frame that first sees it, where the
point's ray is taken as measured) and, if asked, the focal length. Points are eliminated by the
Schur complement. Scale is fixed by a weak prior that inverse depths are near 1, so travel comes
out in units of the scene's typical depth. See Triggs et al., "Bundle Adjustment: A Modern
Synthesis" (2000); robust weights are Cauchy's with a scale that shrinks from coarse to fine.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import scipy.linalg

from fourd4d.synth.tracking import PointTracks

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


class Adjustment:
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
        pair = self.host * self.count + self.frame
        cuts = np.flatnonzero(np.diff(pair)) + 1
        starts = np.append(0, cuts)[: len(pair)]
        self.pairs = list(zip(starts, np.append(cuts, len(pair))))
        # Their columns: the frame's own pose, the host's pose, the lens.
        own, host = (6 * f[starts, None] + np.arange(6) for f in (self.frame, self.host))
        lens = np.full((len(starts), 1), 6 * self.count)
        self.columns = np.concatenate([own, host, lens], 1)
        self.xy = tracks.xy[self.point, self.frame].astype(np.float64) - self.middle
        self.xy_host = tracks.xy[self.point, self.host].astype(np.float64) - self.middle
        self.first = tracks.first

    def _project(self, s: Solution):
        p = np.concatenate([self.xy_host / s.focal, np.ones((len(self.xy), 1))], 1)
        inverse = s.inverse_depth[self.point]
        back = s.rotation.swapaxes(1, 2)
        turns = back[:, None] @ s.rotation[None]
        bases = (back[:, None] @ (s.centre[None] - s.centre[:, None])[..., None])[..., 0]
        turn, base = turns[self.frame, self.host], bases[self.frame, self.host]
        q = np.einsum("kij,kj->ki", turn, p) + inverse[:, None] * base
        z = np.maximum(q[:, 2], 0.05)
        residual = s.focal * q[:, :2] / z[:, None] - self.xy
        return p, inverse, back[self.frame], turn, base, q, z, residual

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
        first_focal = s.focal
        for scale in scales:
            damping, before = 1e-4, self._cost(s, scale, trust, first_focal)
            for _ in range(iterations):
                step_p, step_l = self._step(s, scale, trust, free, travel, depth, plane,
                                            damping, first_focal)
                new = self._apply(s, step_p, step_l)
                if plane:
                    new.inverse_depth = self._in_plane(new.centre)
                after = self._cost(new, scale, trust, first_focal)
                if after < before:
                    done = before - after < 1e-4 * before
                    s, before, damping = new, after, max(damping / 5, 1e-9)
                    if done:
                        break
                else:
                    damping *= 10
                    if damping > 1e3:
                        break
        residual = np.full((self.points, n), np.nan)
        residual[self.point, self.frame] = np.linalg.norm(self._project(s)[-1], axis=1)
        residual[self.point, self.host] = 0.0
        return dataclasses.replace(s, residual=residual,
                                   cost=self._cost(s, scales[-1], trust, first_focal))

    def _cost(self, s: Solution, scale: float, trust: np.ndarray, focal: float) -> float:
        square = (self._project(s)[-1] ** 2).sum(1)
        data = (trust * scale**2 * np.log1p(square / scale**2)).sum()
        prior = ((s.inverse_depth - 1) ** 2).sum() / DEPTH_SPREAD**2
        prior += (np.diff(s.centre, axis=0) ** 2).sum() / STEP_SPREAD**2
        prior += (np.log(s.focal / focal) / FOCAL_SPREAD) ** 2 * len(square) * 1e-3
        return float(data + prior)

    def _in_plane(self, centre: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(1 - centre[self.first, 2], 0.05)

    def _step(self, s, scale, trust, free, travel, depth, plane, damping, first_focal):
        n, k = self.count, len(self.xy)
        p, inverse, back, turn, base, q, z, residual = self._project(s)
        root = np.sqrt(trust / (1 + (residual**2).sum(1) / scale**2))
        space = np.empty((k, 3, 13))
        space[:, :, :3] = _cross(q)
        space[:, :, 3:6] = -inverse[:, None, None] * back
        space[:, :, 6:9] = -np.cross(turn, p[:, None])
        space[:, :, 9:12] = -space[:, :, 3:6]
        if plane:  # The host's way forward changes its points' depth.
            space[:, :, 11] += inverse[:, None] ** 2 * base
        space[:, :, 12] = -np.einsum("kij,kj->ki", turn[:, :, :2], self.xy_host / s.focal**2)
        gain, ray = (root * s.focal / z)[:, None, None], (q[:, :2] / z[:, None])[:, :, None]
        jac = gain * (space[:, :2] - ray * space[:, 2:])
        jac[:, :, 12] += root[:, None] * ray[:, :, 0]
        along = gain[..., 0] * (base[:, :2] - ray[..., 0] * base[:, 2:])
        r = residual * root[:, None]
        flat, flat_r = jac.reshape(-1, 13), r.reshape(-1)
        every, sums = np.zeros((6 * n + 1, 6 * n + 1)), np.zeros(6 * n + 1)
        for (start, end), place in zip(self.pairs, self.columns):
            block = flat[2 * start : 2 * end]
            every[place[:, None], place] += block.T @ block
            sums[place] += flat_r[2 * start : 2 * end] @ block
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
            h_l = self._by_point((along**2).sum(1)) + 1 / DEPTH_SPREAD**2
            h_l *= 1 + damping
            g_l = self._by_point((along * r).sum(1)) + (s.inverse_depth - 1) / DEPTH_SPREAD**2
            both = np.einsum("kic,ki->kc", jac, along)
            cells = np.zeros((n, 6, self.points))
            cells[self.frame, :, self.point] = both[:, :6]
            cells[self.first, :, np.arange(self.points)] = np.stack(
                [self._by_point(c) for c in both[:, 6:12].T], 1)
            mixed = np.concatenate([cells.reshape(6 * n, -1),
                                    self._by_point(both[:, 12])[None]])[free]
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
        turn = np.array([cv2.Rodrigues(w)[0] for w in move[:, :3]])
        depth = np.clip(s.inverse_depth + np.clip(step_l, -1, 1), 0, 6)
        lens = s.focal * np.exp(np.clip(step[-1] / s.focal, -0.2, 0.2))
        return dataclasses.replace(s, rotation=s.rotation @ turn, centre=s.centre + move[:, 3:],
                                   inverse_depth=depth, focal=float(lens))


def _cross(v: np.ndarray) -> np.ndarray:
    zero = np.zeros(len(v))
    x, y, z = v.T
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
