"""Frames cut and encoded once, for all questions, modes, protocols and runs that show them."""

from __future__ import annotations

import hashlib
import weakref

import numpy as np

from fourd4d.core.batch import VisionInput
from fourd4d.core.example import VisionSlots
from fourd4d.core.kept import Kept
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.image_cache import ImageCache
from fourd4d.data.media import Media
from fourd4d.processing.patches import Grid, frames_to_slots


class VisionStore:
    """Frame slots by the frames they are cut from, and vision features by their slots.

    Both go by content, never by name: two files of the same pixels share, and another file under
    an old name does not.

    Args:
      limit: bytes held at most of images, of videos, of slots and of features each.

    Attributes:
      images, videos: what rows that name files show, by path.
      features: of one model alone; arrays of shape (slots, merged tokens, width) by
        (``key`` of the slots, slots, windows).
    """

    def __init__(self, limit: int = 1 << 30):
        self.images = ImageCache(limit)
        self.videos: Kept[Media] = Kept(limit, lambda media: sum(m.frames.nbytes for m in media))
        self._slots: Kept[tuple[VisionSlots, Grid]] = Kept(limit, lambda v: _nbytes(v[0]))
        self.features: Kept[np.ndarray] = Kept(limit, lambda value: value.nbytes)
        self._digests: dict[int, str] = {}

    def cut(self, frames: np.ndarray, protocol: ProtocolSpec, *, kind: str
            ) -> tuple[VisionSlots, Grid]:
        """``frames_to_slots``; equal frames share one read-only result."""
        return self._slots.get(
            (self._digest(frames), protocol, kind),
            lambda: _locked(*frames_to_slots(frames, protocol, kind=kind)))

    def key(self, slots: VisionSlots) -> str:
        """What tells these slots from others; empty of none."""
        if not len(slots.mask):
            return ""
        return "/".join(map(self._digest, (slots.patches, slots.coords, slots.mask)))

    def _digest(self, array: np.ndarray) -> str:
        """Of shape, type and content; computed once as long as a read-only array lives."""
        known = self._digests.get(id(array))
        if known is not None:
            return known
        total = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=16)
        total.update(np.ascontiguousarray(array).data)
        digest = total.hexdigest()
        if _fixed(array):
            # Registered first: the number may be another array's as soon as this one is gone.
            weakref.finalize(array, self._digests.pop, id(array), None)
            self._digests[id(array)] = digest
        return digest


def vision_input(examples: list[VisionSlots], rows: int, slots: int, windows: int) -> VisionInput:
    """Slots of one example a row, padded: what ``collate`` makes of them."""
    first = examples[0]
    shape = rows, slots, windows, first.mask.shape[2]
    patches = np.zeros((*shape, first.patches.shape[-1]), np.float32)
    coords, mask = np.zeros((*shape, 2), np.int32), np.zeros(shape, np.bool_)
    for row, one in enumerate(examples):
        to = row, slice(len(one.mask)), slice(one.mask.shape[1])
        patches[to], coords[to], mask[to] = one.patches, one.coords, one.mask
    return VisionInput(patches, coords, mask)


def _fixed(array: np.ndarray) -> bool:
    """Whether nothing can change it, be it through what it is a view of."""
    base = array.base
    return not array.flags.writeable and (
        base is None or isinstance(base, np.ndarray) and _fixed(base))


def _locked(slots: VisionSlots, grid: Grid) -> tuple[VisionSlots, Grid]:
    for array in (slots.patches, slots.coords, slots.mask):
        array.setflags(write=False)
    return slots, grid


def _nbytes(slots: VisionSlots) -> int:
    return slots.patches.nbytes + slots.coords.nbytes + slots.mask.nbytes
