"""A video file → clips with labels, by classical vision alone.

The file is decoded once, in order. Small frames are kept for analysis and larger ones, fewer, for
the clip; a shot cut or the longest span ends a clip, so memory depends on the span, not the file.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from fourd4d.core.errors import InputError
from fourd4d.synth.camera import estimate
from fourd4d.synth.camera.motion import CameraMotion, NoMotion
from fourd4d.synth.camera.motion_labels import MotionLabelSpec, without_ambiguous_moves
from fourd4d.synth.camera.pose_backends.base import CameraPath, PoseBackend
from fourd4d.synth.camera.pose_backends.features import from_features
from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.objects import landmarks, mask_checks, mask_motion, motion_evidence, naming
from fourd4d.synth.objects.classify import role_of
from fourd4d.synth.objects.localize import ObjectPath, boxes, enlarge, localize
from fourd4d.synth.objects.mask_backends.base import MaskBackend, MaskRequest, ObjectMask
from fourd4d.synth.objects.mask_backends.motion import MOTION
from fourd4d.synth.objects.motion_segmentation import MotionSegmentationSpec
from fourd4d.synth.video import letterbox
from fourd4d.synth.video.shots import ShotSpec
from fourd4d.synth.video.spans import Span, SpanSpec, iter_spans

T = TypeVar("T")

_MIN_FRAMES = 4  # Of a clip.
_MIN_CONTRAST = 2.0  # Standard deviation of grey levels, 0-255, in some frame.
_MIN_SHOWN = 3  # Frames of the clip in which an object must be seen,
_MIN_SHOWN_SECONDS = 1.0  # from the first to the last of them.
_MAX_LANDMARK_EVIDENCE = 1.5  # Of motion, in a landmark's pixels.


def iter_clips_with_backends(path: str | os.PathLike[str], name: str, spec: AnnotateSpec,
                             pose_of: Callable[[str], PoseBackend],
                             mask_of: Callable[[str], MaskBackend],
                             other_names: Sequence[str] = ()) -> Iterator[Clip]:
    """Return the clips of a file, by the backends of that video.

    Args:
      other_names: under which files of poses and masks are looked for too.

    Raises InputError as the backends do.
    """
    names = (name, *other_names)
    spec = dataclasses.replace(spec, poses=_first(pose_of, names), masks=_first(mask_of, names))
    return iter_clips(path, spec, name)


def _first(find: Callable[[str], T], names: Sequence[str]) -> T:
    """Return what is found under the first name that has anything; raises as the first does."""
    errors = []
    for name in names:
        try:
            return find(name)
        except InputError as error:
            errors.append(error)
    raise errors[0]


@dataclasses.dataclass(frozen=True)
class AnnotateSpec:
    """How a video is annotated.

    Attributes:
      fps: frames a second of the clips.
      side: longest side of their frames, pixels; smaller videos keep their size.
      analysis_fps, analysis_side: the same for the frames that are analysed.
      seconds: longest clip.
      shortest: shortest clip, seconds.
      max_clips: most clips of a file; 0 takes all.
      looks: keyframes a second, in which objects are found; the clip's frames come on top.
      depth_within: factor within which an object's depth is held to be known.
      poses: where camera poses come from.
      masks: where masks of objects come from.
      rule: what makes a camera-motion label.
      shots: where a shot ends.
      features: which camera explains the tracked points.
      residual: what is evidence of motion.
      objects: which evidence makes a moving object.
      consistency: which masks are believed.
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
    poses: PoseBackend = from_features
    masks: MaskBackend = MOTION
    rule: MotionLabelSpec = MotionLabelSpec()
    shots: ShotSpec = ShotSpec()
    features: estimate.CameraEstimateSpec = estimate.CameraEstimateSpec()
    residual: motion_evidence.MotionEvidenceSpec = motion_evidence.MotionEvidenceSpec()
    objects: MotionSegmentationSpec = MotionSegmentationSpec()
    consistency: mask_checks.MaskCheckSpec = mask_checks.MaskCheckSpec()

    def __post_init__(self) -> None:
        for name in ("fps", "analysis_fps", "seconds", "side", "analysis_side", "looks"):
            if not getattr(self, name) > 0:
                raise InputError(f"AnnotateSpec.{name}", f"{getattr(self, name)} is not positive",
                                 "Give a positive number")
        if self.analysis_fps < self.fps:
            raise InputError("AnnotateSpec.analysis_fps", f"{self.analysis_fps} is below fps",
                             "Analyse at least the frames of the clip")

    @property
    def spans(self) -> SpanSpec:
        """How files are cut into spans."""
        return SpanSpec(self.fps, self.side, self.analysis_fps, self.analysis_side, self.seconds,
                        self.shots)


