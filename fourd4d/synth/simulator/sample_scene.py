"""Samples scenes that show a wanted motion: rejection sampling on exact geometry.

Nothing is labelled here. Labels are computed afterwards from the ground truth, by the rules that
also serve real videos; sampling only makes answers equally frequent and objects visible.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from fourd4d.core.errors import InputError
from fourd4d.synth.clip import MOVES
from fourd4d.synth.simulator.scene import COLOURS, SHAPES, Scene, project, rotation, to_camera
from fourd4d.synth.simulator.spec import RELATIONS, SceneSpec

DIRECTIONS: Final = ("Right", "Right-Down", "Down", "Left-Down", "Left", "Left-Up", "Up",
                     "Right-Up", "Toward", "Away", "Stationary")
DISTANCES: Final = ("closer", "farther", "same", "closer-farther", "farther-closer")
QUARTERS: Final = ("Top left", "Top right", "Bottom left", "Bottom right")
SPEEDS: Final = ("up", "down", "constant", "up-down", "down-up")
THEN: Final = "; "
_TRIES: Final = 4000
_WAYS: Final = 100  # Tried at a time.
_STEP: Final = 0.16  # Greatest step of a lookalike from frame to frame, frame heights.


@dataclasses.dataclass(frozen=True)
class SampledScene:
    """A scene and the names of its objects; object 1 is the landmark.

    ``moves`` are the camera's, for equal spans of the clip; ``movers`` are the indices of moving
    objects. Object 0, the main one, is absent unless ``moving``.
    """

    scene: Scene
    names: tuple[str, ...]
    moving: bool
    kind: str
    wanted: str
    moves: tuple[tuple[str, ...], ...] = (("Static",),)
    movers: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A candidate before it is checked."""

    poses: Float[np.ndarray, "T 4 4"]
    path: Float[np.ndarray, "T 3"]
    radius: float
    landmark: Float[np.ndarray, "3"]
    landmark_radius: float
    moves: tuple[tuple[str, ...], ...] = (("Static",),)


_Other = tuple[Float[np.ndarray, "T 3"], float]  # path and radius, metres
_Box = tuple[Float[np.ndarray, "T 2"], Float[np.ndarray, "T"]]  # centre and half size on screen


def wanted_pool(kind: str) -> tuple[str, ...]:
    """Return what ``sample_scene`` may be asked for, by question type."""
    if kind == "camera":
        return MOVES
    if kind in RELATIONS:
        return QUARTERS
    if kind == "lookalike":
        return tuple(f"{start}{THEN}{end}" for start in QUARTERS for end in QUARTERS)
    return {"distance": DISTANCES, "speed": SPEEDS}.get(kind, DIRECTIONS)


