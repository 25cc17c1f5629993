"""Camera poses → spans of time, each with its set of moves, by one rule.

The rule. Between two poses the camera turns by a rotation vector and travels by a vector, both in
its own axes (x right, y down, z forward). Divided by time they are six rates, and each rate has a
threshold per second (``MotionLabelSpec``): degrees a second for pan, tilt and roll; for truck,
pedestal and dolly metres a second, or scene depths a second where the scene's depth is known in the
poses' unit (so poses of arbitrary scale obey the same numbers). A clip is cut where the rates
change, and in each span an axis *moves* when its mean rate

  1. reaches its threshold and ``dominance`` of the strongest axis (rates in units of thresholds),
  2. adds up: |mean rate| is at least ``steady`` of the mean |rate|, or it is shake, not a move,
  3. and its travel over the span reaches ``extent`` seconds at threshold.

It is *still* below ``quiet`` of the threshold or when (2) fails clearly. A span where any axis is
neither has no moves (``()``): nothing is asked about it. A span where every axis is still is
``Static``, unless one of them creeps ``drift`` seconds at threshold in all. Roll CW is the camera
turning clockwise as its operator sees it, so the picture turns counter-clockwise. The same rule
labels simulated and estimated poses.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float

from fourd4d.core.errors import InputError
from fourd4d.synth.clip import MOVES, CameraSegment

AXES = (
    ("Tilt Up", "Tilt Down"),
    ("Pan Right", "Pan Left"),
    ("Roll CW", "Roll CCW"),
    ("Truck Right", "Truck Left"),
    ("Pedestal Down", "Pedestal Up"),
    ("Dolly In", "Dolly Out"),
)


@dataclasses.dataclass(frozen=True)
class MotionLabelSpec:
    """Thresholds of the rule in the module's docstring.

    Attributes:
      turn: pan and tilt, degrees a second.
      roll: degrees a second.
      travel: truck, pedestal and dolly, metres a second; for poses in metres of unknown depth.
      travel_depths: the same in scene depths a second; used where a depth is given.
      dominance: share of the strongest axis below which an axis is a by-product.
      steady: share of the path that must be kept as displacement.
      quiet: share of a threshold below which an axis is still.
      extent: seconds at threshold that a move must last at least to count.
      drift: seconds at threshold that the slow creep of a static camera stays below.
      window: seconds over which rates are averaged to find the cuts; shake is faster.
      shortest: seconds; shorter spans join a neighbour.
      penalty: cost of one more span, squared threshold units times seconds.
    """

    turn: float = 2.0
    roll: float = 2.0
    travel: float = 0.15
    travel_depths: float = 0.03
    dominance: float = 0.2
    steady: float = 0.45
    quiet: float = 0.6
    extent: float = 0.5
    drift: float = 1.1
    window: float = 0.6
    shortest: float = 0.8
    penalty: float = 0.35


def rates(
    poses: Float[np.ndarray, "T 4 4"], timestamps: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "T-1 6"]:
    """Rates between neighbouring poses in the axes of the earlier one.

    Columns: rotation about x, y, z (degrees a second), then travel along x, y, z (pose units a
    second). Raises InputError on poses that are not rigid motions or times that do not rise.
    """
    times = np.asarray(timestamps, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) != len(times):
        raise InputError("poses", f"shape {poses.shape} for {len(times)} times",
                         "Give one 4x4 camera-to-world matrix a frame")
    if not np.isfinite(poses).all():
        raise InputError("poses", "a pose is not finite", "Leave out frames without a pose")
    rotation, centre = poses[:, :3, :3].astype(np.float64), poses[:, :3, 3].astype(np.float64)
    if len(poses) and np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max() > 1e-2:
        raise InputError("poses", "a pose holds no rotation", "Give rigid camera-to-world matrices")
    steps = np.diff(times)
    if (steps <= 0).any():
        raise InputError("poses", "times do not rise", "Sort the frames by time")
    back = rotation[:-1].swapaxes(1, 2)
    turns = np.array([cv2.Rodrigues(m)[0][:, 0] for m in back @ rotation[1:]]).reshape(-1, 3)
    moves = np.einsum("tij,tj->ti", back, np.diff(centre, axis=0))
    return np.concatenate([np.degrees(turns), moves], 1) / steps[:, None]


def label_motion(
    poses: Float[np.ndarray, "T 4 4"],
    timestamps: Float[np.ndarray, "T"],
    scene_depth: float | Float[np.ndarray, "T"] | None = None,
    rule: MotionLabelSpec | None = None,
) -> tuple[CameraSegment, ...]:
    """Spans that cover the clip, in time order, none overlapping.

    Args:
      poses: camera-to-world, any unit of length.
      timestamps: seconds.
      scene_depth: typical (median) distance of the static scene in the poses' unit, one number or
        one a frame. Without it the poses must be in metres.
      rule: thresholds.

    Raises InputError as ``rates`` does. Fewer than two poses give no spans.
    """
    rule = rule or MotionLabelSpec()
    times = np.asarray(timestamps, np.float64)
    if len(times) < 2:
        return ()
    raw = rates(poses, times)
    if scene_depth is None:
        travel = np.full(len(raw), rule.travel)
    else:
        depth = np.broadcast_to(np.asarray(scene_depth, np.float64), times.shape)
        if not np.isfinite(depth).all() or (depth <= 0).any():
            raise InputError("scene_depth", "it is not positive", "Give a distance, or None")
        travel = rule.travel_depths * 0.5 * (depth[1:] + depth[:-1])
    scale = np.empty_like(raw)
    scale[:, :2], scale[:, 2], scale[:, 3:] = rule.turn, rule.roll, travel[:, None]
    units = raw / scale
    steps = np.diff(times)
    smooth = _average(units, times, rule.window)
    cuts = _split(smooth, steps, rule)
    spans = [(a, b, _moves(units[a:b], steps[a:b], rule))
             for a, b in zip(cuts, cuts[1:])]
    return tuple(CameraSegment(float(times[a]), float(times[b]), moves)
                 for a, b, moves in _join(spans, units, steps, rule))


def _average(values: np.ndarray, times: np.ndarray, window: float) -> np.ndarray:
    """Mean over a window of seconds around each interval, cut at the ends."""
    middles, steps = 0.5 * (times[1:] + times[:-1]), np.diff(times)
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * steps[:, None], 0)])

    def upto(moment: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(moment, times, column) for column in total.T], 1)

    low = np.maximum(middles - window / 2, times[0])
    high = np.minimum(middles + window / 2, times[-1])
    low = np.minimum(low, middles - steps / 2)
    high = np.maximum(high, middles + steps / 2)
    return (upto(high) - upto(low)) / (high - low)[:, None]


def _split(units: np.ndarray, steps: np.ndarray, rule: MotionLabelSpec) -> list[int]:
    """Cuts of the best piecewise-constant fit to the rates, by dynamic programming.

    Rates are squashed, so that a change from still to moving counts and one from fast to faster
    hardly does.
    """
    x = 2 * np.tanh(units / 2)
    count = len(x)
    zero = np.zeros((1, x.shape[1]))
    weight = np.concatenate([[0.0], np.cumsum(steps)])
    first = np.concatenate([zero, np.cumsum(x * steps[:, None], 0)])
    second = np.concatenate([zero, np.cumsum(x * x * steps[:, None], 0)])
    best, previous = np.full(count + 1, np.inf), np.zeros(count + 1, int)
    best[0] = 0.0
    for end in range(1, count + 1):
        start = np.arange(end)
        span = weight[end] - weight[start]
        cost = (second[end] - second[start]).sum(1)
        cost -= ((first[end] - first[start]) ** 2).sum(1) / span
        cost += best[start] + rule.penalty
        cost[span < min(rule.shortest, weight[-1]) - 1e-6] = np.inf
        previous[end] = int(cost.argmin())
        best[end] = cost[previous[end]]
    cuts = [count]
    while cuts[-1] > 0:
        cuts.append(int(previous[cuts[-1]]))
    return cuts[::-1]


def _moves(units: np.ndarray, steps: np.ndarray, rule: MotionLabelSpec) -> tuple[str, ...]:
    """The moves of one span; ``()`` where they cannot be told."""
    seconds = steps.sum()
    mean = (units * steps[:, None]).sum(0) / seconds
    path = (np.abs(units) * steps[:, None]).sum(0) / seconds
    steady = np.abs(mean) / np.maximum(path, 1e-9)
    # The strongest axis is looked for among displacements, so shake cannot hide a move.
    threshold = np.maximum(1.0, rule.dominance * np.abs(mean).max())
    strength = np.abs(mean) / threshold
    moving = (strength >= 1) & (steady >= rule.steady) & (np.abs(mean) * seconds >= rule.extent)
    still = (strength < rule.quiet) | (steady < 0.75 * rule.steady)
    if not (moving | still).all():
        return ()
    creeps = (steady >= rule.steady) & (np.abs(mean) * seconds >= rule.drift)
    if creeps.any() and not moving.any():
        return ()
    names = tuple(pair[int(value < 0)] for pair, value, yes in zip(AXES, mean, moving) if yes)
    return tuple(sorted(names, key=MOVES.index)) or ("Static",)


def _join(
    spans: list[tuple[int, int, tuple[str, ...]]], units: np.ndarray, steps: np.ndarray,
    rule: MotionLabelSpec,
) -> list[tuple[int, int, tuple[str, ...]]]:
    """Neighbours with equal moves become one span."""
    out = spans[:1]
    for start, end, moves in spans[1:]:
        a, _, before = out[-1]
        if before == moves:
            joined = _moves(units[a:end], steps[a:end], rule)
            out[-1] = (a, end, moves if joined == () else joined)
        else:
            out.append((start, end, moves))
    return out


def without_ambiguous_moves(segment: CameraSegment) -> CameraSegment:
    """Without its moves where there are three: before things in depth, features confuse a turn with
    travel the other way, and the two nearly cancel."""
    return segment if len(segment.moves) < 3 else dataclasses.replace(segment, moves=())
