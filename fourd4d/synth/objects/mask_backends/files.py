"""Object masks from files: one npz or folder of pictures a video, or SpatialVID's."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.sparse import csr_matrix

from fourd4d.core.errors import InputError
from fourd4d.core.files import read_arrays
from fourd4d.synth.camera.pose_backends.files import SPATIALVID_STEP, stored_times
from fourd4d.synth.objects import linking, mask_motion
from fourd4d.synth.objects.mask_backends.base import MaskBackend, MaskRequest, ObjectMask

ASPECT: Final = 0.02  # Masks whose shape differs by more are not of this video.
_NUMBERED = re.compile(r"(\d+)(?:_obj(\d+))?$")


def fitted(masks: np.ndarray, size: tuple[int, int], where: object) -> np.ndarray:
    """Resize masks (N, h, w) to (N, H, W); a pixel belongs where more than half of it does.

    Raises InputError where the ratio of width to height differs by more than ``ASPECT``.
    """
    height, width = masks.shape[1:]
    if (height, width) == size:
        return masks
    ratio = (width / height) / (size[1] / size[0])
    if abs(ratio - 1) > ASPECT:
        turned = abs((height / width) / (size[1] / size[0]) - 1) <= ASPECT
        raise InputError(where, f"masks of {width}x{height}, the video is {size[1]}x{size[0]}",
                         "Turn the masks upright, as the video is shown" if turned else
                         "Give masks of the whole frame, of the video's own shape")
    return np.stack([cv2.resize(m.astype(np.float32), (size[1], size[0]),
                                interpolation=cv2.INTER_AREA) > 0.5 for m in masks])


@dataclasses.dataclass(frozen=True)
class StoredMasks:
    """Holds masks as a file stores them.

    Attributes:
      labels: per frame and pixel, 0 or the number of an object, or 1 wherever anything moves if
        not ``apart``.
      times: seconds.
      names: of object 1, 2, …; may be empty.
      apart: whether objects have numbers of their own.
    """

    labels: UInt8[np.ndarray, "N h w"]
    times: Float[np.ndarray, "N"]
    names: tuple[str, ...] = ()
    apart: bool = True


@dataclasses.dataclass(frozen=True)
class GivenMasks:
    """Masks from a file or a folder of files; call ``source`` for the ``MaskSource``.

    Three layouts are read:
      * an npz with ``masks``, (N, h, w) integers (0 or the number of an object), (N, h, w)
        booleans (whatever moves) or (K, N, h, w) booleans (objects), with ``timestamps`` or ``fps``
        and, if wanted, ``names``;
      * SpatialVID's ``dyn_masks.npz``: ``shape`` and ``f_<i>_data``, ``_indices``, ``_indptr`` (one
        sparse matrix a frame, 0.2 s apart; whatever moves);
      * a folder of PNG files ``…<frame>.png`` (numbers of objects) or ``…<frame>_obj<k>.png``,
        whose frame numbers are divided by ``fps``.

    Masks of whatever moves are split into connected objects, which are tracked by overlap. The mask
    nearest in time is taken, at most half a step away. Masks of another size are resized; of
    another shape (width over height) they are an error.
    """

    path: str | os.PathLike[str]
    fps: float = 0.0

    def source(self) -> MaskBackend:
        name = "spatialvid" if Path(self.path).name == "dyn_masks.npz" else "given"
        return MaskBackend(name, self)

    @functools.cached_property
    def stored(self) -> StoredMasks:
        """Raises InputError where the file is not as described."""
        path = Path(self.path)
        return _read_folder(path, self.fps) if path.is_dir() else _read_npz(path, self.fps)

    def __call__(self, request: MaskRequest) -> list[ObjectMask]:
        """Raises InputError where the masks are of another shape, or cover too little."""
        stored = self.stored
        step = float(np.median(np.diff(stored.times))) if len(stored.times) > 1 else 0.5
        near = np.abs(stored.times[None] - request.times[:, None])
        pick, away = near.argmin(1), near.min(1)
        if (away <= 0.5 * step + 1e-3).mean() < 0.5:
            raise InputError(self.path, f"masks cover {stored.times[0]:.2f}-{stored.times[-1]:.2f}"
                             f" s, the clip lies at {request.times[0]:.2f}-"
                             f"{request.times[-1]:.2f} s",
                             "Give masks of the whole video")
        labels = stored.labels[pick]
        labels[away > 0.5 * step + 1e-3] = 0
        size = request.whole or (request.frames.shape[1], request.frames.shape[2])

        def shown(masks: np.ndarray) -> np.ndarray:
            return request.window.crop(fitted(masks, size, self.path))

        if not stored.apart:
            return [ObjectMask(m) for m in split(shown(labels > 0), request)]
        out = []
        for number in np.unique(labels[labels > 0]):
            name = stored.names[number - 1] if number <= len(stored.names) else ""
            masks = shown(labels == number)
            if masks.any():
                out.append(ObjectMask(masks, name))
        return sorted(out, key=lambda found: -int(found.masks.sum()))


def find_given(root: str | os.PathLike[str], video_id: str, fps: float = 0.0) -> GivenMasks:
    """The masks of a video below ``root``: ``<id>.npz``, or ``<id>/dyn_masks.npz``, or ``<id>/``.

    The folder of the video may lie in a group's folder, as SpatialVID's does. Raises InputError
    where there are none.
    """
    root = Path(root)
    for path in (root / f"{video_id}.npz", root / video_id / "dyn_masks.npz",
                 *sorted(root.glob(f"*/{glob.escape(video_id)}/dyn_masks.npz"))):
        if path.is_file():
            return GivenMasks(path)
    for path in (root / video_id, *sorted(root.glob(f"*/{glob.escape(video_id)}"))):
        if path.is_dir():
            return GivenMasks(path, fps)
    raise InputError(root, f"no masks of {video_id!r} here",
                     f"Give {video_id}.npz, {video_id}/dyn_masks.npz or a folder {video_id}")


def _read_npz(path: Path, fps: float) -> StoredMasks:
    stored = read_arrays(path)
    if "shape" in stored:
        return _read_sparse(path, stored)
    if "masks" not in stored:
        raise InputError(path, f"neither 'masks' nor 'shape' among {sorted(stored)}",
                         "See GivenMasks for the layouts")
    masks = stored["masks"]
    apart = masks.dtype != bool or masks.ndim == 4
    if masks.ndim == 4 and masks.dtype == bool and len(masks) < 256:
        labels = np.zeros(masks.shape[1:], np.uint8)
        for number, one in reversed(list(enumerate(masks, 1))):
            labels[one] = number  # Where two overlap, the first is in front.
    elif masks.ndim == 3 and masks.dtype.kind in "bui" and masks.max(initial=0) < 256:
        labels = masks.astype(np.uint8)
    else:
        raise InputError(path, f"masks are {masks.dtype} of shape {masks.shape}",
                         "Give (N, h, w) numbers below 256, or (K, N, h, w) booleans")
    times = stored_times(stored, len(labels), fps, path)
    return StoredMasks(labels, times, tuple(str(n) for n in np.ravel(stored.get("names", ()))),
                       apart)


def _read_sparse(path: Path, stored: Mapping[str, Any]) -> StoredMasks:
    count = sum(key.endswith("_indptr") for key in stored)
    try:
        height, width = (int(n) for n in stored["shape"])
        frames = []
        for i in range(count):
            parts = (stored[f"f_{i}_{part}"] for part in ("data", "indices", "indptr"))
            matrix = csr_matrix(tuple(parts), shape=(height, width))
            matrix.check_format(full_check=True)
            frames.append(matrix.toarray() != 0)
    except Exception as error:  # SciPy has many of its own.
        raise InputError(path, f"it holds no sparse masks ({error})", "Fetch it again") from error
    if not frames:
        raise InputError(path, "it holds no frame", "Fetch it again")
    return StoredMasks(np.stack(frames).astype(np.uint8), SPATIALVID_STEP * np.arange(count),
                       apart=False)


def _read_folder(path: Path, fps: float) -> StoredMasks:
    files = [(match, file) for file in sorted(path.glob("*.png"))
             if (match := _NUMBERED.search(file.stem))]
    if not files:
        raise InputError(path, "no numbered PNG files", "Name them frame_0000.png or "
                         "frame_0000_obj1.png")
    if not fps > 0:
        raise InputError(path, "mask images carry no times", "Give the frames a second they count")
    numbers = sorted({int(match[1]) for match, _ in files})
    labels: np.ndarray | None = None
    apart = False
    for match, file in files:
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint8:
            raise InputError(file, "no readable 8-bit image", "Write it again")
        image = image.max(-1) if image.ndim == 3 else image
        if labels is None:
            labels = np.zeros((len(numbers), *image.shape), np.uint8)
        if image.shape != labels.shape[1:]:
            raise InputError(file, f"{image.shape[1]}x{image.shape[0]}, the first mask is "
                             f"{labels.shape[2]}x{labels.shape[1]}", "Write them at one size")
        at = labels[numbers.index(int(match[1]))]
        if match[2] is None:
            at[:] = image
        else:
            apart = True
            if int(match[2]) > 254:
                raise InputError(file, "more than 255 objects", "Number them from 0 on")
            at[(image > 0) & (at == 0)] = int(match[2]) + 1  # Objects may be counted from 0.
    assert labels is not None
    # Plain black and white pictures show whatever moves; anything else numbers objects.
    apart = apart or bool((~np.isin(labels, (0, 255))).any())
    return StoredMasks(labels if apart else (labels > 0).astype(np.uint8),
                       np.array(numbers) / fps, apart=apart)


def split(moving: Bool[np.ndarray, "M H W"], request: MaskRequest
          ) -> list[Bool[np.ndarray, "M H W"]]:
    """Split masks into connected regions, tracked from frame to frame; the largest first.

    A region joins the object whose last mask it overlaps most, after the camera's motion and the
    object's own velocity; what lasts less than ``spec.lasting`` of the frames is dropped.
    """
    least = request.spec.smallest * moving[0].size
    tracks: list[dict[int, np.ndarray]] = []
    for m, mask in enumerate(moving):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        regions = [labels == k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= least]
        pairs = []
        for t, track in enumerate(tracks):
            if request.times[m] - request.times[max(track)] > request.spec.lost:
                continue
            guess = _predicted(track, m, request)
            for r, region in enumerate(regions):
                union = (guess | region).sum()
                pairs.append(((guess & region).sum() / union, t, r))
        linked = linking.match_greedily((t, r) for iou, t, r in sorted(pairs, reverse=True)
                                        if iou > 0.1)
        for t, r in linked:
            tracks[t][m] = regions[r]
        taken = {r for _, r in linked}
        tracks += [{m: region} for r, region in enumerate(regions) if r not in taken]
    out = []
    for track in tracks:
        if len(track) >= max(3, request.spec.lasting * len(moving)):
            masks = np.zeros_like(moving)
            for m, region in track.items():
                masks[m] = region
            out.append(masks)
    return sorted(out, key=lambda masks: -int(masks.sum()))[: request.spec.keep]


def _predicted(track: dict[int, np.ndarray], now: int, request: MaskRequest) -> np.ndarray:
    """Return the last mask of an object, (H, W), where it is expected in frame ``now``."""
    centres = {m: mask_motion.centres(track[m][None])[0] for m in sorted(track)[-2:]}
    mask, here = track[max(track)], centres[max(track)]
    there = linking.predict_centre(centres, now, request.times, request.chosen, request.motion)
    shift = np.array([[1, 0, there[0] - here[0]], [0, 1, there[1] - here[1]]], np.float32)
    height, width = mask.shape
    return cv2.warpAffine(mask.astype(np.uint8), shift, (width, height)) > 0
