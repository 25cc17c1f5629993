"""A video file → clips with labels, by classical vision alone.

The file is decoded once, in order. Small frames are kept for analysis and larger ones, fewer, for
the clip; a shot cut or the longest span ends a clip, so memory depends on the span, not the file.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.stream import Disposition

from fourd4d.core.errors import InputError
from fourd4d.processing.color import to_rgb
from fourd4d.processing.video import read_video
from fourd4d.synth import (
    consistency,
    features,
    following,
    landmarks,
    letterbox,
    masks,
    naming,
    objects,
    poses,
    residual,
)
from fourd4d.synth.camera import CameraRule
from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.shots import CutDetector, ShotSpec, gradual


@dataclasses.dataclass(frozen=True)
class DigestSpec:
    """How a video is digested.

    Attributes:
      fps: frames a second of the clips.
      side: longest side of their frames, pixels; smaller videos keep their size.
      analysis_fps, analysis_side: the same for the frames that are analysed.
      seconds: longest clip.
      shortest: shortest clip, seconds.
      max_clips: most clips of a file; 0 takes all.
      looks: frames a second in which moving things are looked for; the clip's come on top.
      depth_within: factor within which a thing's depth is held to be known.
      poses: where camera poses come from.
      masks: where masks of things come from.
    """

    fps: float = 2.0
    side: int = 448
    analysis_fps: float = 12.0
    analysis_side: int = 320
    seconds: float = 10.0
    shortest: float = 1.5
    max_clips: int = 12
    looks: float = 5.0
    depth_within: float = 1.8
    poses: poses.PoseSource = poses.from_features
    masks: masks.MaskSource = masks.MOTION
    rule: CameraRule = CameraRule()
    shots: ShotSpec = ShotSpec()
    features: features.FeatureSpec = features.FeatureSpec()
    residual: residual.ResidualSpec = residual.ResidualSpec()
    objects: objects.ObjectSpec = objects.ObjectSpec()
    consistency: consistency.ConsistencySpec = consistency.ConsistencySpec()

    def __post_init__(self) -> None:
        for name in ("fps", "analysis_fps", "seconds", "side", "analysis_side", "looks"):
            if not getattr(self, name) > 0:
                raise InputError(f"DigestSpec.{name}", f"{getattr(self, name)} is not positive",
                                 "Give a positive number")
        if self.analysis_fps < self.fps:
            raise InputError("DigestSpec.analysis_fps", f"{self.analysis_fps} is below fps",
                             "Analyse at least the frames of the clip")


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of one shot as it comes off the decoder.

    Attributes:
      small: frames that are analysed.
      times: of those, seconds from the file's first frame.
      large: frames of the clip.
      picked: which of the small frames they are.
    """

    small: np.ndarray
    times: np.ndarray
    large: np.ndarray
    picked: np.ndarray


class Refused(Exception):
    """No clip is made of a span; the message says why."""


def digest(path: str | os.PathLike[str], spec: DigestSpec | None = None, video_id: str = ""
           ) -> list[Clip]:
    """The clips of a file, in time order; see ``iterate``."""
    return list(iterate(path, spec, video_id))


def digester(source: str = "features", spec: DigestSpec | None = None) -> Callable[[Path], Clip]:
    """A function from a file to its first clip, with a named source of poses."""
    spec = dataclasses.replace(spec or DigestSpec(), poses=poses.named(source), max_clips=1)
    return lambda path: next(iterate(path, spec))


def iterate(path: str | os.PathLike[str], spec: DigestSpec | None = None, video_id: str = ""
            ) -> Iterator[Clip]:
    """The clips of a file, one at a time.

    Args:
      video_id: name of the video; the file's stem by default. A second clip and later ones of the
        same file have ``_0001`` and so on after it.

    Raises:
      InputError: no whole video, a single frame, or no span of which a clip could be made; the
        message says why.
    """
    spec = spec or DigestSpec()
    path = Path(path)
    read_video(path, 1.0, 1)  # Lists the packets: truncated files are told before any work.
    made, refused, number = 0, [], 0
    for span in _spans(path, spec):
        name = f"{video_id or path.stem}" + (f"_{number:04d}" if number else "")
        number += 1
        try:
            clip = look(span, name, spec)
        except Refused as reason:
            refused.append(f"{span.times[0]:.1f}-{span.times[-1]:.1f} s: {reason}")
            continue
        made += 1
        yield clip
        if made == spec.max_clips:
            return
    if not made:
        more = f" and {len(refused) - 4} more" if len(refused) > 4 else ""
        what = "; ".join(refused[:4]) + more
        raise InputError(path, f"no clip could be made ({what or 'a single frame'})",
                         "Use footage with texture, longer than a moment")


