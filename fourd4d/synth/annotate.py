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
from typing import Any, TypeVar

import cv2
import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.synth.camera import estimate, pose_backends
from fourd4d.synth.camera.motion import NoMotion
from fourd4d.synth.camera.motion_labels import MotionLabelSpec, without_ambiguous_moves
from fourd4d.synth.camera.pose_backends.base import PoseBackend
from fourd4d.synth.camera.pose_backends.features import from_features
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.objects import (
    landmarks,
    mask_checks,
    mask_motion,
    motion_evidence,
    naming,
)
from fourd4d.synth.objects.classify import role_of
from fourd4d.synth.objects.localize import boxes, enlarge, localize
from fourd4d.synth.objects.mask_backends.base import MaskBackend, MaskRequest, ObjectMask
from fourd4d.synth.objects.mask_backends.motion import MOTION
from fourd4d.synth.objects.motion_segmentation import MotionSegmentationSpec
from fourd4d.synth.video import letterbox
from fourd4d.synth.video.shots import ShotSpec
from fourd4d.synth.video.spans import Span, SpanSpec, iter_spans

T = TypeVar("T")


def iter_clips_with_backends(path: str | os.PathLike[str], name: str, spec: AnnotateSpec,
                             pose_of: Callable[[str], PoseBackend],
                             mask_of: Callable[[str], MaskBackend],
                             other_names: Sequence[str] = ()) -> Iterator[Clip]:
    """Return the clips of a file, with the backends of that video.

    Args:
      other_names: under which files of poses and masks are looked for too.

    Raises InputError as the backends do.
    """
    names = (name, *other_names)
    spec = dataclasses.replace(spec, poses=_first(pose_of, names), masks=_first(mask_of, names))
    return iter_clips(path, spec, name)


def _first(find: Callable[[str], T], names: Sequence[str]) -> T:
    """What is found under the first name that has anything; raises as the first name does."""
    errors = []
    for name in names:
        try:
            return find(name)
        except InputError as error:
            errors.append(error)
    raise errors[0]


@dataclasses.dataclass(frozen=True)
class AnnotateSpec:
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

def annotate_video(path: str | os.PathLike[str], spec: AnnotateSpec | None = None,
                   video_id: str = ""
                   ) -> list[Clip]:
    """The clips of a file, in time order; see ``iter_clips``."""
    return list(iter_clips(path, spec, video_id))


def digester(source: str = "features", spec: AnnotateSpec | None = None) -> Callable[[Path], Clip]:
    """A function from a file to its first clip, with a named source of poses."""
    spec = dataclasses.replace(spec or AnnotateSpec(), poses=pose_backends.open_named(source),
                               max_clips=1)
    return lambda path: next(iter_clips(path, spec))


def iter_clips(path: str | os.PathLike[str], spec: AnnotateSpec | None = None, video_id: str = ""
               ) -> Iterator[Clip]:
    """The clips of a file, one at a time.

    Args:
      video_id: name of the video; the file's stem by default. A second clip and later ones of the
        same file have ``_0001`` and so on after it.

    Raises:
      InputError: no whole video, a single frame, or no span of which a clip could be made; the
        message says why.
    """
    spec = spec or AnnotateSpec()
    path = Path(path)
    made, refused, number = 0, [], 0
    for span in iter_spans(path, spec.spans):
        name = f"{video_id or path.stem}" + (f"_{number:04d}" if number else "")
        number += 1
        try:
            clip = annotate_span(span, name, spec)
        except ClipRejected as reason:
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


