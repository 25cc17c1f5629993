"""Robust bundle adjustment of one shot, small enough for NumPy.

Unknowns: a pose a frame, one inverse depth a point (in the frame that first sees it, where the
point's ray is taken as measured) and, if asked, the focal length. Points are eliminated by the
Schur complement. Scale is fixed by a weak prior that inverse depths are near 1, so translation
comes out in units of the scene's typical depth. See Triggs et al., "Bundle Adjustment: A Modern
Synthesis" (2000); robust weights are Cauchy's with a scale that shrinks from coarse to fine.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from fourd4d.synth.camera.point_tracks import PointTracks


@dataclasses.dataclass(frozen=True)
class BundleAdjustmentSpec:
    """Priors, and how Levenberg-Marquardt steps.

    Attributes:
      inverse_depth_spread: standard deviation of a point's inverse depth about 1, per scene depth.
      step_spread: of the translation between neighbouring frames, scene depths.
      log_focal_spread: of the log of the focal length about its first guess.
      focal_weight: weight of that prior, per observation.
      min_depth: scene depths; what is nearer counts as that far.
      max_inverse_depth: per scene depth.
      max_inverse_depth_step, max_log_focal_step: most that one step may change them.
      initial_damping, min_damping, max_damping: of a step; beyond the last no better is sought.
      damping_decrease, damping_increase: factors after a step that lowers the cost, or does not.
      converged: relative decrease of the cost below which a scale is done.
    """

    inverse_depth_spread: float = 2.0
    step_spread: float = 0.05
    log_focal_spread: float = 0.15
    focal_weight: float = 1e-3
    min_depth: float = 0.05
    max_inverse_depth: float = 6.0
    max_inverse_depth_step: float = 1.0
    max_log_focal_step: float = 0.2
    initial_damping: float = 1e-4
    min_damping: float = 1e-9
    max_damping: float = 1e3
    damping_decrease: float = 5.0
    damping_increase: float = 10.0
    converged: float = 1e-4


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

    def poses(self) -> Float[np.ndarray, "T 4 4"]:
        """Return the camera-to-world matrices."""
        out = np.tile(np.eye(4), (len(self.centre), 1, 1))
        out[:, :3, :3], out[:, :3, 3] = self.rotation, self.centre
        return out


@dataclasses.dataclass(frozen=True)
class _Projection:
    """Where points fall; observations come last, so that each number of theirs is one long row.

    Attributes:
      rotation, base: (3, 3, k), (3, k) from the host's axes to the frame's own.
      q, z: (3, k), (k,) the point over its depth in the host, in the frame's own axes; z > 0.
      ray, residual: (2, k) q over z; pixels.
    """

    rotation: np.ndarray
    base: np.ndarray
    q: np.ndarray
    z: np.ndarray
    ray: np.ndarray
    residual: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What is estimated, and against what.

    Attributes:
      free: which of the 6 T + 1 parameters of poses and lens are estimated.
      wanted: which of the 13 columns of an observation (own pose, host's pose, lens) these touch.
      translation, depth, plane: see ``BundleAdjuster.solve``.
      trust: (k,) prior weight of each observation.
      focal: first guess, pixels.
    """

    free: Bool[np.ndarray, "P"]
    wanted: Int[np.ndarray, "C"]
    translation: bool
    depth: bool
    plane: bool
    trust: Float[np.ndarray, "k"]
    focal: float


@dataclasses.dataclass(frozen=True)
class _Linear:
    """The problem about a state, robustly weighted.

    Attributes:
      gain: (k,) pixels that a unit of ray is worth.
      jacobian: (C, 2, k) by the wanted columns.
      residual: (2, k).
    """

    gain: np.ndarray
    jacobian: np.ndarray
    residual: np.ndarray


@dataclasses.dataclass(frozen=True)
class _DepthSystem:
    """Normal equations of the inverse depths, and what ties them to the free parameters.

    Attributes:
      hessian, gradient: (N,); the hessian is diagonal, and damped.
      mixed: (F, N).
    """

    hessian: np.ndarray
    gradient: np.ndarray
    mixed: np.ndarray