@dataclasses.dataclass
class _Reel:
    """Frames of one shot, as ``Span`` holds them, while they gather."""

    small: list[np.ndarray] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    large: list[np.ndarray] = dataclasses.field(default_factory=list)
    picked: list[int] = dataclasses.field(default_factory=list)

    def tail(self, seconds: float) -> _Reel:
        """The frames analysed of the last seconds."""
        first = int(np.searchsorted(self.times, self.times[-1] - seconds))
        return _Reel(self.small[first:], self.times[first:])

    def pieces(self, before: _Reel, after: _Reel, shots: ShotSpec) -> Iterator[Span]:
        """Spans without dissolves and faded ends; each starts with a frame of the clip.

        ``before`` and ``after`` are neighbours in the same shot, where a dissolve may begin or end.
        """
        small = [*before.small, *self.small, *after.small]
        times = [*before.times, *self.times, *after.times]
        good = np.ones(len(small), bool)
        for a, b in gradual(small, times, shots):
            good[a + 1 : b] = False
        good = good[len(before.small) :][: len(self.small)]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
        picked = np.array(self.picked)
        contrast = np.array([frame.std() for frame in self.small])
        for a, b in edges.reshape(-1, 2):
            clear = a + np.flatnonzero(contrast[a:b] >= shots.clear * np.median(contrast[a:b]))
            a, b = clear[0], clear[-1] + 1
            inside = np.flatnonzero((picked >= a) & (picked < b))
            if len(inside):
                start = picked[inside[0]]
                yield Span(np.stack(self.small[start:b]), np.array(self.times[start:b]),
                           np.stack([self.large[i] for i in inside]), picked[inside] - start)


def _spans(path: Path, spec: DigestSpec) -> Iterator[Span]:
    """Spans of single shots, decoded as they are asked for."""
    cut = CutDetector(spec.shots)
    before, full, reel = _Reel(), _Reel(), _Reel()
    next_large = -np.inf
    for moment, pixels in _frames(path, spec.analysis_fps):
        view = _shrink(pixels, spec.analysis_side)
        fresh = bool(reel.times) and (view.shape != reel.small[0].shape or cut(view))
        if not reel.times:
            cut(view)
        long = bool(reel.times) and moment - reel.times[0] > spec.seconds + 1e-6
        # A full reel waits until a dissolve that began in it would have ended.
        if full.times and (fresh or long or moment - reel.times[0] > spec.shots.dissolve):
            yield from full.pieces(before, reel, spec.shots)
            before, full = full.tail(spec.shots.dissolve), _Reel()
        if fresh:
            yield from reel.pieces(before, _Reel(), spec.shots)
            before, reel = _Reel(), _Reel()
        elif long:
            full, reel = reel, _Reel()
        if not reel.times:
            next_large = -np.inf
        if moment >= next_large - 0.5 / spec.analysis_fps:
            reel.large.append(_shrink(pixels, spec.side))
            reel.picked.append(len(reel.small))
            next_large = max(next_large, moment) + 1 / spec.fps
        reel.small.append(view)
        reel.times.append(moment)
    if full.times:
        yield from full.pieces(before, reel, spec.shots)
        before = full.tail(spec.shots.dissolve)
    if reel.times:
        yield from reel.pieces(before, _Reel(), spec.shots)