def profile(name: str, tau: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Return the share of the path covered at ``tau``; after 1 the last speed holds."""
    t = np.clip(tau, 0, 1)
    over = np.maximum(tau - 1, 0)
    if name == "up":
        return t**2.2 + 2.2 * over
    if name == "down":
        return 1 - (1 - t) ** 2.2
    if name == "up-down":
        return t**2.6 / (t**2.6 + (1 - t) ** 2.6)
    if name == "down-up":
        return 0.5 + 0.5 * np.sign(2 * t - 1) * np.abs(2 * t - 1) ** 2.4 + 2.4 * over
    return tau


def sample_scene(rng: np.random.Generator, spec: SceneSpec, kind: str, wanted: str) -> SampledScene:
    """Return a scene that shows ``wanted``. Raises InputError where none is found."""
    for _ in range(_TRIES):
        if kind == "camera":
            plan = _camera_plan(rng, spec, wanted)
        elif kind in RELATIONS:
            plan = _destination_plan(rng, spec, kind, wanted)
        elif kind == "lookalike":
            plan = _lookalike_plan(rng, spec, *wanted.split(THEN))
        else:
            plan = _object_plan(rng, spec, kind, wanted)
        if plan is None:
            continue
        moving = kind != "camera" or rng.random() < 0.5
        if spec.shake:
            plan = dataclasses.replace(plan, poses=_shaken(rng, plan.poses, spec))
        others = _others(rng, spec, plan, moving, kind, wanted)
        if others is None or not _visible(plan, others, spec, moving, kind):
            continue
        return _dress(rng, spec, plan, others, moving, kind, wanted)
    raise InputError("scene drawing", f"no scene shows {kind} {wanted!r} within {_TRIES} tries",
                     "Relax the scene spec")


def _times(spec: SceneSpec) -> Float[np.ndarray, "T"]:
    return np.arange(spec.frames) / (spec.frames - 1)


def _still(height: float, frames: int) -> Float[np.ndarray, "T 4 4"]:
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 1, 3] = -height
    return poses


def _moved(rng: np.random.Generator, move: str, height: float, tau: Float[np.ndarray, "T"],
           landmark_z: float, gain: float = 1.0) -> Float[np.ndarray, "T 4 4"]:
    """Return poses of a camera that makes moves ('Pan Left + Tilt Up') at constant speed."""
    angles, shift = np.zeros((len(tau), 3)), np.zeros((len(tau), 3))
    shift[:, 1] = -height
    spans = move.split(THEN)
    whole = tau
    for number, name in ((n, m) for n, s in enumerate(spans) for m in s.split(" + ")):
        verb, _, way = name.partition(" ")
        tau = np.clip(whole * len(spans) - number, 0, 1)
        sign = 1.0 if way in ("Right", "Up", "CW", "In") else -1.0
        if verb == "Pan":
            size, start = rng.uniform(0.28, 0.60) * gain, rng.uniform(-0.65, -0.35)
            angles[:, 0] += sign * size * (start + tau)
        elif verb == "Tilt":
            size, start = rng.uniform(0.24, 0.45) * gain, rng.uniform(-0.7, -0.3)
            angles[:, 1] += sign * size * (start + tau)
        elif verb == "Roll":
            size, start = rng.uniform(0.35, 0.8) * gain, rng.uniform(-0.65, -0.35)
            angles[:, 2] += sign * size * (start + tau)
        elif verb == "Dolly":
            size = rng.uniform(0.38, 0.58) * landmark_z * gain
            shift[:, 2] += size * tau if sign > 0 else size * (1 - tau)
        elif verb == "Truck":
            size, start = rng.uniform(0.28, 0.55) * landmark_z * gain, rng.uniform(-0.65, -0.35)
            shift[:, 0] += sign * size * (start + tau)
        elif verb == "Pedestal":
            size = rng.uniform(0.26, 0.48) * landmark_z * gain
            shift[:, 1] -= sign * size * (tau - 0.5) + max(0.0, size * 0.5 - height + 0.5)
    poses = np.tile(np.eye(4), (len(tau), 1, 1))
    poses[:, :3, :3] = [rotation(*a) for a in angles]
    poses[:, :3, 3] = shift
    return poses


def _lift(u: float, v: float, z: float, spec: SceneSpec) -> Float[np.ndarray, "3"]:
    """Return the camera-axes point seen at fractions (u, v) at depth z, metres."""
    aspect = spec.width / spec.height
    return np.array([(u - 0.5) * aspect * z / spec.focal, (v - 0.5) * z / spec.focal, z])


def _camera_plan(rng: np.random.Generator, spec: SceneSpec, move: str) -> _Plan | None:
    tau = _times(spec)
    height = rng.uniform(1.2, 2.4)
    z = rng.uniform(4.5, 7.0)
    poses = _moved(rng, move, height, tau, z)
    radius = rng.uniform(0.5, 0.85)
    # The landmark's position, as seen by the middle camera at its own height.
    x = rng.uniform(-0.30, 0.30) * z / spec.focal
    landmark = np.array([x, -radius * rng.uniform(0.9, 1.0), z])
    path = np.linspace(0, 1, spec.frames)[:, None] * rng.uniform(-0.8, 0.8, 3)
    small = rng.uniform(0.3, 0.5)
    path = path + _lift(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.6), rng.uniform(3.5, 6), spec)
    path[:, 1] -= height
    moves = tuple(tuple(span.split(" + ")) for span in move.split(THEN))
    return _Plan(poses, path, small, landmark, radius, moves)


def _object_plan(rng: np.random.Generator, spec: SceneSpec, kind: str, want: str) -> _Plan | None:
    tau = _times(spec)
    height = rng.uniform(1.8, 3.0)
    z = rng.uniform(3.2, 5.5)
    if rng.random() < spec.moving_camera:
        move = ("Pan Left", "Pan Right", "Tilt Up", "Tilt Down")[rng.integers(4)]
        poses = _moved(rng, move, height, tau, z, gain=rng.uniform(0.7, 1.0))
    else:
        move = "Static"
        poses = _still(height, spec.frames)
    span = np.arange(spec.frames) / (spec.frames - 1 - (spec.frames - 1) % 3)
    if kind == "distance":
        local, scale_z = _distance_path(rng, spec, want, z, span)
    elif kind == "speed":
        way = rng.integers(8) * np.pi / 4 + rng.uniform(-0.2, 0.2)
        length = rng.uniform(0.5, 0.72)
        local = _straight(rng, spec, way, length, z, profile(want, span))
        scale_z = z
    elif want in ("Toward", "Away"):
        u, v = rng.uniform(0.38, 0.62, 2)
        far = rng.uniform(1.8, 2.8)
        near_z = z * 0.75
        depths = near_z * (1 + (far - 1) * (1 - tau if want == "Toward" else tau))
        local = np.stack([_lift(u, v, d, spec) for d in depths])
        scale_z = near_z
    elif want == "Stationary":
        u, v = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.75)
        local = np.tile(_lift(u, v, z, spec), (spec.frames, 1))
        scale_z = z
    else:
        way = DIRECTIONS.index(want) * np.pi / 4 + rng.uniform(-0.12, 0.12)
        local = _straight(rng, spec, way, rng.uniform(0.28, 0.62), z, tau)
        scale_z = z
    if local is None:
        return None
    # ``local`` is in the first camera's axes.
    path = local @ poses[0, :3, :3].T + poses[0, :3, 3]
    radius = rng.uniform(0.17, 0.26) / 2 * scale_z / spec.focal
    radius *= 1.25 if kind == "distance" or want in ("Toward", "Away") else 1.0
    landmark, own = _on_ground(rng, spec, 7.5, (0.14, 0.22), 0.42)
    return _Plan(poses, path, radius, landmark, own, ((move,),))


def _destination_plan(rng: np.random.Generator, spec: SceneSpec, kind: str, want: str
                      ) -> _Plan | None:
    """A main object that ends in a wanted quarter; a ``destination`` starts by the landmark."""
    height = rng.uniform(1.8, 3.0)
    landmark, own = _on_ground(rng, spec, 7.5, (0.14, 0.22), 0.42)
    poses = _still(height, spec.frames)
    mark = _seen(landmark[None], own, poses[:1], spec)[0][0]
    way, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.34)
    start = mark + far * np.array([np.cos(way) * spec.height / spec.width, np.sin(way)])
    if kind == "vacated":
        start = rng.uniform(0.12, 0.88, 2)
    if not (0.1 < start.min() and start.max() < 0.9):
        return None
    moved = _flight(rng, spec, start, _within(rng, want), height)
    return None if moved is None else _Plan(poses, *moved, landmark, own)


def _lookalike_plan(rng: np.random.Generator, spec: SceneSpec, first: str, last: str
                    ) -> _Plan | None:
    """A main object that goes by a winding way from one wanted quarter to another."""
    height = rng.uniform(2.4, 3.0)
    landmark, own = _on_ground(rng, spec, 7.5, (0.12, 0.15), 0.42)
    z = rng.uniform(3.2, 4.2)
    radius = rng.uniform(0.13, 0.17) / 2 * z / spec.focal
    for _ in range(60):
        path = _winding(rng, spec, first, last, z, height, radius)
        if path is not None:
            return _Plan(_still(height, spec.frames), path, radius, landmark, own)
    return None


def _lookalikes(rng: np.random.Generator, spec: SceneSpec, plan: _Plan, first: str, last: str
                ) -> list[_Other] | None:
    """Things of the main one's size that go from quarters of their own to quarters of their own.

    At each step each is far nearer to its own last place than to another's.
    """
    height, z = -float(plan.poses[0, 1, 3]), float(plan.path[0, 2])
    mark = _seen(np.broadcast_to(plan.landmark, plan.path.shape), plan.landmark_radius, plan.poses,
                 spec)
    boxes, out = [_seen(plan.path, plan.radius, plan.poses, spec)], []
    if _meet(boxes[0], mark).any():
        return None
    starts = [one for one in QUARTERS if one != first]
    ends = [one for one in QUARTERS if one != last]
    ends = [ends[i] for i in rng.permutation(len(ends))]
    for start, end in list(zip(starts, ends, strict=True))[: spec.movers - 1]:
        for _ in range(60):
            path = _winding(rng, spec, start, end, z, height, plan.radius)
            if path is None:
                continue
            box = _seen(path, plan.radius, plan.poses, spec)
            if not _meet(box, mark).any() and not any(_mistakable(box, one) for one in boxes):
                boxes.append(box)
                out.append((path, plan.radius))
                break
        else:
            return None
    for _ in range(spec.things - 1 - spec.movers):
        out.append(_standing(rng, spec))
    return out


def _mistakable(one: _Box, other: _Box) -> bool:
    """Return whether one of two things could be taken for the other a frame later, or they touch.
    """
    apart = min(np.linalg.norm(one[0][1:] - other[0][:-1], axis=1).min(),
                np.linalg.norm(other[0][1:] - one[0][:-1], axis=1).min())
    step = max(np.linalg.norm(np.diff(box[0], axis=0), axis=1).max() for box in (one, other))
    return bool(apart < 1.5 * step or _meet(one, other).any())


def _winding(rng: np.random.Generator, spec: SceneSpec, first: str, last: str, z: float,
             height: float, radius: float) -> Float[np.ndarray, "T 3"] | None:
    """Return a way from quarter to quarter at depth z that turns once or twice; None below ground.
    """
    points = rng.uniform(0.1, 0.9, (_WAYS, 4, 2))
    points[:, 0], points[:, 3] = _within(rng, first), _within(rng, last)
    at = _times(spec) * 3
    leg = np.minimum(at.astype(int), 2)
    share = (at - leg)[:, None]
    ways = points[:, leg] * (1 - share) + points[:, leg + 1] * share
    slow = np.linalg.norm(np.diff(ways, axis=1), axis=2).max(1) <= _STEP
    if not slow.any():
        return None
    flat = ways[slow.argmax()]
    path = np.stack([_lift(u, v, z, spec) for u, v in flat]) - np.array([0, height, 0])
    return None if (path[:, 1] + radius > 0).any() else path


def _within(rng: np.random.Generator, quarter: str) -> Float[np.ndarray, "2"]:
    """Draw a point of a quarter of the frame, fractions of width and height."""
    up, left = quarter.startswith("Top"), quarter.endswith("left")
    return np.array([0.1 if left else 0.6, 0.1 if up else 0.6]) + rng.uniform(0, 0.3, 2)


def _flight(rng: np.random.Generator, spec: SceneSpec, start: Float[np.ndarray, "2"],
            end: Float[np.ndarray, "2"], height: float) -> _Other | None:
    """Return a straight path between points of the frame, and a radius; None below ground."""
    z = rng.uniform(3.2, 5.5)
    radius = rng.uniform(0.14, 0.22) / 2 * z / spec.focal
    path = _along(start, end - start, z, spec, _times(spec)) - np.array([0, height, 0])
    return None if (path[:, 1] + radius > 0).any() else (path, radius)


def _company(rng: np.random.Generator, spec: SceneSpec, plan: _Plan, kind: str
             ) -> list[_Other] | None:
    """As many others as there are things, moving ones first; None where there is no room.

    The moving ones go from anywhere to any quarter, so motion does not tell the main object. Of a
    ``vacated`` place, the first of them goes where the main object starts.
    """
    out: list[_Other] = []
    boxes = [_seen(np.broadcast_to(plan.landmark, plan.path.shape), plan.landmark_radius,
                   plan.poses, spec), _seen(plan.path, plan.radius, plan.poses, spec)]
    height = -float(plan.poses[0, 1, 3])
    vacated = boxes[1][0][0]
    for number in range(spec.things - 2):
        want = QUARTERS[rng.integers(len(QUARTERS))]  # Kept while tried: no quarter is rarer.
        for _ in range(40):
            if number < spec.movers - 1:
                end = _within(rng, want)
                if kind == "vacated" and not out:
                    end = vacated + rng.uniform(-0.03, 0.03, 2)
                one = _flight(rng, spec, rng.uniform(0.1, 0.9, 2), end, height)
            else:
                one = _standing(rng, spec)
            if one is None:
                continue
            box = _seen(*one, plan.poses, spec)
            if not any(_meet(box, other).any() for other in boxes):
                out.append(one)
                boxes.append(box)
                break
        else:
            return None
    return out


def _straight(rng: np.random.Generator, spec: SceneSpec, way: float, length: float, z: float,
              share: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 3"] | None:
    """Return a straight path at depth z, or None; ``length`` in frame heights, +y is down."""
    step = length * np.array([np.cos(way), np.sin(way)])
    room = 0.80 - np.abs(step)
    if (room < 0).any():
        return None
    low = np.where(step > 0, 0.10, 0.10 + np.abs(step))
    start = low + rng.uniform(0, 1, 2) * room
    return _along(start, step, z, spec, share)


def _along(start: Float[np.ndarray, "2"], step: Float[np.ndarray, "2"], z: float, spec: SceneSpec,
           share: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 3"]:
    """Return camera-axes points at depth z, seen on a straight line of the frame."""
    points = start + share[:, None] * step
    return np.stack([_lift(u, v, z, spec) for u, v in points])


def _distance_path(rng: np.random.Generator, spec: SceneSpec, want: str, z: float,
                   span: Float[np.ndarray, "T"]) -> tuple[Float[np.ndarray, "T 3"], float]:
    far = rng.uniform(1.7, 2.5)
    t = np.clip(span, 0, 1)
    if want == "same":
        start, end = rng.uniform(0.2, 0.8, 2), rng.uniform(0.2, 0.8, 2)
        if rng.random() < 0.3:
            end = start
        flat = [start + s * (end - start) for s in t]
        points = np.stack([_lift(float(p[0]), float(p[1]), z, spec) for p in flat])
        return points / np.linalg.norm(points, axis=1, keepdims=True) * z, z
    peak = 1 - np.abs(2 * t - 1)
    share = {"closer": 1 - t, "farther": t, "closer-farther": 1 - peak, "farther-closer": peak}
    depths = 0.8 * z * (1 + (far - 1) * share[want])
    start = rng.uniform(0.3, 0.7, 2)
    drift = rng.uniform(-0.12, 0.12, 2)
    flat = [start + s * drift for s in t]
    points = [_lift(float(p[0]), float(p[1]), d, spec) for p, d in zip(flat, depths, strict=True)]
    return np.stack(points), 0.8 * z


def _others(rng: np.random.Generator, spec: SceneSpec, plan: _Plan, moving: bool, kind: str,
            wanted: str) -> list[_Other] | None:
    """Draw what there is beside the main object and the landmark; None where these do not do."""
    if kind == "lookalike":
        return _lookalikes(rng, spec, plan, *wanted.split(THEN))
    if kind not in RELATIONS and spec.things <= 3:
        return _bystanders(rng, spec)
    if not _visible(plan, [], spec, moving, kind):
        return None
    if kind in RELATIONS:
        return _company(rng, spec, plan, kind)
    return _crowd(rng, spec, plan, moving, kind)


def _crowd(rng: np.random.Generator, spec: SceneSpec, plan: _Plan, moving: bool,
           kind: str) -> list[_Other]:
    """Add bystanders one by one where there is room; up to ten positions are tried for each."""
    out: list[_Other] = []
    for _ in range(int(rng.integers(0, spec.things - 1))):
        for _ in range(10):
            more = _bystanders(rng, spec)[:1]
            if more and _visible(plan, out + more, spec, moving, kind):
                out += more
                break
    return out


def _standing(rng: np.random.Generator, spec: SceneSpec) -> _Other:
    place, radius = _on_ground(rng, spec, 8.5, (0.12, 0.20), 0.45)
    return np.broadcast_to(place, (spec.frames, 3)), radius


def _on_ground(rng: np.random.Generator, spec: SceneSpec, far: float, sizes: tuple[float, float],
               aside: float) -> tuple[Float[np.ndarray, "3"], float]:
    """Return a place on the ground and the radius of what stands there.

    Args:
      far: greatest depth, metres.
      sizes: least and greatest on screen, frame heights.
      aside: how far left or right of the middle, frame heights.
    """
    z = rng.uniform(4.5, far)
    radius = rng.uniform(*sizes) / 2 * z / spec.focal
    return np.array([rng.uniform(-aside, aside) * z / spec.focal, -radius, z]), radius


def _bystanders(rng: np.random.Generator, spec: SceneSpec) -> list[_Other]:
    out = []
    for _ in range(int(rng.integers(0, spec.things - 1)) if spec.things > 2 else 0):
        out.append(_standing(rng, spec))
    for i in range(len(out)):
        if spec.movers < 2 or rng.random() > (spec.movers - 1) / (spec.things - 2):
            continue
        path, radius = out[i]
        way = rng.uniform(-1, 1, 3) * np.array([3.0, 1.2, 2.0])
        lifted = path - np.array([0, rng.uniform(0.2, 1.5), 0])
        path = lifted + np.linspace(-0.5, 0.5, spec.frames)[:, None] * way
        out[i] = (np.minimum(path, np.array([np.inf, -radius, np.inf])), radius)
    return out


def _shaken(rng: np.random.Generator, poses: Float[np.ndarray, "T 4 4"],
            spec: SceneSpec) -> Float[np.ndarray, "T 4 4"]:
    """Add handheld shake: smooth random rotation and translation without drift."""
    count = len(poses)
    wobble = rng.standard_normal((count + 4, 6))
    wobble = np.stack([np.convolve(w, np.ones(3) / 3**0.5, "same")[2:-2] for w in wobble.T], 1)
    lean = np.linspace(-1, 1, count)[:, None]
    wobble -= wobble.mean(0) + lean * (lean * wobble).sum(0) / (lean**2).sum()
    size = rng.uniform(0.3, 1.0) * spec.shake
    out = poses.copy()
    for i, w in enumerate(wobble * size):
        out[i, :3, :3] = poses[i, :3, :3] @ rotation(*np.radians(w[:3] * [1, 1, 0.6]))
        out[i, :3, 3] += w[3:] * 0.01
    return out


def _seen(path: Float[np.ndarray, "T 3"], radius: float, poses: Float[np.ndarray, "T 4 4"],
          spec: SceneSpec) -> _Box:
    """Return centre and half size on screen, fractions of the frame height (square pixels)."""
    local = to_camera(poses, path)
    centre = project(local, spec.focal, spec.width / spec.height)
    return centre, spec.focal * radius / np.maximum(local[:, 2], 1e-3)


def _meet(one: _Box, other: _Box) -> Bool[np.ndarray, "T"]:
    """Return in which frames two things touch on screen, or almost."""
    return np.abs(one[0] - other[0]).max(1) < 1.3 * (one[1] + other[1])


def _visible(plan: _Plan, others: list[_Other], spec: SceneSpec, moving: bool, kind: str) -> bool:
    """Whether all that matters is in view, large enough, above ground, and not occluded."""
    frames = spec.frames
    still = np.broadcast_to(plan.landmark, (frames, 3))
    mark, mark_size = _seen(still, plan.landmark_radius, plan.poses, spec)
    edge = 0.8 * mark_size[:, None]
    if not (np.isfinite(mark).all() and (mark > edge).all() and (mark < 1 - edge).all()):
        return False
    low, high = (0.06, 0.23) if kind == "camera" else (0.05, 0.2)
    if mark_size.min() < low or mark_size.max() > high:
        return False
    if plan.poses[:, 1, 3].max() > -0.4:
        return False
    boxes = [(mark, mark_size)]
    if moving:
        seen, size = _seen(plan.path, plan.radius, plan.poses, spec)
        edge = 0.0 if kind == "camera" else size[:, None] + 0.01
        if not (np.isfinite(seen).all() and (seen > edge).all() and (seen < 1 - edge).all()):
            return False
        if kind != "camera" and (size.min() < 0.062 or size.max() > 0.24):
            return False
        if (plan.path[:, 1] + plan.radius > 0).any() or size.max() > 0.35:
            return False
        boxes.append((seen, size))
    for path, radius in others:
        boxes.append(_seen(path, radius, plan.poses, spec))
    asked = len(boxes) - len(others)
    for i, (a, ra) in enumerate(boxes):
        for b, rb in boxes[i + 1 :]:
            if not np.isfinite(b).all():
                return False
            meet = _meet((a, ra), (b, rb))
            if spec.occlusion:
                # Objects may occlude each other, but not at the ends and not for long.
                if i < asked and (meet[[0, -1]].any() or meet.mean() > 0.3):
                    return False
            elif meet.any():
                return False
    return True


def _dress(rng: np.random.Generator, spec: SceneSpec, plan: _Plan, others: list[_Other],
           moving: bool, kind: str, wanted: str) -> SampledScene:
    things, frames = spec.things, spec.frames
    movers = (0, *(i for i, (path, _) in enumerate(others, 2) if np.ptp(path, 0).any()))
    look = np.arange(things)  # Whose looks each thing has.
    if kind == "lookalike":
        look[list(movers)] = 0
    colours = rng.permutation(len(COLOURS))[:things][look]
    shape = rng.integers(len(SHAPES), size=things)[look]
    radii = np.zeros(things)
    centers = np.zeros((frames, things, 3))
    if moving:
        radii[0], centers[:, 0] = plan.radius, plan.path
    radii[1], centers[:, 1] = plan.landmark_radius, plan.landmark
    for i, (path, radius) in enumerate(others, 2):
        radii[i], centers[:, i] = radius, path
    half = radii[:, None] * np.ones(3)
    half[shape == 1] *= 0.85
    half[np.isin(shape, (2, 3)), ::2] *= 0.9
    names = [list(COLOURS)[c] + " " + SHAPES[s] for c, s in zip(colours, shape, strict=True)]
    tone = rng.uniform(0.42, 0.62)
    tint = rng.uniform(-0.06, 0.06, 3)
    ground = np.clip(np.stack([tone + tint, tone + tint - rng.uniform(0.07, 0.14)]), 0.05, 1)
    hills = rng.uniform(0.18, 0.32) + rng.uniform(-0.05, 0.05, 3)
    far = np.clip(np.stack([hills, hills + rng.uniform(0.10, 0.16)]), 0.02, 1)
    sky = np.array([[0.80, 0.86, 0.92], [0.45, 0.62, 0.85]]) + rng.uniform(-0.08, 0.06, (2, 1))
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([0.5 * np.cos(angle), -0.9, 0.3 * np.sin(angle) - 0.35])
    scene = Scene(
        poses=plan.poses, shape=shape, half=half, centers=centers,
        yaw=rng.uniform(0, np.pi / 2, things)[look],
        colour=np.array([list(COLOURS.values())[c] for c in colours]) ** 2,
        texture=np.stack([rng.uniform(0.05, 0.2, things), rng.uniform(0.5, 2.0, things)],
                         1)[look],
        ground=ground**2 * 1.6, far=far**2 * 1.6, sky=sky**2,
        phase=rng.uniform(0, 2 * np.pi, 4), light=light / np.linalg.norm(light),
        focal=spec.focal,
    )
    if spec.rich:
        scene = dataclasses.replace(scene, detail=rng.uniform(0.4, 1.0) * spec.detail,
                                    fog=rng.uniform(0.0, 1.0) * spec.fog)
    return SampledScene(scene, tuple(names), moving, kind, wanted, plan.moves, movers)