def annotate_span(span: Span, name: str, spec: AnnotateSpec) -> Clip:
    """A clip of a span, without the picture's black bars. Raises ClipRejected with the reason where
    nothing can be told."""
    window, whole = letterbox.window(span.small), span.small.shape[1:3]
    span = dataclasses.replace(span, small=window.crop(span.small), large=window.crop(span.large))
    seconds = float(span.times[-1] - span.times[0])
    if len(span.large) < 4 or seconds < spec.shortest:
        raise ClipRejected(f"shorter than {spec.shortest:g} s")
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in span.small])
    if grey.std((1, 2)).max() < 2:
        raise ClipRejected("the picture is empty")
    try:
        motion = estimate.estimate(grey, spec.features)
    except NoMotion as reason:
        raise ClipRejected(str(reason)) from reason
    path = spec.poses(span.small, span.times, motion)
    camera = path.camera(span.times, spec.rule)
    if path.poses is motion.poses and motion.kind == "moving":
        camera = tuple(without_ambiguous_moves(segment) for segment in camera)
    chosen = _keyframes(span, spec.looks)
    frames, times = span.small[chosen], span.times[chosen]
    evidence, usual = motion_evidence.motion_evidence(span.small, span.times, chosen, motion,
                                                      spec.residual)
    sight = MaskRequest(frames, times, chosen, motion, evidence, usual, spec.objects, whole,
                        window)
    out = np.searchsorted(chosen, span.picked)
    looks = grey[chosen]
    dropped: collections.Counter[str] = collections.Counter()
    kept: list[tuple[ObjectMask, dict[str, Any]]] = []  # Things, and where they are if they move.
    for thing in spec.masks.find(sight):
        role = thing.role or role_of(sight, thing.masks)
        if not role:
            dropped["it may move or not"] += 1
            continue
        own = mask_motion.object_flow(looks, thing.masks, sight.flow)
        good, reasons = mask_checks.check(frames, times, thing.masks, spec.consistency, own)
        dropped.update(reasons)
        shown = out[good[out]]
        if len(shown) >= 3 and times[shown[-1]] - times[shown[0]] >= 1.0:
            believed = thing.masks & good[:, None, None]
            place = {}
            if role == "dynamic":
                place = localize(believed, own, chosen, motion, path, out)
                place["depth_within"] = spec.depth_within
            kept.append((ObjectMask(believed, thing.name, role), place))
    # Fainter evidence also hides a landmark, wherever it belongs to no thing.
    moving = evidence > 1.5
    for thing, _ in kept:
        if thing.role == "dynamic":
            moving |= thing.masks
    kept.sort(key=lambda item: item[0].role != "dynamic")
    if all(thing.role == "dynamic" for thing, _ in kept):
        mark = landmarks.find_landmark(frames, chosen, motion, moving)
        if mark is not None and mark[out].any((1, 2)).sum() >= 2:
            kept.append((ObjectMask(mark, role="static"), {}))
    labels = naming.labels(frames, [thing for thing, _ in kept])
    height, width = span.large.shape[1:3]
    made = []
    for (thing, place), label in zip(kept, labels):
        shown = np.stack([enlarge(thing.masks[m], height, width) for m in out])
        moves = thing.role == "dynamic"
        made.append(Track(
            name=label, role="dynamic" if moves else "static", boxes=boxes(shown), masks=shown,
            source=spec.masks.name if moves or thing.name else "features", **place,
        ))
    return Clip(
        video_id=name, frames=span.large, timestamps=span.times[span.picked], tracks=tuple(made),
        camera=camera, poses=path.poses[span.picked],
        provenance={"source": "video", "camera": path.source, "objects": spec.masks.name,
                    "scale": path.scale, "camera_model": motion.kind,
                    "camera_support": round(motion.support, 3), "distance": "scale change",
                    "masks_dropped": dict(dropped)}
        | ({} if window == letterbox.WHOLE else {"window": dataclasses.asdict(window)}),
    )


def _keyframes(span: Span, rate: float) -> np.ndarray:
    """Frames to look for things in: about ``rate`` a second, and those of the clip."""
    step = max(1, round(1 / (rate * float(np.median(np.diff(span.times))))))
    return np.unique(np.concatenate([span.picked, np.arange(0, len(span.small), step)]))
