"""Camera motion from the pictures alone: tracked corners, explained by the simplest camera.

Three cameras are fitted to the same point tracks, all robustly, so that what moves by itself is
left out:

  ``flat``      the picture slides, turns and scales as a whole (a virtual camera over a still);
  ``turning``   a pinhole camera that only rotates;
  ``moving``    a pinhole camera that rotates and travels, with a depth a point.

The simplest one that explains the tracks wins. Sliding without parallax is therefore *pan* or
*tilt*, never truck or pedestal: only parallax proves travel sideways. Scaling without parallax is
*dolly*. Before that, a camera is held to be *still* where enough points spread over the picture
keep their place. Travel is in units of the scene's typical depth.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation, Slerp

from fourd4d.synth.camera.bundle_adjustment import BundleAdjuster, BundleAdjustmentSpec, Solution
from fourd4d.synth.camera.motion import CameraMotion, Kind, NoMotion
from fourd4d.synth.camera.point_tracks import PointTracks, track_points


@dataclasses.dataclass(frozen=True)
class CameraEstimateSpec:
    """Thresholds of the estimate; pixels are of a picture 320 wide, scaled with its width.

    Attributes:
      max_points: corners kept alive.
      assumed_view_degrees: horizontal field of view.
      max_coarse_frames: frames of the first, global fit.
      max_simple_error: pixels; median error up to which a simple camera may explain the tracks.
      max_simple_error_ratio: the same over the full camera's median error, for one that keeps its
        place, and ``max_straight_error_ratio`` for one that translates without rotation. The full
        camera also fits noise, with a depth a point; real translation shows in a ratio above 7.
      max_shake_degrees: largest rotation that is shake of a camera that translates.
      max_inlier_error: pixels; below it a point belongs to the static scene.
      min_support: share of points that the chosen camera must explain.
      min_points: alive in a frame.
      min_resting_share: of the picture's texture, under a still camera.
      max_shake_shift: pixels from its median place that a point goes before a resting camera.
      min_frames_at_rest: of a point; what is followed no longer does not tell rest.
      min_side_resting_share: of the sightings at a side of the picture, which then rests.
      min_side_share: of all sightings; a side of the picture with fewer tells nothing.
      min_sides: of the picture's four, at which points follow a camera that moves: the scene is
        all about, an object is not.
      max_slight_shift: pixels that what is followed for long goes if it shows no moving camera,
      min_moving_share: and the share of it that must go farther.
      adjustment: of the bundle adjustment.
    """

    max_points: int = 240
    assumed_view_degrees: float = 58.0
    max_coarse_frames: int = 14
    max_simple_error: float = 0.8
    max_simple_error_ratio: float = 2.5
    max_straight_error_ratio: float = 1.5
    max_shake_degrees: float = 2.0
    max_inlier_error: float = 2.0
    min_support: float = 0.35
    min_points: int = 12
    min_resting_share: float = 0.25
    max_shake_shift: float = 3.5
    min_frames_at_rest: int = 9
    min_side_resting_share: float = 0.25
    min_side_share: float = 0.05
    min_sides: int = 3
    max_slight_shift: float = 1.5
    min_moving_share: float = 0.1
    adjustment: BundleAdjustmentSpec = BundleAdjustmentSpec()


def estimate(
    grey: UInt8[np.ndarray, "T H W"], spec: CameraEstimateSpec | None = None
) -> CameraMotion:
    """Camera motion of one shot. Raises NoMotion where the pictures do not tell it."""
    spec = spec or CameraEstimateSpec()
    return explain(track_points(grey, spec.max_points), (grey.shape[1], grey.shape[2]), spec,
                   resting_share(grey))


def explain(
    tracks: PointTracks, size: tuple[int, int], spec: CameraEstimateSpec | None = None,
    resting: float = 0.0,
) -> CameraMotion:
    """Camera motion behind point tracks of pictures of ``size`` (height, width).

    ``resting`` is the share of the picture's texture that keeps its place (``resting_share``).
    """
    spec = spec or CameraEstimateSpec()
    frames = tracks.xy.shape[1]
    alive = tracks.seen.sum(0) if len(tracks.first) else np.zeros(frames)
    if alive.min() < spec.min_points:
        raise NoMotion(f"only {int(alive.min())} points could be followed")
    pixel = max(size) / 320
    focal = size[1] / 2 / np.tan(np.radians(spec.assumed_view_degrees) / 2)
    step = max(1, int(np.ceil((frames - 1) / (spec.max_coarse_frames - 1))))
    chosen = np.unique(np.append(np.arange(0, frames, step), frames - 1))
    coarse = _select(tracks, chosen)
    if len(coarse.first) < spec.min_points:
        coarse, chosen = tracks, np.arange(frames)
    held = keeps_place(tracks, size, spec)
    kind, fit = (_shaken if held else _choose)(coarse, size, focal, spec, pixel)
    explained = _support(fit, spec, pixel)
    # What is far away rests under a travelling camera too, so a good fit outweighs it.
    poor = explained - resting < (0.3 if kind != "moving" else 0.1)
    if _at_rest(fit, pixel) or resting >= spec.min_resting_share and poor:
        kind, fit = "still", _identity(len(chosen), len(coarse.first), focal)
    fine = _refine(tracks, size, fit, chosen, kind, pixel, spec)
    static = _errors(fine) < spec.max_inlier_error * pixel
    share = float(np.average(static, weights=_length(fine)))
    if kind == "still":
        share = max(share, resting)
    if not held:
        least = spec.min_support
        if share < (least if kind != "still" else min(least, spec.min_resting_share)):
            raise NoMotion(f"only {share:.0%} of the points agree on one camera")
        if kind != "still" and _sides(tracks, static, size) < spec.min_sides:
            raise NoMotion("what moves together lies in one part of the picture")
        ground = _shares(tracks, static, size, spec)[3]
        if kind != "still" and ground is not None and ground < spec.min_side_resting_share:
            raise NoMotion("the ground moves otherwise")
        if kind != "still" and not _shown(tracks.take(static), spec, pixel):
            kind, fine = "still", _refine(tracks, size, _identity(frames, 0, focal),
                                          np.arange(frames), "still", pixel, spec)
            static = _errors(fine) < spec.max_inlier_error * pixel
            share = _support(fine, spec, pixel)
            if share < spec.min_resting_share:
                raise NoMotion("what can be followed for long rests, and most flits about")
    if kind == "moving":
        depth = _scene_depth(tracks, fine, np.array([size[1] - 1, size[0] - 1]) / 2, static)
    else:
        depth = np.ones(frames)
    return CameraMotion(_as_turns(fine) if kind == "flat" else fine.poses(), depth, kind,
                        fine.focal, tracks, static, fine.inverse_depth, fine.residual, share,
                        fine, size)


def keeps_place(tracks: PointTracks, size: tuple[int, int],
                spec: CameraEstimateSpec | None = None) -> bool:
    """Return whether the camera stays in place and at most shakes, whatever moves before it.

    A near object may hold most of the points, and move as a scene does before a camera that
    translates; but it enters from one side, and points beside it rest. Before a camera that rotates
    or translates, hardly a point rests at most sides of the frame, and none on the ground below.
    A point rests if it stays within a shake of its median position while it is seen, for a while.
    """
    spec = spec or CameraEstimateSpec()
    rests = _away(tracks) <= spec.max_shake_shift * max(size) / 320
    telling = ~rests | (tracks.seen.sum(1) >= spec.min_frames_at_rest)
    shares = _shares(tracks.take(telling), rests[telling], size, spec)
    moving = [share is not None and share < spec.min_side_resting_share for share in shares]
    return bool(sum(moving) <= 1 and not moving[3] and shares.count(None) < 4 - sum(moving))


def _away(tracks: PointTracks) -> Float[np.ndarray, "N"]:
    """Return each point's distance from its median position, 90th percentile, pixels, (N,)."""
    median = np.nanmedian(tracks.xy, axis=1)
    return np.nanpercentile(np.linalg.norm(tracks.xy - median[:, None], axis=2), 90, axis=1)


