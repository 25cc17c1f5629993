"""Masks from SAM 2 and SAM 3 of transformers, loaded from a local directory.

``Sam2Masks`` is prompted with the boxes of what moves (or with given ones) and tracks each object
through the shot in both directions. ``Sam3Masks`` is prompted with words and finds and tracks all
that they name; without words it takes boxes as SAM 2 does. Needs torch, torchvision and a
transformers that has the models (SAM 2 video from 4.56 on, SAM 3 from 5 on).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from fourd4d.core.errors import InputError
from fourd4d.synth.objects.mask_backends.base import MaskBackend, MaskRequest, ObjectMask
from fourd4d.synth.objects.mask_backends.motion import boxes_of

Prompt = tuple[int, tuple[float, float, float, float]]
"""A frame's index and a box in it, pixels (x0, y0, x1, y1)."""

def _load(kind: str, directory: Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Load the model ``<kind>Model`` and its processor from a directory, without network."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f"mask source {kind}", f"{error.name} is not installed",
                         "pip install torch torchvision transformers") from error
    if not (directory / "config.json").is_file():
        raise InputError(directory, "no config.json here", "Give the directory of a checkpoint")
    try:
        model_class = getattr(transformers, f"{kind}Model")
        processor_class = getattr(transformers, f"{kind}Processor")
    except (AttributeError, ImportError) as error:
        raise InputError(f"mask source {kind}", f"transformers {transformers.__version__} has no "
                         f"{kind}Model", "Install a newer transformers, and torchvision") from error
    try:
        model = model_class.from_pretrained(directory, local_files_only=True,
                                            dtype=getattr(torch, dtype))
        processor = processor_class.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(directory, f"no whole {kind} checkpoint ({reason})",
                         "Fetch it again, processor files included") from error
    return model.eval().to(device), processor


