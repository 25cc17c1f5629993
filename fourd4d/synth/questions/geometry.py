"""What a clip shows, in numbers; the rules that turn them into answers are in ``types/``.

Geometry (centres and poses in metres, or in one unknown scale) is used where a clip has it;
otherwise screen boxes, with the landmark standing for the camera's motion and size for distance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.questions.margins import Ambiguous


def evenly_spaced(first: int, last: int, count: int) -> tuple[int, ...]:
    """Return ``count`` frames from ``first`` at one spacing, the largest that stays in ``last``."""
    step = max((last - first) // max(count - 1, 1), 1)
    return tuple(first + step * i for i in range(min(count, (last - first) // step + 1)))


def box_center(track: Track) -> Float[np.ndarray, "T 2"]:
    """Return box centres (x, y), fractions of the frame."""
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


def box_side(track: Track, aspect: float) -> Float[np.ndarray, "T"]:
    """Return the side of the square of the box's area, frame heights; ``aspect`` is width / height.
    """
    w, h = (track.boxes[:, 2:] - track.boxes[:, :2]).T
    return np.sqrt(np.maximum(w * h * aspect, 0))


def aspect(clip: Clip) -> float:
    """Return width / height."""
    return clip.frames.shape[2] / clip.frames.shape[1]


def distance(clip: Clip, track: Track) -> tuple[Float[np.ndarray, "T"], str]:
    """Return the distance from the camera, in some fixed unit, and where it comes from."""
    if track.centers is not None and clip.poses is not None:
        start = clip.poses[0]
        world = track.centers @ start[:3, :3].T + start[:3, 3]
        return np.linalg.norm(world - clip.poses[:, :3, 3], axis=1), "geometry"
    if track.depth is not None and np.isfinite(track.depth).all():
        return track.depth, "geometry"
    return 1 / np.maximum(box_side(track, aspect(clip)), 1e-6), "scale"


def _from_start(poses: np.ndarray, frame: int) -> Float[np.ndarray, "3 3"]:
    """Return the rotation from the axes of frame 0 to those of ``frame``."""
    return poses[frame, :3, :3].T @ poses[0, :3, :3]


def _camera_translation(poses: np.ndarray, first: int, last: int) -> Float[np.ndarray, "3"]:
    """Return the camera's translation between two frames, in the axes of frame 0."""
    return (poses[last, :3, 3] - poses[first, :3, 3]) @ poses[0, :3, :3]


def displacement(clip: Clip, track: Track, first: int, last: int, depth: float = 1.0
                 ) -> tuple[Float[np.ndarray, "3"], str]:
    """Return the motion of an object against the static scene, in the first camera's axes.

    Geometry: metres over the distance at the first frame. Boxes: frame heights for x and y, and
    log of the size ratio (negative is nearer) for z. Its source comes with it.

    Args:
      depth: factor on the object's depths, to see what would follow if it were farther or nearer.

    Raises:
      Ambiguous: its place is unknown, or the camera moves and no landmark tells how.
    """
    if track.centers is not None and clip.poses is not None:
        # ``centers`` stand in the axes of frame 0; turn them into those of ``first``.
        far, _ = distance(clip, track)
        move = track.centers[last] - track.centers[first]
        if depth != 1:
            camera = _camera_translation(clip.poses, first, last)
            move = camera / depth + move - camera
        move = _from_start(clip.poses, first) @ move / far[first]
        if not np.isfinite(move).all():
            raise Ambiguous("its place in space is unknown")
        return move, "geometry"
    shift = box_center(track)[last] - box_center(track)[first]
    ratio = box_side(track, aspect(clip))[first] / box_side(track, aspect(clip))[last]
    landmark = clip.landmark
    if landmark is not None and landmark.seen[[first, last]].all():
        shift = shift - (box_center(landmark)[last] - box_center(landmark)[first])
        sizes = box_side(landmark, aspect(clip))
        ratio = ratio * sizes[last] / sizes[first]
    elif any(s.moves != ("Static",) for s in clip.camera) or not clip.camera:
        raise Ambiguous("the camera moves and there is no landmark")
    return np.array([shift[0] * aspect(clip), shift[1], np.log(ratio)]), "boxes"


def position_uncertainty(clip: Clip, track: Track, first: int, last: int) -> float:
    """Return how far ``displacement`` may be off, in its unit, by the error of the centres."""
    if track.error is None or track.centers is None or clip.poses is None:
        return 0.0
    return float((track.error[first] + track.error[last]) / distance(clip, track)[0][first])