def _shown(static: PointTracks, spec: CameraEstimateSpec, pixel: float) -> bool:
    """Return whether points of the scene that are tracked for long move at all.

    Where they rest, apparent camera motion comes from points that last for a frame or two: objects
    that flit about before a plain background.
    """
    length = static.seen.sum(1)
    long = length >= min(spec.min_frames_at_rest, static.xy.shape[1])
    if long.sum() < 4:
        return True
    moves = _away(static.take(long)) > spec.max_slight_shift * pixel
    return float(np.average(moves, weights=length[long])) >= spec.min_moving_share


def _shares(tracks: PointTracks, which: np.ndarray, size: tuple[int, int], spec: CameraEstimateSpec
            ) -> list[float | None]:
    """Share that some points have in the sightings on the left, on the right, above and below.

    Each side is a quarter of the picture deep. None where hardly a point is seen.
    """
    length = tracks.seen.sum(1)
    across, down = (np.nanmedian(tracks.xy, axis=1) / (np.array(size[::-1]) - 1)).T
    out: list[float | None] = []
    for side in (across < 0.25, across > 0.75, down < 0.25, down > 0.75):
        total = length[side].sum()
        out.append(float(length[side & which].sum() / total)
                   if total > spec.min_side_share * length.sum() else None)
    return out