@dataclasses.dataclass(frozen=True)
class _Tracker:
    """Tracks boxed objects with a model of SAM 2's interface."""

    kind: str
    directory: Path
    device: str
    dtype: str

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return _load(self.kind, self.directory, self.device, self.dtype)

    def __call__(self, frames: np.ndarray, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Return masks (M, H, W) of each prompted object."""
        import torch

        model, processor = self._loaded
        out = []
        with torch.inference_mode():
            session = processor.init_video_session(
                video=frames, inference_device=self.device, dtype=getattr(torch, self.dtype),
                max_vision_features_cache_size=len(frames))
            for frame, box in prompts:
                # One object at a time: their first frames differ.
                session.reset_tracking_data()
                processor.add_inputs_to_inference_session(
                    session, frame_idx=frame, obj_ids=1, input_boxes=[[list(box)]])
                model(session, frame_idx=frame)
                masks = np.zeros(frames.shape[:3], bool)
                for reverse in (False, True):
                    for seen in model.propagate_in_video_iterator(
                            session, start_frame_idx=frame, reverse=reverse):
                        masks[seen.frame_idx] = _full_size(seen.pred_masks, frames.shape[1:3])[0]
                out.append(masks)
        return out


def _full_size(logits: Any, size: Sequence[int]) -> np.ndarray:
    """Return masks (N, H, W) from low-resolution logits (N, 1, h, w) or (N, h, w)."""
    import torch

    logits = logits.float().reshape(-1, 1, *logits.shape[-2:])
    large = torch.nn.functional.interpolate(logits, tuple(size), mode="bilinear",
                                            align_corners=False)
    return (large[:, 0] > 0).cpu().numpy()


@dataclasses.dataclass(frozen=True)
class Sam2Masks:
    """SAM 2 video, prompted with boxes.

    Attributes:
      directory: of a checkpoint such as ``facebook/sam2.1-hiera-tiny``, as transformers reads it.
      boxes: what to follow, as (seconds, (x0, y0, x1, y1)), the box in fractions of the frame;
        empty takes the boxes of what ``motion`` finds moving.
    """

    directory: str | os.PathLike[str]
    boxes: tuple[tuple[float, tuple[float, float, float, float]], ...] = ()
    device: str = "cpu"
    dtype: str = "float32"

    def source(self) -> MaskBackend:
        return MaskBackend("sam2", self)

    @functools.cached_property
    def _track(self) -> _Tracker:
        return _Tracker("Sam2Video", Path(self.directory), self.device, self.dtype)

    def __call__(self, request: MaskRequest) -> list[ObjectMask]:
        """Raises InputError where the model cannot be loaded."""
        return _boxed(self._track, request, self.boxes)


@dataclasses.dataclass(frozen=True)
class Sam3Masks:
    """SAM 3, prompted with words, or with boxes where there are none.

    Attributes:
      directory: of a checkpoint such as ``facebook/sam3``, as transformers reads it.
      prompts: short noun phrases, e.g. ``person``; each is the name of what it finds.
      boxes: as for ``Sam2Masks``; used when there are no prompts.
      keep: maximum number of objects of a prompt, the largest first.
    """

    directory: str | os.PathLike[str]
    prompts: tuple[str, ...] = ()
    boxes: tuple[tuple[float, tuple[float, float, float, float]], ...] = ()
    keep: int = 6
    device: str = "cpu"
    dtype: str = "float32"

    def source(self) -> MaskBackend:
        return MaskBackend("sam3", self)

    @functools.cached_property
    def _track(self) -> _Tracker:
        return _Tracker("Sam3TrackerVideo", Path(self.directory), self.device, self.dtype)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return _load("Sam3Video", Path(self.directory), self.device, self.dtype)

    def __call__(self, request: MaskRequest) -> list[ObjectMask]:
        """Raises InputError where the model cannot be loaded."""
        if not self.prompts:
            return _boxed(self._track, request, self.boxes)
        import torch

        model, processor = self._loaded
        masks: dict[int, np.ndarray] = {}
        names: dict[int, str] = {}
        with torch.inference_mode():
            session = processor.init_video_session(
                video=request.frames, inference_device=self.device,
                dtype=getattr(torch, self.dtype))
            processor.add_text_prompt(session, list(self.prompts))
            for seen in model.propagate_in_video_iterator(session):
                told = processor.postprocess_outputs(session, seen)
                for prompt, numbers in told["prompt_to_obj_ids"].items():
                    names |= {int(n): prompt for n in numbers}
                for number, mask in zip(told["object_ids"].tolist(), told["masks"]):
                    where = masks.setdefault(number, np.zeros(request.frames.shape[:3], bool))
                    where[seen.frame_idx] = mask.cpu().numpy()
        found = sorted(masks, key=lambda n: -int(masks[n].sum()))
        kept: dict[str, int] = {}
        out = []
        for number in found:
            name = names[number]
            kept[name] = kept.get(name, 0) + 1
            if kept[name] <= self.keep:
                out.append(ObjectMask(masks[number], name))
        return out


def _boxed(track: _Tracker, request: MaskRequest,
           boxes: Sequence[tuple[float, tuple[float, float, float, float]]]) -> list[ObjectMask]:
    """Return what the boxes hold; without boxes, what moves."""
    height, width = request.frames.shape[1:3]
    if boxes:
        prompts = [(int(np.abs(request.times - at).argmin()),
                    (x0 * width, y0 * height, x1 * width, y1 * height))
                   for at, (x0, y0, x1, y1) in boxes
                   if request.times[0] - 0.5 <= at <= request.times[-1] + 0.5]
        roles: list[Any] = [""] * len(prompts)
    else:
        prompts = [(frame, box) for frame, box, _ in boxes_of(request)]
        roles = ["dynamic"] * len(prompts)
    if not prompts:
        return []
    masks: list[Bool[np.ndarray, "M H W"]] = track(request.frames, prompts)
    return [ObjectMask(m, role=role) for m, role in zip(masks, roles) if m.any()]