def sight_line_shifts(clip: Clip, track: Track, first: int, last: int
                      ) -> list[Float[np.ndarray, "3"] | None]:
    """Return by how much each depth error may shift ``displacement`` along the line of sight.

    Only the object's size tells its displacement there. None where an error is unbounded. The
    track must have ``centers`` and ``depth_error``, the clip poses.
    """
    assert track.centers is not None and track.depth_error is not None and clip.poses is not None
    far = distance(clip, track)[0]
    sight = track.centers[last] - _camera_translation(clip.poses, 0, last)
    sight = _from_start(clip.poses, first) @ sight / far[last]
    shifts: list[np.ndarray | None] = []
    for before, after in track.depth_error[:, [first, last]]:
        reach = np.inf
        if np.isfinite([before, after]).all():
            reach = abs(float(after - before)) * max(far[last] / far[first], 1.0)
        shifts.append(reach * sight if reach < np.inf else None)
    return shifts


def curve(values: Float[np.ndarray, "K"], same: float, changed: float) -> str:
    """Return ``flat``, ``up``, ``down``, ``up-down``, ``down-up`` or ``varying``.

    A change counts when it exceeds the ratio ``changed``; back and forth below ``same`` is noise.
    Raises Ambiguous where a change lies between.
    """
    logs = np.log(np.maximum(values, 1e-9))
    if logs.max() - logs.min() < np.log(same):
        return "flat"
    # Turning points, ignoring wiggles below ``same``.
    level, trend, high, low, pivots = np.log(same), 0, 0, 0, [0]
    for i in range(1, len(logs)):
        if trend >= 0 and logs[i] > logs[high]:
            high = i
        if trend <= 0 and logs[i] < logs[low]:
            low = i
        if trend <= 0 and logs[i] - logs[low] > level:
            pivots = [*pivots, low] if trend else [low]
            trend, high = 1, i
        elif trend >= 0 and logs[high] - logs[i] > level:
            pivots = [*pivots, high] if trend else [high]
            trend, low = -1, i
    legs = np.diff(logs[[*pivots, high if trend > 0 else low]])
    if (np.abs(legs) < np.log(changed)).any():
        raise Ambiguous("change: below the margin")
    return "-".join("up" if leg > 0 else "down" for leg in legs) if len(legs) < 3 else "varying"


def steps(clip: Clip, track: Track, frames: tuple[int, ...], depth: float = 1.0
          ) -> tuple[Float[np.ndarray, "K"], str]:
    """Return the speed between consecutive ``frames``, in some fixed unit, and its source."""
    moves, source = [], ""
    base, _ = distance(clip, track)
    for a, b in zip(frames, frames[1:], strict=False):
        move, source = displacement(clip, track, a, b, depth)
        scale = base[a] if source == "geometry" else 1.0
        moves.append(np.linalg.norm(move if source == "geometry" else move[:2]) * scale)
    return np.array(moves) / np.diff(clip.timestamps[list(frames)]), source


def rotation(clip: Clip, first: int, last: int) -> tuple[float, float, float]:
    """Return the camera's rotation between two frames: pan right, tilt up, roll clockwise, degrees.

    Raises Ambiguous where the clip has no poses.
    """
    if clip.poses is None:
        raise Ambiguous("camera: no poses to tell rotation by")
    between = clip.poses[first, :3, :3].T @ clip.poses[last, :3, :3]
    pan = np.arctan2(between[0, 2], between[2, 2])
    tilt = -np.arcsin(np.clip(between[1, 2], -1, 1))
    roll = np.arctan2(between[1, 0], between[1, 1])
    return float(np.degrees(pan)), float(np.degrees(tilt)), float(np.degrees(roll))


def straightness(clip: Clip, track: Track, frames: tuple[int, ...]) -> float:
    """Return net displacement over the length of the path: 1 for a straight path."""
    moves, scale = [], 1.0
    base, _ = distance(clip, track)
    for a, b in zip(frames, frames[1:], strict=False):
        move, source = displacement(clip, track, a, b)
        if source == "geometry":
            scale = base[a]
            move = clip.poses[a, :3, :3] @ move  # type: ignore[index]
        moves.append(move * scale)
    length = float(np.linalg.norm(moves, axis=1).sum())
    return float(np.linalg.norm(np.sum(moves, axis=0))) / max(length, 1e-9)


def frames_of(clip: Clip, segment: CameraSegment) -> tuple[int, int]:
    """Return the first and the last frame of a segment. Raises Ambiguous if it has but one."""
    inside = np.flatnonzero((clip.timestamps >= segment.start - 1e-6)
                            & (clip.timestamps <= segment.end + 1e-6))
    if len(inside) < 2:
        raise Ambiguous("camera: a segment of less than two frames")
    return int(inside[0]), int(inside[-1])