def _frames(path: Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """Upright RGB frames, at most so many a second, with their seconds from the first."""
    try:
        with av.open(os.fspath(path)) as container:
            stream = next(s for s in container.streams.video
                          if not s.disposition & Disposition.attached_pic)
            stream.thread_type = "AUTO"
            start, due, last = None, -np.inf, -np.inf
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    continue
                moment = float(frame.pts * frame.time_base)
                start = moment if start is None else start
                moment -= start
                if moment < due - 1e-3 or moment <= last:
                    continue
                due, last = max(due + 1 / fps, moment + 0.5 / fps), moment
                yield moment, np.ascontiguousarray(
                    np.rot90(to_rgb(frame), round(frame.rotation / 90)))
    except av.error.FFmpegError as error:
        raise InputError(path, f"it cannot be decoded ({error.strerror})",
                         "Fetch it again, or convert it") from error


def _shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = tuple(max(16, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def look(span: Span, name: str, spec: DigestSpec) -> Clip:
    """A clip of a span, without the picture's black bars. Raises Refused with the reason where
    nothing can be told."""
    window, whole = letterbox.window(span.small), span.small.shape[1:3]
    span = dataclasses.replace(span, small=window.crop(span.small), large=window.crop(span.large))
    seconds = float(span.times[-1] - span.times[0])
    if len(span.large) < 4 or seconds < spec.shortest:
        raise Refused(f"shorter than {spec.shortest:g} s")
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in span.small])
    if grey.std((1, 2)).max() < 2:
        raise Refused("the picture is empty")
    try:
        motion = features.estimate(grey, spec.features)
    except features.NoMotion as reason:
        raise Refused(str(reason)) from reason
    path = spec.poses(span.small, span.times, motion)
    camera = path.camera(span.times, spec.rule)
    if path.poses is motion.poses and motion.kind == "moving":
        camera = tuple(_believed(segment) for segment in camera)
    chosen = _looks(span, spec.looks)
    frames, times = span.small[chosen], span.times[chosen]
    evidence, usual = residual.evidence(span.small, span.times, chosen, motion, spec.residual)
    sight = masks.Sight(frames, times, chosen, motion, evidence, usual, spec.objects, whole,
                        window)
    out = np.searchsorted(chosen, span.picked)
    looks = grey[chosen]
    dropped: collections.Counter[str] = collections.Counter()
    kept: list[tuple[masks.Found, dict[str, Any]]] = []  # Things, and where they are if they move.
    for thing in spec.masks.find(sight):
        role = thing.role or masks.role_of(sight, thing.masks)
        if not role:
            dropped["it may move or not"] += 1
            continue
        own = following.own_flow(looks, thing.masks, sight.flow)
        good, reasons = consistency.check(frames, times, thing.masks, spec.consistency, own)
        dropped.update(reasons)
        shown = out[good[out]]
        if len(shown) >= 3 and times[shown[-1]] - times[shown[0]] >= 1.0:
            believed = thing.masks & good[:, None, None]
            place = {}
            if role == "dynamic":
                place = _place(believed, own, chosen, motion, path, out)
                place["depth_within"] = spec.depth_within
            kept.append((masks.Found(believed, thing.name, role), place))
    # Fainter evidence also hides a landmark, wherever it belongs to no thing.
    moving = evidence > 1.5
    for thing, _ in kept:
        if thing.role == "dynamic":
            moving |= thing.masks
    kept.sort(key=lambda item: item[0].role != "dynamic")
    if all(thing.role == "dynamic" for thing, _ in kept):
        mark = landmarks.find_landmark(frames, chosen, motion, moving)
        if mark is not None and mark[out].any((1, 2)).sum() >= 2:
            kept.append((masks.Found(mark, role="static"), {}))
    labels = naming.labels(frames, [thing for thing, _ in kept])
    height, width = span.large.shape[1:3]
    made = []
    for (thing, place), label in zip(kept, labels):
        shown = np.stack([_enlarge(thing.masks[m], height, width) for m in out])
        moves = thing.role == "dynamic"
        made.append(Track(
            name=label, role="dynamic" if moves else "static", boxes=_boxes(shown), masks=shown,
            source=spec.masks.name if moves or thing.name else "features", **place,
        ))  # fmt: skip
    return Clip(
        video_id=name, frames=span.large, timestamps=span.times[span.picked], tracks=tuple(made),
        camera=camera, poses=path.poses[span.picked],
        provenance={"source": "video", "camera": path.source, "objects": spec.masks.name,
                    "scale": path.scale, "camera_model": motion.kind,
                    "camera_support": round(motion.support, 3), "distance": "scale change",
                    "masks_dropped": dict(dropped)}
        | ({} if window == letterbox.WHOLE else {"window": dataclasses.asdict(window)}),
    )  # fmt: skip


def _believed(segment: CameraSegment) -> CameraSegment:
    """Without its moves where there are three: before things in depth, features confuse a turn with
    travel the other way, and the two nearly cancel."""
    return segment if len(segment.moves) < 3 else dataclasses.replace(segment, moves=())


def _looks(span: Span, rate: float) -> np.ndarray:
    """Frames to look for things in: about ``rate`` a second, and those of the clip."""
    step = max(1, round(1 / (rate * float(np.median(np.diff(span.times))))))
    return np.unique(np.concatenate([span.picked, np.arange(0, len(span.small), step)]))


def _enlarge(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask.astype(np.float32), (width, height)) > 0.5


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes around masks, fractions of the frame; NaN where there is none."""
    count, height, width = masks.shape
    out = np.full((count, 4), np.nan, np.float32)
    for i, mask in enumerate(masks):
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(xs):
            out[i] = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return out


def _place(masks: np.ndarray, flow: np.ndarray, chosen: np.ndarray,
           motion: features.CameraMotion, path: poses.CameraPath, out: np.ndarray
           ) -> dict[str, Any]:
    """Where a moving thing is in the looks ``out``, and how far off that may be: fields of
    ``Track``. ``flow`` is its own, see ``following.own_flow``."""
    sizes, grown = following.sizes(masks)
    flicker, drift = following.split_flicker(following.stray(masks, flow))
    centres, depth = _centres(masks, sizes, flicker, chosen, motion, path)
    error = depth * np.linalg.norm(drift, axis=1) / motion.focal
    swell = np.stack([following.swell(masks, flow, sizes), grown])
    return dict(centers=centres[out], depth=depth[out], error=error[out], depth_error=swell[:, out])


def _centres(masks: np.ndarray, sizes: np.ndarray, flicker: np.ndarray, chosen: np.ndarray,
             motion: features.CameraMotion, path: poses.CameraPath
             ) -> tuple[np.ndarray, np.ndarray]:
    """Centres in the first frame's axes and depths, in the poses' unit; NaN where not seen.

    The thing is taken to be as far as the scene about it when first seen, and from then on
    farther or nearer as its size says. ``flicker`` (M, 2), pixels, is taken off its masks' centres.
    """
    height, width = motion.size
    seen = np.flatnonzero(masks.any((1, 2)))
    centres, depth = np.full((len(masks), 3), np.nan), np.full(len(masks), np.nan)
    for m in seen:
        # Averaged over neighbours in time: a mask's edge flickers.
        near = seen[np.abs(seen - m) <= 1]
        depth[m] = 1 / np.exp(np.log(sizes[near]).mean())
    first = int(seen[0])
    ys, xs = np.nonzero(masks[first])
    if motion.kind == "moving":
        ground = residual.inverse_depth_map(motion, int(chosen[first]))
        foot = min(int(ys.max()) + 2, height - 1)
        around = 1 / max(float(ground[foot, int(xs.mean())]), 0.05)
    else:
        around = 1.0
    if path.scene_depth is not None:  # From the features' scene depths to the poses' unit.
        around *= float(path.scene_depth[chosen[first]] / motion.scene_depth[chosen[first]])
    depth *= around / depth[first]
    start = np.linalg.inv(path.poses[0])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    places = following.centres(masks) - flicker
    for m in seen:
        ray = np.append((places[m] - middle) / motion.focal, 1.0)
        pose = start @ path.poses[chosen[m]]
        centres[m] = pose[:3, :3] @ (ray * depth[m]) + pose[:3, 3]
    return centres, depth