class ClipRejected(Exception):
    """No clip is made of a span; the message says why."""


def iter_clips(path: str | os.PathLike[str], spec: AnnotateSpec | None = None, video_id: str = ""
               ) -> Iterator[Clip]:
    """Yield the clips of a file.

    Args:
      video_id: name of the video; the file's stem by default. A second clip and later ones of the
        same file have ``_0001`` and so on after it.

    Raises:
      InputError: no whole video, a single frame, or no span of which a clip could be made; the
        message says why.
    """
    spec = spec or AnnotateSpec()
    path = Path(path)
    made, rejected, number = 0, [], 0
    for span in iter_spans(path, spec.spans):
        name = f"{video_id or path.stem}" + (f"_{number:04d}" if number else "")
        number += 1
        try:
            clip = annotate_span(span, name, spec)
        except ClipRejected as reason:
            rejected.append(f"{span.times[0]:.1f}-{span.times[-1]:.1f} s: {reason}")
            continue
        made += 1
        yield clip
        if made == spec.max_clips:
            return
    if not made:
        more = f" and {len(rejected) - 4} more" if len(rejected) > 4 else ""
        what = "; ".join(rejected[:4]) + more
        raise InputError(path, f"no clip could be made ({what or 'a single frame'})",
                         "Use footage with texture, longer than a moment")


def annotate_span(span: Span, name: str, spec: AnnotateSpec) -> Clip:
    """Return the clip of a span, without the picture's black bars.

    Raises ClipRejected, with the reason, where the pictures tell too little.
    """
    file_size = span.small.shape[1], span.small.shape[2]
    window = letterbox.window(span.small)
    span = dataclasses.replace(span, small=window.crop(span.small), large=window.crop(span.large))
    grey = _grey(span, spec)
    motion = _camera_motion(grey, spec)
    path = spec.poses(span.small, span.times, motion)
    keyframes = _keyframes(span, spec.looks)
    evidence, background = motion_evidence.motion_evidence(
        span.small, span.times, keyframes, motion, spec.residual)
    request = MaskRequest(span.small[keyframes], span.times[keyframes], keyframes, motion, evidence,
                          background, spec.objects, file_size, window)
    of_clip = np.searchsorted(keyframes, span.picked)
    objects, dropped = _objects(request, grey[keyframes], path, of_clip, spec)
    objects += _landmark(request, objects, of_clip)
    provenance = {
        "source": "video", "camera": path.source, "objects": spec.masks.name, "scale": path.scale,
        "camera_model": motion.kind, "camera_support": round(motion.support, 3),
        "distance": "scale change", "masks_dropped": dict(dropped)}
    if window != letterbox.WHOLE:
        provenance["window"] = dataclasses.asdict(window)
    return Clip(
        video_id=name, frames=span.large, timestamps=span.times[span.picked],
        tracks=_tracks(request, objects, span.large.shape[1:3], of_clip, spec.masks.name),
        camera=_camera_segments(path, motion, span.times, spec.rule),
        poses=path.poses[span.picked], provenance=provenance)


def _grey(span: Span, spec: AnnotateSpec) -> UInt8[np.ndarray, "T H W"]:
    """Return the small frames in grey. Raises ClipRejected where the span is brief or blank."""
    seconds = float(span.times[-1] - span.times[0])
    if len(span.large) < _MIN_FRAMES or seconds < spec.shortest:
        raise ClipRejected(f"shorter than {spec.shortest:g} s")
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in span.small])
    if grey.std((1, 2)).max() < _MIN_CONTRAST:
        raise ClipRejected("the picture is empty")
    return grey


