"""What a clip shows, in numbers, and the rules that turn numbers into answers.

Geometry (centres and poses in metres, or in one unknown scale) is used where a clip has it;
otherwise screen boxes, with the landmark standing for the camera's motion and size for distance.
A rule answers, or says why it will not: cases near a boundary are ambiguous and dropped.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.questions.answer_pools import SECTORS
from fourd4d.synth.questions.margins import Ambiguous, Margins


def evenly_spaced(first: int, last: int, count: int) -> tuple[int, ...]:
    """``count`` frames from ``first`` at one spacing, the largest that stays within ``last``."""
    step = max((last - first) // max(count - 1, 1), 1)
    return tuple(first + step * i for i in range(min(count, (last - first) // step + 1)))


def box_center(track: Track) -> Float[np.ndarray, "T 2"]:
    """Box centres, fractions of the frame."""
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


def box_side(track: Track, aspect: float) -> Float[np.ndarray, "T"]:
    """Side of the square of the box's area, frame heights. ``aspect`` is width / height."""
    w, h = (track.boxes[:, 2:] - track.boxes[:, :2]).T
    return np.sqrt(np.maximum(w * h * aspect, 0))


def aspect(clip: Clip) -> float:
    """Width / height."""
    return clip.frames.shape[2] / clip.frames.shape[1]


def distance(clip: Clip, track: Track) -> tuple[Float[np.ndarray, "T"], str]:
    """Distance from the camera (in some fixed unit), and where it comes from."""
    if track.centers is not None and clip.poses is not None:
        start = clip.poses[0]
        world = track.centers @ start[:3, :3].T + start[:3, 3]
        return np.linalg.norm(world - clip.poses[:, :3, 3], axis=1), "geometry"
    if track.depth is not None and np.isfinite(track.depth).all():
        return track.depth, "geometry"
    return 1 / np.maximum(box_side(track, aspect(clip)), 1e-6), "scale"


def _from_start(poses: np.ndarray, frame: int) -> Float[np.ndarray, "3 3"]:
    """Turns vectors in the axes of frame 0 into those of ``frame``."""
    return poses[frame, :3, :3].T @ poses[0, :3, :3]


def _eye(poses: np.ndarray, first: int, last: int) -> Float[np.ndarray, "3"]:
    """The camera's way between two frames, in the axes of frame 0."""
    return (poses[last, :3, 3] - poses[first, :3, 3]) @ poses[0, :3, :3]


def displacement(clip: Clip, track: Track, first: int, last: int, depth: float = 1.0
                 ) -> tuple[Float[np.ndarray, "3"], str]:
    """Motion of the thing against the static scene, in the first camera's axes.

    Geometry: metres over the distance at the first frame. Boxes: frame heights for x and y, and
    log of the size ratio (negative is nearer) for z.

    Args:
      depth: factor on the thing's depths, to see what would follow if it were farther or nearer.
    """
    if track.centers is not None and clip.poses is not None:
        # ``centers`` stand in the axes of frame 0; turn them into those of ``first``.
        far, _ = distance(clip, track)
        way = track.centers[last] - track.centers[first]
        if depth != 1:
            eye = _eye(clip.poses, first, last)
            way = eye / depth + way - eye
        move = _from_start(clip.poses, first) @ way / far[first]
        if not np.isfinite(move).all():
            raise Ambiguous("its place in space is unknown")
        return move, "geometry"
    shift = box_center(track)[last] - box_center(track)[first]
    ratio = box_side(track, aspect(clip))[first] / box_side(track, aspect(clip))[last]
    mark = clip.landmark
    if mark is not None and mark.seen[[first, last]].all():
        shift = shift - (box_center(mark)[last] - box_center(mark)[first])
        sizes = box_side(mark, aspect(clip))
        ratio = ratio * sizes[last] / sizes[first]
    elif any(s.moves != ("Static",) for s in clip.camera) or not clip.camera:
        raise Ambiguous("the camera moves and there is no landmark")
    return np.array([shift[0] * aspect(clip), shift[1], np.log(ratio)]), "boxes"


def direction(move: Float[np.ndarray, "3"], margins: Margins) -> str:
    """One of the eleven answers of ``answer_pools.DIRECTION``. Raises Ambiguous near a boundary."""
    length = float(np.linalg.norm(move))
    if length < margins.still:
        return "Stationary"
    if length < margins.moving:
        raise Ambiguous("direction: neither moving nor still")
    across = float(np.hypot(move[0], move[1]))
    out = np.degrees(np.arctan2(abs(move[2]), across))
    if out > 45 + margins.angle:
        return "Toward the camera" if move[2] < 0 else "Away from the camera"
    if out > 45 - margins.angle:
        raise Ambiguous("direction: between screen plane and depth")
    angle = np.degrees(np.arctan2(move[1], move[0])) % 360
    sector = round(angle / 45)
    if abs(angle - 45 * sector) > 22.5 - margins.angle:
        raise Ambiguous("direction: between two directions")
    return SECTORS[sector % 8]


