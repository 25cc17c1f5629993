"""Frames to frame slots: smart resize, normalisation, patches in window order.

Resizing is Pillow's bicubic on uint8, what transformers' NumPy ("slow") image processor does; its
torchvision ("fast") one interpolates in another way and differs by a few levels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Int, UInt8

from fourd4d.core.errors import InputError
from fourd4d.core.example import VisionSlots
from fourd4d.core.protocol import ProtocolSpec


def smart_resize(height: int, width: int, protocol: ProtocolSpec, kind: str = "video",
                 frames: int = 1) -> tuple[int, int]:
    """Size nearest to (height, width) that the encoder takes, pixels.

    Both sides become multiples of ``patch_size * merge``, the area lies within the protocol's
    bounds for the ``kind`` (``image`` or ``video``) and the aspect ratio is kept as well as these
    allow (the official formula). Sides that the official formula would round to nothing get one
    merged token.

    Args:
      frames: of the video, whose areas together are bounded where ``protocol.budget`` says so.

    Raises:
      InputError: an aspect ratio above 200.
    """
    factor = protocol.patch_size * protocol.merge
    if min(height, width) < 1 or max(height, width) / min(height, width) > 200:
        raise InputError("image", f"{height}x{width} pixels", "Sides may differ 200-fold at most")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    rows, columns = max(rows, factor), max(columns, factor)
    least, most = protocol.pixel_bounds(kind)
    whole = frames = frames if kind == "video" and protocol.budget == "video" else 1
    if frames > 1:  # Whole slots to compare with, all frames in the ratio: the official formula.
        whole = max(round(frames / protocol.temporal_patch), 1) * protocol.temporal_patch
    if whole * rows * columns > most:
        shrink = math.sqrt((frames * height * width) / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif whole * rows * columns < least:
        grow = math.sqrt(least / (frames * height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def resize(frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame at (height, width) = ``size``, bicubic with antialiasing."""
    if frame.shape[:2] == size:
        return frame
    image = PIL.Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Shape of a medium: frame slots, then patch rows and columns of each slot."""

    slots: int
    rows: int
    columns: int

    def tokens(self, merge: int) -> int:
        """Number of merged tokens."""
        return self.slots * (self.rows // merge) * (self.columns // merge)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the merged tokens of a grid lie among its windows."""

    side: int
    window_rows: int
    window_columns: int


