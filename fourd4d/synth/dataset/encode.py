"""Encodes clips and questions: images in the published layout, samples, records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.core.records import encode_sample
from fourd4d.core.sample import Sample, check
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.overlay import overlay
from fourd4d.synth.questions.pretraining_tasks import Task
from fourd4d.synth.questions.question import Question
from fourd4d.synth.questions.types import question_type

ROOT = "processed_data"


def jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int = 95) -> bytes:
    """Encode an RGB image as a JPEG file; ``quality`` 0 … 100."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError("image", f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def png(mask: Bool[np.ndarray, "H W"]) -> bytes:
    """Encode a mask as a PNG file of 0 and 255."""
    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    if not done:
        raise InputError("mask", f"cannot encode a mask of shape {mask.shape}")
    return data.tobytes()


@dataclasses.dataclass(frozen=True)
class EncodedSample:
    """A sample and the files it names, encoded, by path relative to the data root."""

    sample: Sample
    files: Mapping[str, bytes]

    def record(self) -> bytes:
        """Return the sample with its images as one binary record."""
        files = self.files
        return encode_sample(self.sample, [files[p] for p in self.sample.frames],
                             [files[p] for p in self.sample.overlays])


def _suffix(clip: Clip, track: Track) -> str:
    """Return '' for the main object of a role, which has the published names, else its number."""
    same = [t for t in clip.tracks if t.role == track.role]
    number = next(i for i, t in enumerate(same) if t is track)
    return f"_{number}" if number else ""


class Encoder:
    """Encodes one clip's images, each once, whatever number of samples name it."""

    def __init__(self, clip: Clip, quality: int = 95):
        self._clip, self._quality = clip, quality
        self._files: dict[str, bytes] = {}

    def frame(self, number: int) -> str:
        """Return the path of a frame image."""
        path = f"{ROOT}/{self._clip.video_id}/frames/frame_{number:04d}.jpg"
        if path not in self._files:
            self._files[path] = jpeg(self._clip.frames[number], self._quality)
        return path

    def overlay(self, track: Track, number: int) -> tuple[str, str]:
        """Return the paths of an overlay of frame ``number`` and of the mask behind it."""
        folder = f"{ROOT}/{self._clip.video_id}/masked_{track.role}_overlays"
        name = f"frame_{number:04d}{_suffix(self._clip, track)}"
        path, mask = f"{folder}/{name}.jpg", f"{folder}/{name}_mask.png"
        if path not in self._files:
            drawn = overlay(self._clip.frames[number], track.masks[number])
            self._files[path] = jpeg(drawn, self._quality)
            self._files[mask] = png(track.masks[number])
        return path, mask

    def written(self, sample: Sample) -> EncodedSample:
        """Return the sample with its files. Raises InputError where the sample is malformed."""
        check(sample, self._clip.video_id)
        paths = (*sample.frames, *sample.overlays, *sample.masks)
        return EncodedSample(sample, {p: self._files[p] for p in paths})


def question_sample(clip: Clip, question: Question, response: str, encoder: Encoder,
                    more: Mapping[str, Any] | None = None) -> EncodedSample:
    """Return the sample of a question; ``response`` is empty for reinforcement learning only.

    ``more`` is added to its provenance.
    """
    span = range(len(clip.frames))
    pairs = [encoder.overlay(track, i) for track, i in question.overlays] if response else []
    provenance: dict[str, Any] = {**clip.provenance, **question.provenance, **(more or {})}
    provenance["object"] = question.track.source
    name = question_type(question.type).sample_name(clip, question, _suffix(clip, question.track))
    return encoder.written(Sample(
        id=f"{clip.video_id}_{name}", question=question.text, options=question.options,
        answer=question.answer, kind=question.type, video_id=clip.video_id,
        frames=tuple(encoder.frame(i) for i in span),
        timestamps=tuple(round(float(t), 3) for t in clip.timestamps), response=response,
        overlays=tuple(a for a, _ in pairs), masks=tuple(b for _, b in pairs),
        overlay_timestamps=tuple(round(float(clip.timestamps[i]), 3) for i in question.frames)
        if response else (), provenance=provenance,
    ))


def task_sample(clip: Clip, task: Task, frames: Sequence[int], encoder: Encoder) -> EncodedSample:
    """Return the sample of a free-text task on some of the clip's frames."""
    return encoder.written(Sample(
        id=f"{clip.video_id}_{task.name}", question=task.prompt, kind=task.name,
        video_id=clip.video_id, frames=tuple(encoder.frame(i) for i in frames),
        timestamps=tuple(round(float(clip.timestamps[i]), 3) for i in frames),
        response=task.response, provenance={"source": clip.provenance.get("source", "")},
    ))


def write_files(root: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write each file under ``root``, through a temporary name; existing ones are replaced."""
    for relative, data in files.items():
        with replacing(Path(root) / relative) as temporary:
            temporary.write_bytes(data)