def position_uncertainty(clip: Clip, track: Track, first: int, last: int) -> float:
    """How far ``displacement`` may be off, in its unit, by the error of the track's centres."""
    if track.error is None or track.centers is None or clip.poses is None:
        return 0.0
    return float((track.error[first] + track.error[last]) / distance(clip, track)[0][first])


def is_stationary(clip: Clip, track: Track, first: int, last: int, margins: Margins) -> bool:
    """Whether a thing stays where it is from ``first`` to ``last``, and clearly moves at another
    time: what never does may be no moving thing at all."""
    seen = np.flatnonzero(track.seen)
    ways = {int(t): float(np.linalg.norm(displacement(clip, track, first, int(t))[0]))
            for t in seen if t != first}
    return (all(way < margins.moving for t, way in ways.items() if first < t < last)
            and (track.error is None or max(ways.values()) >= margins.moving))


def confident_direction(clip: Clip, track: Track, first: int, last: int, margins: Margins
                        ) -> tuple[str, str]:
    """The direction between two frames, and its source; Ambiguous where errors could change it.

    The error of the centres may turn the displacement by the margin's angle at most, and the
    answer must be the same were the thing ``depth_within`` times as far or as near.
    """
    move, source = displacement(clip, track, first, last)
    answer = direction(move, margins)
    reach = float(np.linalg.norm(move)) * np.sin(np.radians(margins.angle))
    if not position_uncertainty(clip, track, first, last) <= max(reach, margins.still):
        raise Ambiguous("direction: the track is not exact enough")
    loose = dataclasses.replace(margins, angle=0.0)

    def holds(other: np.ndarray) -> bool:
        try:
            return direction(other, loose) == answer
        except Ambiguous:
            return False

    sure = all(holds(displacement(clip, track, first, last, factor)[0])
               for factor in {1 / track.depth_within, track.depth_within} - {1.0})
    if track.depth_error is not None and source == "geometry":
        # The way along the sight line is told by the size alone.
        assert track.centers is not None and clip.poses is not None
        far = distance(clip, track)[0]
        sight = track.centers[last] - _eye(clip.poses, 0, last)
        sight = _from_start(clip.poses, first) @ sight / far[last]
        ends = track.depth_error[:, [first, last]]
        offs = [abs(float(b - a)) * max(far[last] / far[first], 1.0) if np.isfinite([a, b]).all()
                else np.inf for a, b in ends]
        borne = [off < np.inf and holds(move - off * sight) and holds(move + off * sight)
                 for off in offs]
        # What rests on depth must bear every doubt; what goes across, the least.
        sure &= all(borne) if "camera" in answer else any(borne)
    if not sure:
        raise Ambiguous("direction: the depth is not known well enough")
    return answer, source