def _layout(rows: int, columns: int, protocol: ProtocolSpec) -> _Layout:
    side = protocol.window // (protocol.patch_size * protocol.merge)
    merged = rows // protocol.merge, columns // protocol.merge
    return _Layout(side, -(-merged[0] // side), -(-merged[1] // side))


@functools.lru_cache(maxsize=256)
def token_offsets(rows: int, columns: int, protocol: ProtocolSpec) -> Int[np.ndarray, "N"]:
    """For merged tokens in raster order, their places in window order (axis U).

    Args:
      rows, columns: the grid, patches.
    """
    layout = _layout(rows, columns, protocol)
    row, column = np.divmod(
        np.arange(rows // protocol.merge * (columns // protocol.merge)), columns // protocol.merge)
    window = row // layout.side * layout.window_columns + column // layout.side
    inside = row % layout.side * layout.side + column % layout.side
    return _shared((window * layout.side**2 + inside).astype(np.int32))


def _shared(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)  # Cached results are one array for all callers.
    return array


@functools.lru_cache(maxsize=16)
def _normalised_levels(protocol: ProtocolSpec) -> Float[np.ndarray, "256 3"]:
    # float64 product rounded to float32, then float32: the official order of operations.
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    mean = np.asarray(protocol.image_mean, np.float32)
    return _shared((scaled - mean) / np.asarray(protocol.image_std, np.float32))


@functools.lru_cache(maxsize=256)
def _patch_places(
    rows: int, columns: int, protocol: ProtocolSpec
) -> tuple[Int[np.ndarray, "W M 2"], Bool[np.ndarray, "W M"]]:
    """(row, column) of every patch of a slot in window order, and which patches are real."""
    layout, m = _layout(rows, columns, protocol), protocol.merge
    a, b, s = layout.window_rows, layout.window_columns, layout.side
    grid = np.meshgrid(np.arange(a * s * m), np.arange(b * s * m), indexing="ij")
    coords = np.stack(grid, -1).reshape(a, s, m, b, s, m, 2)
    coords = coords.transpose(0, 3, 1, 4, 2, 5, 6).reshape(a * b, -1, 2)
    mask = (coords[..., 0] < rows) & (coords[..., 1] < columns)
    return _shared(np.where(mask[..., None], coords, 0).astype(np.int32)), _shared(mask)


def frames_to_slots(
    frames: UInt8[np.ndarray, "T H W 3"], protocol: ProtocolSpec, stills: bool = False,
    kind: str = "video", of: int | None = None,
) -> tuple[VisionSlots, Grid]:
    """Resized, normalised frames cut into patches; the last frame fills an odd slot.

    Args:
      stills: the frames are pictures of their own, each of which fills a slot.
      kind: whose bounds of pixels hold, ``image`` or ``video``.
      of: frames of the video that they belong to; by default they are all of it.

    Returns:
      The slots, and their grid. Patches past the grid's edge are zero and masked.
    """
    size = smart_resize(frames.shape[1], frames.shape[2], protocol, kind, of or len(frames))
    if size != frames.shape[1:3]:
        frames = np.stack([resize(frame, size) for frame in frames])
    t, p, m = protocol.temporal_patch, protocol.patch_size, protocol.merge
    if stills:
        frames = np.repeat(frames, t, axis=0)
    missing = -len(frames) % t
    if missing:
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    grid = Grid(len(frames) // t, size[0] // p, size[1] // p)
    layout = _layout(grid.rows, grid.columns, protocol)
    s, a, b = layout.side, layout.window_rows, layout.window_columns

    # Cut as bytes, then look the levels up: a quarter of the memory moved.
    edges = (a * protocol.window - size[0], b * protocol.window - size[1])
    if any(edges):
        frames = np.pad(frames, ((0, 0), (0, edges[0]), (0, edges[1]), (0, 0)))
    cut = frames.reshape(grid.slots, t, a, s, m, p, b, s, m, p, 3)
    cut = cut.transpose(0, 2, 6, 3, 7, 4, 8, 10, 1, 5, 9)
    cut = cut.reshape(grid.slots, a * b, s * s * m * m, 3, t * p * p)
    patches = np.empty(cut.shape, np.float32)
    levels = _normalised_levels(protocol)
    for channel in range(3):
        patches[..., channel, :] = levels[:, channel][cut[..., channel, :]]
    coords, mask = _patch_places(grid.rows, grid.columns, protocol)
    if any(edges):
        patches[:, ~mask] = 0.0
    full = (grid.slots, *mask.shape)
    return VisionSlots(
        patches.reshape(*full, protocol.patch_dim),
        np.broadcast_to(coords, (*full, 2)).copy(),
        np.broadcast_to(mask, full).copy(),
    ), grid


def join_slots(parts: Sequence[VisionSlots], protocol: ProtocolSpec) -> VisionSlots:
    """All slots one after the other, padded to the largest number of windows among them.

    Of a single part, the part itself.
    """
    if len(parts) == 1:
        return parts[0]
    windows = max((part.mask.shape[1] for part in parts), default=0)
    m, c = protocol.window_patches, protocol.patch_dim

    def pad(value: np.ndarray) -> np.ndarray:
        if value.shape[1] == windows:
            return value
        widths = [(0, 0)] * value.ndim
        widths[1] = (0, windows - value.shape[1])
        return np.pad(value, widths)

    patches: Float[np.ndarray, "F W M C"] = np.concatenate(
        [np.zeros((0, windows, m, c), np.float32), *(pad(part.patches) for part in parts)])
    coords = np.concatenate(
        [np.zeros((0, windows, m, 2), np.int32), *(pad(part.coords) for part in parts)])
    mask: Bool[np.ndarray, "F W M"] = np.concatenate(
        [np.zeros((0, windows, m), np.bool_), *(pad(part.mask) for part in parts)])
    return VisionSlots(patches, coords, mask)