def _sides(tracks: PointTracks, static: np.ndarray, size: tuple[int, int]) -> int:
    """At how many sides of the picture, a quarter of it deep, three static points are seen."""
    xy = tracks.xy[static] / (np.array(size[::-1]) - 1)
    with np.errstate(invalid="ignore"):
        near = [xy[..., 0] < 0.25, xy[..., 0] > 0.75, xy[..., 1] < 0.25, xy[..., 1] > 0.75]
    return sum(int(side.any(1).sum()) >= 3 for side in near)


def _identity(frames: int, points: int, focal: float) -> Solution:
    return Solution(np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3)), np.ones(points),
                    focal, np.zeros(0), 0.0)


def _select(tracks: PointTracks, frames: np.ndarray) -> PointTracks:
    xy = tracks.xy[:, frames]
    seen = np.isfinite(xy[..., 0])
    keep = seen.sum(1) >= 2
    return PointTracks(xy[keep], seen[keep].argmax(1))


def _shaken(
    tracks: PointTracks, size: tuple[int, int], focal: float, spec: CameraEstimateSpec, pixel: float
) -> tuple[Kind, Solution]:
    """The shake of a camera that keeps its place; ``still`` where the points do not tell it."""
    adjustment = BundleAdjuster(tracks, size, spec.adjustment)
    zero = _identity(tracks.xy.shape[1], len(tracks.first), focal)
    fit = adjustment.solve(zero, translation=False, scales=(2 * pixel, pixel), iterations=8)
    small = _turn(fit) <= np.radians(spec.max_shake_degrees)
    if small and _support(fit, spec, pixel) >= spec.min_support:
        return "turning", fit
    return "still", adjustment.solve(zero, translation=False, scales=(pixel,), iterations=0)


def _choose(
    tracks: PointTracks, size: tuple[int, int], focal: float, spec: CameraEstimateSpec, pixel: float
) -> tuple[Kind, Solution]:
    """The simplest camera that explains tracks of a few frames."""
    adjustment = BundleAdjuster(tracks, size, spec.adjustment)
    zero = _identity(tracks.xy.shape[1], len(tracks.first), focal)
    wide, fine = tuple(np.array([8.0, 3.0]) * pixel), tuple(np.array([8.0, 4.0, 2.0, 1.0]) * pixel)
    roll = (False, False, True)
    first = _similar(tracks, size, focal, pixel)
    flat = adjustment.solve(first, rotation=roll, plane=True, scales=fine, iterations=8)
    turned = dataclasses.replace(zero, rotation=_as_turns(flat)[:, :3, :3])
    turning = adjustment.solve(turned, translation=False, scales=fine, iterations=8)
    turning = adjustment.solve(turning, translation=False, focal=True, scales=fine[-2:],
                               iterations=8)
    limit = spec.max_simple_error * max(pixel, 1.0)
    simple: Kind = "turning" if _middle(turning) <= 1.1 * _middle(flat) else "flat"
    best = {"turning": turning, "flat": flat}[simple]
    if _middle(best) <= limit:
        return simple, best
    # Travel alone first: turning and travelling sideways look alike, so one must be needed.
    none = (False, False, False)
    start = adjustment.solve(zero, rotation=none, plane=True, scales=wide, iterations=8)
    straight = adjustment.solve(start, rotation=none, scales=fine, iterations=12)
    if _middle(straight) <= limit:
        return "moving", straight
    starts = [straight, adjustment.solve(flat, plane=True, scales=wide, iterations=10),
              _grow(tracks, size, focal, fine, spec.adjustment)]
    full = [adjustment.solve(start, scales=fine, iterations=12) for start in starts]
    moving = min(full, key=lambda s: s.cost)
    for factor in (0.75, 1.3):
        other = dataclasses.replace(moving, focal=focal * factor)
        other = adjustment.solve(other, scales=fine[1:], iterations=12)
        moving = min(moving, other, key=lambda s: s.cost)
    still = dataclasses.replace(moving, rotation=zero.rotation)
    other = adjustment.solve(still, rotation=none, scales=fine, iterations=12)
    straight = min(straight, other, key=lambda s: s.cost)
    if _middle(best) <= spec.max_simple_error_ratio * _middle(moving):
        return simple, best
    if _middle(straight) > spec.max_straight_error_ratio * _middle(moving):
        return "moving", moving
    shaken = adjustment.solve(straight, scales=fine[-2:], iterations=12)
    return "moving", shaken if _turn(shaken) <= np.radians(spec.max_shake_degrees) else straight