class BundleAdjuster:
    """Observations of one shot, ready to be solved from several starts.

    Args:
      size: height and width of the pictures.
    """

    def __init__(self, tracks: PointTracks, size: tuple[int, int],
                 spec: BundleAdjustmentSpec | None = None):
        self.spec = spec or BundleAdjustmentSpec()
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

    def solve(
        self, start: Solution, *, rotation: tuple[bool, bool, bool] = (True, True, True),
        translation: bool = True, depth: bool = True, plane: bool = False, focal: bool = False,
        scales: tuple[float, ...], iterations: int,
        weights: Float[np.ndarray, "N"] | None = None,
    ) -> Solution:
        """Run Levenberg-Marquardt at each robust scale (pixels) in turn.

        Args:
          start: where to begin; not changed.
          rotation: axes of rotation (x, y, z) that are estimated.
          translation, depth, focal: what else is estimated; the rest stays as it starts. Depth
            needs translation.
          plane: all points lie in the plane z = 1 of the first frame, whichever frame sees them
            first; instead of ``depth``.
          weights: prior trust in each point.
        """
        state = dataclasses.replace(start)
        if plane:
            state.inverse_depth = self._in_plane(state.centre)
        trust = np.ones(self.points) if weights is None else weights
        columns = np.ones((self.count, 6), bool)
        columns[0] = False
        columns[:, :3] &= rotation
        columns[:, 3:] &= translation
        axes = columns.any(0)
        problem = _Problem(
            np.append(columns.reshape(-1), focal),
            np.flatnonzero(np.concatenate([axes, axes, [focal]])), translation,
            depth and translation and not plane, plane, trust[self.point], state.focal)
        seen = self._project(state)
        for scale in scales:
            state, seen = self._minimize(state, seen, scale, problem, iterations)
        residual = np.full((self.points, self.count), np.nan)
        residual[self.point, self.frame] = np.linalg.norm(seen.residual, axis=0)
        residual[self.point, self.host] = 0.0
        return dataclasses.replace(state, residual=residual,
                                   cost=self._cost(state, seen, scales[-1], problem))

    def _minimize(self, state: Solution, seen: _Projection, scale: float, problem: _Problem,
                  iterations: int) -> tuple[Solution, _Projection]:
        """Step until the robust cost at one scale no longer falls."""
        damping, before = self.spec.initial_damping, self._cost(state, seen, scale, problem)
        for _ in range(iterations):
            new = self._apply(state, *self._step(state, seen, scale, problem, damping))
            if problem.plane:
                new.inverse_depth = self._in_plane(new.centre)
            there = self._project(new)
            after = self._cost(new, there, scale, problem)
            if after < before:
                done = before - after < self.spec.converged * before
                state, seen, before = new, there, after
                damping = max(damping / self.spec.damping_decrease, self.spec.min_damping)
                if done:
                    break
            else:
                damping *= self.spec.damping_increase
                if damping > self.spec.max_damping:
                    break
        return state, seen

    def _project(self, s: Solution) -> _Projection:
        """Return where the points fall in every frame that sees them."""
        back = s.rotation.swapaxes(1, 2)
        turns = (back[:, None] @ s.rotation[None]).reshape(-1, 9).T
        bases = (back[:, None] @ (s.centre[None] - s.centre[:, None])[..., None]).reshape(-1, 3).T
        turn = turns.take(self.pair, 1).reshape(3, 3, -1)
        base = bases.take(self.pair, 1)
        x, y = self.xy_host / s.focal
        q = turn[:, 0] * x + turn[:, 1] * y + turn[:, 2] + s.inverse_depth[self.point] * base
        z = np.maximum(q[2], self.spec.min_depth)
        ray = q[:2] / z
        return _Projection(turn, base, q, z, ray, s.focal * ray - self.xy)

    def _cost(self, s: Solution, seen: _Projection, scale: float, problem: _Problem) -> float:
        """Return the robust cost (Cauchy) of the residuals and of the priors."""
        spec = self.spec
        square = (seen.residual**2).sum(0)
        data = (problem.trust * scale**2 * np.log1p(square / scale**2)).sum()
        prior = ((s.inverse_depth - 1) ** 2).sum() / spec.inverse_depth_spread**2
        prior += (np.diff(s.centre, axis=0) ** 2).sum() / spec.step_spread**2
        prior += (np.log(s.focal / problem.focal) / spec.log_focal_spread) ** 2 \
            * len(square) * spec.focal_weight
        return float(data + prior)

    def _in_plane(self, centre: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "N"]:
        """Return the inverse depths of points in the plane z = 1 of the first frame."""
        return 1 / np.maximum(1 - centre[self.first, 2], self.spec.min_depth)

    def _step(self, s: Solution, seen: _Projection, scale: float, problem: _Problem,
              damping: float) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "N"]]:
        """Return the damped step of poses and lens, and that of the inverse depths."""
        linear = self._linearize(s, seen, scale, problem)
        free = problem.free
        hessian, gradient = (part[np.ix_(free, free)] if part.ndim == 2 else part[free]
                             for part in self._normal(linear, problem))
        prior_hessian, prior_gradient = self._prior(s, problem)
        hessian += prior_hessian[np.ix_(free, free)]
        gradient = gradient + prior_gradient[free]
        depths = self._depth_system(s, seen, linear, problem, damping) if problem.depth else None
        if depths is not None:  # Eliminate them.
            hessian -= (depths.mixed / depths.hessian) @ depths.mixed.T
            gradient = gradient - depths.mixed @ (depths.gradient / depths.hessian)
        step = _solve_damped(hessian, gradient, damping)
        whole = np.zeros(len(free))
        whole[free] = step
        if depths is None:
            return whole, np.zeros(self.points)
        return whole, -(depths.gradient + depths.mixed.T @ step) / depths.hessian

    def _linearize(self, s: Solution, seen: _Projection, scale: float, problem: _Problem
                   ) -> _Linear:
        """Return residuals and derivatives, weighted by trust and by Cauchy's weights."""
        root = np.sqrt(problem.trust / (1 + (seen.residual**2).sum(0) / scale**2))
        gain = root * s.focal / seen.z
        return _Linear(gain, self._jacobian(s, seen, gain, root, problem), seen.residual * root)

    def _jacobian(self, s: Solution, seen: _Projection, gain: Float[np.ndarray, "k"],
                  root: Float[np.ndarray, "k"], problem: _Problem) -> Float[np.ndarray, "C 2 k"]:
        """Return weighted derivatives of the residuals by the wanted columns of ``columns``."""
        (qx, qy, qz), (x, y) = seen.q, self.xy_host / s.focal
        turn, inverse = seen.rotation, s.inverse_depth[self.point]
        zero = np.zeros_like(qx)

        def space(column: int) -> Any:
            """Return what a column does to the place in the frame's own axes."""
            part, axis = divmod(column, 3)
            if part == 0:
                return ((zero, qz, -qy), (-qz, zero, qx), (qy, -qx, zero))[axis]
            if part in (1, 3):
                shift = inverse * s.rotation[:, axis].T.take(self.frame, 1)
                if part == 1:
                    return -shift
                # The host's step forward changes its points' depth in the plane.
                return shift + inverse**2 * seen.base if problem.plane and axis == 2 else shift
            if part == 2:
                return (turn[:, 2] * y - turn[:, 1], turn[:, 0] - turn[:, 2] * x,
                        turn[:, 1] * x - turn[:, 0] * y)[axis]
            return -(turn[:, 0] * x + turn[:, 1] * y) / s.focal

        out = np.empty((len(problem.wanted), 2, len(qx)))
        for row, column in zip(out, problem.wanted, strict=True):
            right, down, ahead = space(int(column))
            row[0] = gain * (right - seen.ray[0] * ahead)
            row[1] = gain * (down - seen.ray[1] * ahead)
            if column == 12:
                row += root * seen.ray
        return out

    def _normal(self, linear: _Linear, problem: _Problem
                ) -> tuple[Float[np.ndarray, "P P"], Float[np.ndarray, "P"]]:
        """Return Hessian and gradient of all parameters; 0 in those not wanted."""
        size = 6 * self.count + 1
        rows = np.concatenate([linear.jacobian, linear.residual[None]])
        blocks = np.empty((len(self.pairs), len(rows), len(rows)))
        for block, (start, end) in zip(blocks, self.pairs, strict=True):
            part = rows[:, :, start:end].reshape(len(rows), -1)
            np.matmul(part, part.T, out=block)
        place = self.columns[:, problem.wanted]
        cells = (place[:, :, None] * size + place[:, None]).ravel()
        hessian = np.bincount(cells, blocks[:, :-1, :-1].ravel(), size * size)
        return (hessian.reshape(size, size),
                np.bincount(place.ravel(), blocks[:, :-1, -1].ravel(), size))

    def _prior(self, s: Solution, problem: _Problem
               ) -> tuple[Float[np.ndarray, "P P"], Float[np.ndarray, "P"]]:
        """Return what the priors on steps and focal length add to Hessian and gradient."""
        spec, n = self.spec, self.count
        gradient = np.zeros(6 * n + 1)
        diagonal = np.zeros(6 * n + 1)
        hessian = np.zeros((6 * n + 1, 6 * n + 1))
        if problem.translation:
            c = 6 * np.arange(n)[:, None] + 3 + np.arange(3)
            pull = np.zeros((n, 3))
            d = np.diff(s.centre, axis=0) / spec.step_spread**2
            pull[1:] += d
            pull[:-1] -= d
            gradient[c] += pull
            neighbours = np.full(n, 2.0)
            neighbours[[0, -1]] = 1
            diagonal[c] += neighbours[:, None] / spec.step_spread**2
            hessian[c[1:], c[:-1]] = hessian[c[:-1], c[1:]] = -1 / spec.step_spread**2
        strength = len(self.point) * spec.focal_weight / spec.log_focal_spread**2
        gradient[-1] += strength * np.log(s.focal / problem.focal) / s.focal
        diagonal[-1] += strength / s.focal**2
        hessian[np.arange(6 * n + 1), np.arange(6 * n + 1)] += diagonal
        return hessian, gradient

    def _depth_system(self, s: Solution, seen: _Projection, linear: _Linear, problem: _Problem,
                      damping: float) -> _DepthSystem:
        """Return the damped normal equations of the inverse depths, their prior included."""
        spread = self.spec.inverse_depth_spread
        along = linear.gain * (seen.base[:2] - seen.ray * seen.base[2])
        hessian = self._by_point((along**2).sum(0)) + 1 / spread**2
        hessian *= 1 + damping
        gradient = self._by_point((along * linear.residual).sum(0)) \
            + (s.inverse_depth - 1) / spread**2
        mixed = np.zeros((6 * self.count + 1, self.points))
        for column, both in zip(problem.wanted, (linear.jacobian * along).sum(1), strict=True):
            if column < 6:
                mixed[6 * self.frame + column, self.point] = both
            elif column < 12:
                mixed[6 * self.first + column - 6, np.arange(self.points)] = self._by_point(both)
            else:
                mixed[-1] = self._by_point(both)
        return _DepthSystem(hessian, gradient, mixed[problem.free])

    def _by_point(self, values: Float[np.ndarray, "k"]) -> Float[np.ndarray, "N"]:
        """Return the sum of values over the observations of each point."""
        return np.bincount(self.point, values, minlength=self.points)

    def _apply(self, s: Solution, step: Float[np.ndarray, "P"],
               depth_step: Float[np.ndarray, "N"]) -> Solution:
        """Return the state after a step, kept within bounds."""
        spec = self.spec
        move = step[:-1].reshape(-1, 6)
        turn = Rotation.from_rotvec(move[:, :3]).as_matrix()
        most = spec.max_inverse_depth_step
        depth = np.clip(s.inverse_depth + np.clip(depth_step, -most, most), 0,
                        spec.max_inverse_depth)
        most = spec.max_log_focal_step
        lens = s.focal * np.exp(np.clip(step[-1] / s.focal, -most, most))
        return dataclasses.replace(s, rotation=s.rotation @ turn, centre=s.centre + move[:, 3:],
                                   inverse_depth=depth, focal=float(lens))


def _solve_damped(hessian: Float[np.ndarray, "F F"], gradient: Float[np.ndarray, "F"],
                  damping: float) -> Float[np.ndarray, "F"]:
    """Return Levenberg-Marquardt's step; the Hessian's diagonal is damped in place."""
    spread = np.diagonal(hessian).copy()
    hessian[np.diag_indices_from(hessian)] += damping * np.maximum(spread, 1e-6) + 1e-9
    return -scipy.linalg.solve(hessian, gradient, assume_a="sym", check_finite=False)