def _camera_motion(grey: UInt8[np.ndarray, "T H W"], spec: AnnotateSpec) -> CameraMotion:
    """Return the camera's motion. Raises ClipRejected where the pictures do not tell it."""
    try:
        return estimate.estimate(grey, spec.features)
    except NoMotion as reason:
        raise ClipRejected(str(reason)) from reason


def _camera_segments(path: CameraPath, motion: CameraMotion, times: Float[np.ndarray, "T"],
                     rule: MotionLabelSpec) -> tuple[CameraSegment, ...]:
    """Return the camera's moves, without those that tracked points alone do not prove."""
    segments = path.camera(times, rule)
    if path.poses is motion.poses and motion.kind == "moving":
        return tuple(without_ambiguous_moves(segment) for segment in segments)
    return segments


def _keyframes(span: Span, rate: float) -> Int[np.ndarray, "M"]:
    """Return the frames in which objects are found: about ``rate`` a second, and the clip's."""
    step = max(1, round(1 / (rate * float(np.median(np.diff(span.times))))))
    return np.unique(np.concatenate([span.picked, np.arange(0, len(span.small), step)]))


@dataclasses.dataclass(frozen=True)
class _LocatedObject:
    """An object with the masks that are believed, and where it is if it moves."""

    found: ObjectMask
    path: ObjectPath | None = None

    @property
    def moves(self) -> bool:
        return self.found.role == "dynamic"


def _objects(request: MaskRequest, grey: UInt8[np.ndarray, "M H W"], path: CameraPath,
             of_clip: Int[np.ndarray, "K"], spec: AnnotateSpec
             ) -> tuple[list[_LocatedObject], collections.Counter[str]]:
    """Return the objects that are believed, moving ones first, and why masks were dropped.

    Args:
      grey: the keyframes.
      of_clip: which of the keyframes are the clip's frames.
    """
    dropped: collections.Counter[str] = collections.Counter()
    objects = []
    for found in spec.masks.find(request):
        role = found.role or role_of(request, found.masks)
        if not role:
            dropped["it may move or not"] += 1
            continue
        flow = mask_motion.object_flow(grey, found.masks, request.flow)
        good, reasons = mask_checks.check(request.frames, request.times, found.masks,
                                          spec.consistency, flow)
        dropped.update(reasons)
        shown = request.times[of_clip[good[of_clip]]]
        if len(shown) < _MIN_SHOWN or shown[-1] - shown[0] < _MIN_SHOWN_SECONDS:
            continue
        masks = found.masks & good[:, None, None]
        where = None
        if role == "dynamic":
            where = localize(request, masks, flow, path, of_clip, spec.depth_within)
        objects.append(_LocatedObject(ObjectMask(masks, found.name, role), where))
    return sorted(objects, key=lambda one: not one.moves), dropped


def _landmark(request: MaskRequest, objects: Sequence[_LocatedObject],
              of_clip: Int[np.ndarray, "K"]) -> list[_LocatedObject]:
    """Return a landmark of the static scene, unless the mask backend has found one."""
    if not all(one.moves for one in objects):
        return []
    # Fainter evidence also hides a landmark, wherever it belongs to no object.
    moving = request.evidence > _MAX_LANDMARK_EVIDENCE
    for one in objects:
        moving |= one.found.masks
    masks = landmarks.find_landmark(request.frames, request.chosen, request.motion, moving)
    if masks is None or masks[of_clip].any((1, 2)).sum() < 2:
        return []
    return [_LocatedObject(ObjectMask(masks, role="static"))]


def _tracks(request: MaskRequest, objects: Sequence[_LocatedObject], size: tuple[int, int],
            of_clip: Int[np.ndarray, "K"], source: str) -> tuple[Track, ...]:
    """Return the tracks of a clip whose frames are of ``size`` (height, width)."""
    tracks = []
    for one, name in zip(objects, naming.labels(request.frames, [one.found for one in objects])):
        masks = np.stack([enlarge(one.found.masks[m], *size) for m in of_clip])
        where = {} if one.path is None else vars(one.path)
        tracks.append(Track(
            name=name, role="dynamic" if one.moves else "static", boxes=boxes(masks), masks=masks,
            source=source if one.moves or one.found.name else "features", **where))
    return tuple(tracks)