def _similar(tracks: PointTracks, size: tuple[int, int], focal: float, pixel: float) -> Solution:
    """The flat camera that similarities between neighbouring frames add up to, found by RANSAC."""
    frames = tracks.xy.shape[1]
    out = _identity(frames, len(tracks.first), focal)
    middle = (np.array([size[1], size[0]]) - 1) / 2
    whole = np.eye(3)
    for t in range(1, frames):
        both = tracks.seen[:, t - 1] & tracks.seen[:, t]
        step = None
        if both.sum() >= 4:
            cv2.setRNGSeed(0)
            before, now = (tracks.xy[both, k] - middle for k in (t - 1, t))
            step, _ = cv2.estimateAffinePartial2D(before, now, ransacReprojThreshold=2 * pixel)
        if step is not None:
            whole = np.vstack([step, [0, 0, 1]]) @ whole
        scale = np.sqrt(max(np.linalg.det(whole[:2, :2]), 1e-6))
        back = (whole[:2, :2] / scale).T
        out.rotation[t, :2, :2] = back
        out.centre[t] = (*(-back @ whole[:2, 2] / (scale * focal)), 1 - 1 / scale)
    return out


def _grow(tracks: PointTracks, size: tuple[int, int], focal: float, scales: tuple[float, ...],
          spec: BundleAdjustmentSpec) -> Solution:
    """The full camera, solved on the first frames and extended a few at a time."""
    frames = tracks.xy.shape[1]
    state = _identity(frames, len(tracks.first), focal)
    solved = 1
    for end in sorted({min(4, frames), min(6, frames), min(9, frames), frames}):
        keep = np.flatnonzero(tracks.seen[:, :end].sum(1) >= 2)
        part = PointTracks(tracks.xy[keep, :end], tracks.first[keep])
        rotation, centre = state.rotation.copy(), state.centre.copy()
        if solved > 1:
            turn = rotation[solved - 2].T @ rotation[solved - 1]
            step = rotation[solved - 2].T @ (centre[solved - 1] - centre[solved - 2])
            for t in range(solved, end):
                rotation[t] = rotation[t - 1] @ turn
                centre[t] = centre[t - 1] + rotation[t - 1] @ step
        start = Solution(rotation[:end], centre[:end], state.inverse_depth[keep], focal,
                         np.zeros(0), 0.0)
        found = BundleAdjuster(part, size, spec).solve(start, scales=scales, iterations=12)
        rotation[:end], centre[:end] = found.rotation, found.centre
        inverse = state.inverse_depth.copy()
        inverse[keep] = found.inverse_depth
        state = dataclasses.replace(state, rotation=rotation, centre=centre, inverse_depth=inverse)
        solved = end
    return state


def _errors(solution: Solution) -> np.ndarray:
    """One error a point: the mean of its squared errors, rooted."""
    square = solution.residual**2
    number = np.maximum(np.isfinite(square).sum(1) - 1, 1)
    return np.sqrt(np.nansum(square, 1) / number)


def _length(solution: Solution) -> np.ndarray:
    return np.isfinite(solution.residual).sum(1).astype(float)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _middle(solution: Solution) -> float:
    """Median error of the points, each weighted by how long it is seen."""
    return _median(_errors(solution), _length(solution))


def _support(solution: Solution, spec: CameraEstimateSpec, pixel: float) -> float:
    inliers = _errors(solution) < spec.max_inlier_error * pixel
    return float(np.average(inliers, weights=_length(solution)))


