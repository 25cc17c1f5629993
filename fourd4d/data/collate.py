"""Examples → a Batch of fixed shape: padding, and several short examples in one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fourd4d.core.axes import NO_INDEX, PADDING_SEGMENT
from fourd4d.core.batch import Batch, BatchShape, OverlayInput, ReaderInput, VisionInput
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec


@dataclasses.dataclass(frozen=True)
class Size:
    """What an example takes of a row's budget; fields as in ``BatchShape``."""

    length: int
    slots: int
    windows: int
    overlays: int

    @staticmethod
    def of(example: Example) -> Size:
        return Size(example.length, len(example.slots.mask), example.slots.mask.shape[1],
                    len(example.overlay_slot))


def shape_for(examples: Sequence[Example], rows: int | None = None,
              round_to: int = 1) -> BatchShape:
    """The smallest shape that holds each example in a row of its own.

    Args:
      rows: rows of the batch; by default one per example.
      round_to: lengths are rounded up to a multiple of this, so that few shapes are compiled.
    """
    if not examples:
        raise InputError("shape_for", "no examples", "Give at least one")
    return shape_of_sizes([Size.of(e) for e in examples], rows or len(examples), round_to)


def shape_of_sizes(sizes: Sequence[Size], rows: int, round_to: int = 1) -> BatchShape:
    """As ``shape_for``, from sizes measured before."""
    length = max(s.length for s in sizes)
    return BatchShape(
        rows=rows, length=-(-length // round_to) * round_to, slots=max(s.slots for s in sizes),
        windows=max(s.windows for s in sizes), overlays=max(s.overlays for s in sizes))


def holding_both(one: BatchShape, other: BatchShape) -> BatchShape:
    """The smallest shape that holds what either holds."""
    return BatchShape(*map(max, dataclasses.astuple(one), dataclasses.astuple(other)))


def bucketed_shape(examples: Sequence[Example], length_step: int = 64,
                   slot_step: int = 4) -> BatchShape:
    """A shape that holds each example in a row of its own, out of few.

    Rows, windows and overlays are rounded up to 1, 2, 3, 4, 6, 8, 12, 16, …, lengths and slots to
    as many steps: a program is compiled for logarithmically many shapes.
    """
    shape = shape_of_sizes([Size.of(e) for e in examples], len(examples))
    return BatchShape(
        rows=bucket(shape.rows, fine=4), length=bucket(shape.length, length_step, 4),
        slots=bucket(shape.slots, slot_step, 4), windows=bucket(shape.windows, fine=4),
        overlays=bucket(shape.overlays, fine=4))


def bucket(value: int, step: int = 1, fine: int = 16) -> int:
    """``value`` rounded up, so that few sizes are met: their number grows with its logarithm.

    Up to ``fine`` steps it becomes a multiple of ``step``, up to twice as many of twice the step,
    and so on: beyond ``fine`` steps less than 2 / ``fine`` of it is added.
    """
    while value > fine * step:
        step *= 2
    return -(-value // step) * step


def check_size(size: Size, shape: BatchShape, name: object = "example") -> None:
    """Raises InputError naming the example and every field of the shape that is too small."""
    over = {
        field.name: (getattr(size, field.name), getattr(shape, field.name))
        for field in dataclasses.fields(size)
        if getattr(size, field.name) > getattr(shape, field.name)
    }
    if over:
        what = ", ".join(f"{name} {need} > {limit}" for name, (need, limit) in over.items())
        remedy = ", ".join(f"{name} to {need}" for name, (need, _) in over.items())
        raise InputError(name, f"the example exceeds the row budget: {what}",
                         f"Raise BatchShape's {remedy}, or shorten the example")


class Packer:
    """First-fit: each example goes to the first row with room for it."""

    def __init__(self, shape: BatchShape):
        self.shape = shape
        self._free = np.tile(np.array([shape.length, shape.slots, shape.overlays]),
                             (shape.rows, 1))
        self.rows: list[int] = []

    def add(self, size: Size) -> bool:
        """Whether a row had room; if so, the row is appended to ``rows``."""
        need = np.array([size.length, size.slots, size.overlays])
        fits = (self._free >= need).all(1)
        if not fits.any():
            return False
        row = int(fits.argmax())
        self._free[row] -= need
        self.rows.append(row)
        return True


def collate(
    examples: Sequence[Example],
    shape: BatchShape,
    protocol: ProtocolSpec,
    pack: bool = False,
    *,
    side: Literal["left", "right"] = "right",
    names: Sequence[object] | None = None,
) -> Batch:
    """One batch of NumPy arrays.

    Rows left over are padding (segment 0). Padded ``*_index`` are -1. Packed rows keep each
    example's positions, and shift its slots and latents past those of its neighbours.

    Args:
      pack: fill rows first-fit with several examples, segments 1, 2, …; else one a row.
      side: where the padding goes; ``left`` aligns prompts at their ends.
      names: what to call each example in errors.

    Raises:
      InputError: naming the example that exceeds the budget and the field to raise.
    """
    sizes = [Size.of(e) for e in examples]
    names = names or [f"example {i}" for i in range(len(examples))]
    for size, name in zip(sizes, names, strict=True):
        check_size(size, shape, name)
    if pack:
        packer = Packer(shape)
        for size, name in zip(sizes, names, strict=True):
            if not packer.add(size):
                raise InputError(name, f"no room left in {shape.rows} packed rows",
                                 "Raise BatchShape.rows or give fewer examples")
        rows = packer.rows
    else:
        rows = list(range(len(examples)))
        if len(rows) > shape.rows:
            raise InputError(names[shape.rows], f"{len(rows)} examples for {shape.rows} rows",
                             "Raise BatchShape.rows, pack, or give fewer examples")
    return _fill(examples, sizes, rows, shape, protocol, side)


def _fill(examples: Sequence[Example], sizes: Sequence[Size], rows: Sequence[int],
          shape: BatchShape, protocol: ProtocolSpec, side: str) -> Batch:
    b, length, f, w = shape.rows, shape.length, shape.slots, shape.windows
    m, c, r = protocol.window_patches, protocol.patch_dim, protocol.latent_size
    u = w * m // protocol.merge**2
    tokens = np.zeros((b, length), np.int32)
    positions = np.zeros((3, b, length), np.int32)
    segment_ids = np.zeros((b, length), np.int32)
    text_weights = np.zeros((b, length), np.float32)
    vision_index = np.full((b, length), NO_INDEX, np.int32)
    latent_index = np.full((b, length), NO_INDEX, np.int32)
    seen = np.zeros((b, length), np.int32)
    speaks = np.zeros((b, length), np.bool_)
    patches = np.zeros((b, f, w, m, c), np.float32)
    coords = np.zeros((b, f, w, m, 2), np.int32)
    mask = np.zeros((b, f, w, m), np.bool_)
    overlay_slot = np.full((b, shape.overlays), NO_INDEX, np.int32)
    plain_slot = np.full_like(overlay_slot, NO_INDEX)
    pool = np.zeros((b, shape.overlays, r, u), np.float32)

    used = np.zeros((b, 3), np.int64)  # Of each row's tokens, slots, overlays.
    segments = np.zeros(b, np.int64)
    if side == "left":
        totals = np.bincount(rows, [s.length for s in sizes], b).astype(np.int64)
        used[:, 0] = length - totals
    for example, size, row in zip(examples, sizes, rows, strict=True):
        start, slot, overlay = (int(x) for x in used[row])
        used[row] += (size.length, size.slots, size.overlays)
        segments[row] += 1
        at = slice(start, start + size.length)
        tokens[row, at] = example.tokens
        positions[:, row, at] = example.positions
        segment_ids[row, at] = segments[row]
        text_weights[row, at] = example.text_weights
        text_weights[row, start : start + 1] = 0.0  # Nothing precedes a segment's first token.
        vision_index[row, at] = np.where(
            example.vision_slot >= 0, (example.vision_slot + slot) * u + example.vision_offset,
            NO_INDEX)
        latent_index[row, at] = np.where(
            example.latent_index >= 0, example.latent_index + overlay * r, NO_INDEX)
        if example.reader_sees is not None and example.reader_speaks is not None:
            seen[row, at] = np.where(example.reader_sees, segments[row], PADDING_SEGMENT)
            speaks[row, at] = example.reader_speaks
        to = slice(slot, slot + size.slots)
        patches[row, to, : size.windows] = example.slots.patches
        coords[row, to, : size.windows] = example.slots.coords
        mask[row, to, : size.windows] = example.slots.mask
        to = slice(overlay, overlay + size.overlays)
        overlay_slot[row, to] = example.overlay_slot + slot
        if example.plain_slot is not None:
            plain_slot[row, to] = example.plain_slot + slot
        pool[row, to, :, : example.pool.shape[-1]] = example.pool
    return Batch(
        tokens=tokens, positions=positions, segment_ids=segment_ids, text_weights=text_weights,
        vision_index=vision_index, latent_index=latent_index,
        vision=VisionInput(patches, coords, mask), overlays=OverlayInput(
            overlay_slot, pool, None if protocol.target is None else plain_slot),
        reader=None if protocol.reader is None else ReaderInput(
            seen, speaks, np.zeros_like(speaks)))