def _shape(values: Float[np.ndarray, "K"], same: float, changed: float) -> str:
    """``flat``, ``up``, ``down``, ``up-down``, ``down-up`` or ``varying``; Ambiguous if unclear.

    A change counts when it exceeds the ratio ``changed``; back and forth below ``same`` is noise.
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


def distance_answer(values: Float[np.ndarray, "K"], margins: Margins) -> str:
    """One of ``answer_pools.DISTANCE`` from distances over time."""
    shape = _shape(values, margins.same, margins.changed)
    names = {"flat": "Same distance", "up": "Getting farther", "down": "Getting closer",
             "up-down": "First farther, then closer", "down-up": "First closer, then farther"}
    if shape not in names:
        raise Ambiguous("distance: changes more than twice")
    return names[shape]


def speed_answer(speeds: Float[np.ndarray, "K"], margins: Margins) -> str:
    """One of ``answer_pools.SPEED_VARYING`` from speeds over equal spans of time."""
    if speeds.max() < 1e-6:
        raise Ambiguous("speed: it does not move")
    shape = _shape(np.maximum(speeds, 0.08 * speeds.max()), margins.steady, margins.pace)
    return {"flat": "Constant speed", "up": "Speeding up", "down": "Slowing down",
            "up-down": "First faster, then slower", "down-up": "First slower, then faster",
            "varying": "Varying speed"}[shape]


def steps(clip: Clip, track: Track, frames: tuple[int, ...], depth: float = 1.0
          ) -> tuple[Float[np.ndarray, "K"], str]:
    """Length of the way between consecutive ``frames`` over its time (any unit), and the source."""
    moves, source = [], ""
    base, _ = distance(clip, track)
    for a, b in zip(frames, frames[1:], strict=False):
        move, source = displacement(clip, track, a, b, depth)
        scale = base[a] if source == "geometry" else 1.0
        moves.append(np.linalg.norm(move if source == "geometry" else move[:2]) * scale)
    return np.array(moves) / np.diff(clip.timestamps[list(frames)]), source


def confident_speed(clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
                    ) -> tuple[str, str]:
    """The change of speed over ``frames``, and its source; Ambiguous where errors could change it.
    """
    first, last = frames[0], frames[-1]
    if np.diff(clip.timestamps[list(frames)]).min() < margins.interval - 1e-6:
        raise Ambiguous("speed: its readings are too close in time")
    if track.depth_error is not None and not np.isfinite(
            track.depth_error[:, list(frames)]).any(0).all():
        raise Ambiguous("speed: its distance is not known")
    # A mask that is not whole yet makes its object seem to come nearer; as far as a speed may be
    # off between one that changes and one that does not.
    if track.depth_error is not None and not (
            np.ptp(track.depth_error[:, first : last + 1][:, track.seen[first : last + 1]], axis=1)
            <= margins.pace / margins.steady - 1).all():
        raise Ambiguous("speed: the mask changes otherwise than the picture in it")
    speeds, source = steps(clip, track, frames)
    answer = speed_answer(speeds, margins)
    for a, b in zip(frames, frames[1:], strict=False) if track.error is not None else ():
        between = tuple(int(t) for t in a + np.flatnonzero(track.seen[a : b + 1]))
        pace = (steps(clip, track, between)[0] * np.diff(clip.timestamps[list(between)])).sum() \
            / (clip.timestamps[b] - clip.timestamps[a])
        # Slower than this it may be noise that turns.
        if pace > 0.25 * speeds.max() and straightness(clip, track, between) < margins.straight:
            raise Ambiguous("speed: it turns between two readings")
    base, _ = distance(clip, track)
    off = [position_uncertainty(clip, track, a, b) * base[a]
           / (clip.timestamps[b] - clip.timestamps[a])
           for a, b in zip(frames, frames[1:], strict=False)]
    # As much as may lie between two readings of one speed.
    if not max(off) <= (margins.steady - 1) * speeds.max():
        raise Ambiguous("speed: the track is not exact enough")
    for factor in {1 / track.depth_within, track.depth_within} - {1.0}:
        if speed_answer(steps(clip, track, frames, factor)[0], margins) != answer:
            raise Ambiguous("speed: the depth is not known well enough")
    return answer, source


def confident_distance(clip: Clip, track: Track, first: int, last: int, margins: Margins
                       ) -> tuple[str, str]:
    """How the distance changes between two frames, and its source; Ambiguous where errors could
    change it, or where it is read in fewer than three frames."""
    values, source = distance(clip, track)
    known = first + np.flatnonzero(track.seen[first : last + 1]
                                   & np.isfinite(values[first : last + 1]))
    if len(known) < 3:
        raise Ambiguous("distance: fewer than three readings")
    answer = distance_answer(values[known], margins)
    # As much as may lie between a change that counts and one that does not.
    if track.depth_error is not None and not (
            np.abs(track.depth_error[:, known]).max() <= margins.changed / margins.same - 1):
        raise Ambiguous("distance: the track is not exact enough")
    return answer, source


def rotation(clip: Clip, first: int, last: int) -> tuple[float, float, float]:
    """Camera rotation between two frames: pan right, tilt up, roll clockwise, degrees.

    Raises Ambiguous where the clip has no poses.
    """
    if clip.poses is None:
        raise Ambiguous("camera: no poses to tell rotation by")
    between = clip.poses[first, :3, :3].T @ clip.poses[last, :3, :3]
    pan = np.arctan2(between[0, 2], between[2, 2])
    tilt = -np.arcsin(np.clip(between[1, 2], -1, 1))
    roll = np.arctan2(between[1, 0], between[1, 1])
    return float(np.degrees(pan)), float(np.degrees(tilt)), float(np.degrees(roll))


def background_shift(clip: Clip, first: int, last: int) -> str:
    """How things far away shift on screen, from the camera's largest rotation, in a word."""
    angles = rotation(clip, first, last)
    biggest = int(np.abs(angles).argmax())
    if abs(angles[biggest]) < 3:
        return "still"
    names = (("right", "left"), ("up", "down"), ("turning clockwise", "turning counterclockwise"))
    return names[biggest][int(angles[biggest] > 0)]


def straightness(clip: Clip, track: Track, frames: tuple[int, ...]) -> float:
    """Net displacement over the length of the way, 1 for a straight way there."""
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
    """First and last frame within the segment's times."""
    inside = np.flatnonzero((clip.timestamps >= segment.start - 1e-6)
                            & (clip.timestamps <= segment.end + 1e-6))
    if len(inside) < 2:
        raise Ambiguous("camera: a segment of less than two frames")
    return int(inside[0]), int(inside[-1])