def resting_share(grey: UInt8[np.ndarray, "T H W"], cells: int = 8) -> float:
    """Share of the picture, by cells that have texture, whose texture keeps its place.

    0 unless it does so in three quarters of the picture at least: what is far away rests under a
    travelling camera too, but on one side of the horizon only.
    """
    height, width = grey.shape[1:]
    some = grey[np.unique(np.linspace(0, len(grey) - 1, 24).round().astype(int))]
    some = np.stack([cv2.GaussianBlur(g, (0, 0), 1.0) for g in some]).astype(np.float32)
    median = np.median(some, 0)
    slope = np.hypot(cv2.Sobel(median, cv2.CV_32F, 1, 0, scale=1 / 8),
                     cv2.Sobel(median, cv2.CV_32F, 0, 1, scale=1 / 8))
    noise = np.median(np.abs(np.diff(some, axis=0)))
    # Moved by a pixel, a slope changes by its own size.
    moved = np.percentile(np.abs(some - median), 80, axis=0) > 0.6 * slope + noise
    texture = slope > max(4.0, 4 * noise)
    shares, quarters = [], {}
    for i, rows in enumerate(np.array_split(np.arange(height), cells)):
        for j, columns in enumerate(np.array_split(np.arange(width), cells)):
            area = np.ix_(rows, columns)
            if texture[area].sum() >= max(4, 0.03 * texture[area].size):
                shares.append(float(np.mean(~moved[area][texture[area]])))
                quarters.setdefault((2 * i // cells, 2 * j // cells), []).append(shares[-1])
    if len(shares) < cells or sum(np.mean(q) >= 0.15 for q in quarters.values()) < min(
            3, len(quarters)):
        return 0.0
    return float(np.mean(shares))


def _turn(fit: Solution) -> float:
    """Largest turn away from the first frame, radians."""
    trace = np.trace(fit.rotation, axis1=1, axis2=2)
    return float(np.arccos(np.clip((trace - 1) / 2, -1, 1)).max())


def _at_rest(fit: Solution, pixel: float) -> bool:
    """Whether the camera itself hardly moves anything in the picture."""
    slide = np.linalg.norm(fit.centre, axis=1).max() * fit.focal
    return bool(slide + _turn(fit) * fit.focal < 0.7 * pixel)


def _refine(
    tracks: PointTracks, size: tuple[int, int], coarse: Solution, chosen: np.ndarray, kind: Kind,
    pixel: float, spec: CameraEstimateSpec,
) -> Solution:
    """The chosen camera at every frame, started from its poses at a few."""
    frames = tracks.xy.shape[1]
    moments = np.arange(frames)
    rotation = Slerp(chosen, Rotation.from_matrix(coarse.rotation))(moments).as_matrix()
    centre = np.stack([np.interp(moments, chosen, c) for c in coarse.centre.T], 1)
    start = Solution(rotation, centre, np.ones(len(tracks.first)), coarse.focal, np.zeros(0), 0.0)
    adjustment = BundleAdjuster(tracks, size, spec.adjustment)
    if kind == "still":
        return adjustment.solve(start, translation=False, scales=(pixel,), iterations=0)
    if kind == "flat":
        return adjustment.solve(start, rotation=(False, False, True), plane=True,
                                scales=(pixel,), iterations=6)
    if kind == "turning":
        return adjustment.solve(start, translation=False, scales=(pixel,), iterations=6)
    turns = bool(np.abs(coarse.rotation - np.eye(3)).max() > 0)
    return adjustment.solve(start, rotation=(turns, turns, turns), scales=(3 * pixel, pixel),
                            iterations=8)


def _as_turns(flat: Solution) -> np.ndarray:
    """A flat camera's slides as turns of a camera that keeps its place, step by step."""
    out = np.tile(np.eye(4), (len(flat.centre), 1, 1))
    distance = np.maximum(1 - flat.centre[:, 2], 1e-2)
    for t in range(len(out) - 1):
        back = flat.rotation[t].T
        x, y, _ = back @ (flat.centre[t + 1] - flat.centre[t]) / distance[t]
        roll = cv2.Rodrigues(back @ flat.rotation[t + 1])[0][2, 0]
        step = np.eye(4)
        step[:3, :3] = cv2.Rodrigues(np.array([-np.arctan(y), np.arctan(x), roll]))[0]
        step[2, 3] = np.log(distance[t] / distance[t + 1])
        out[t + 1] = out[t] @ step
    return out


def _scene_depth(tracks: PointTracks, s: Solution, middle: np.ndarray, static: np.ndarray
                 ) -> np.ndarray:
    """Median depth at each frame of the static points seen there."""
    point = np.flatnonzero(static)
    first = tracks.first[point]
    ray = np.concatenate([(tracks.xy[point, first] - middle) / s.focal,
                          np.ones((len(point), 1))], 1) \
        / np.maximum(s.inverse_depth[point, None], 0.02)
    place = s.centre[first] + np.einsum("nij,nj->ni", s.rotation[first], ray)
    out = np.empty(len(s.centre))
    for t, (rotation, centre) in enumerate(zip(s.rotation, s.centre)):
        now = tracks.seen[point, t]
        depth = (place[now] if now.sum() >= 3 else place) - centre
        out[t] = np.median(np.maximum(depth @ rotation[:, 2], 0.05))
    return out
