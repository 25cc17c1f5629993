"""The few shapes of prompts that a server compiles for, all before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourd4d.core.batch import BatchShape
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.collate import Size, bucket
from fourd4d.serve.errors import ApiError
from fourd4d.serve.spec import ServeSpec

_WIDEST = 4  # Ratio of sides up to which a picture of full size has windows kept for it.
_STEP = 4  # From one number of slots to the next.
_MARKS = 16  # Tokens around a frame slot: the vision marks, and its time where that is text.
_SHORT = 8  # The part of the most text that is enough for most prompts, but
_LEAST = 64  # so many tokens at least.
_WORTH = 0.75  # A shorter shape is compiled too where it is at most so much of the long one.


def family(protocol: ProtocolSpec, spec: ServeSpec) -> list[BatchShape]:
    """Return the shapes, the smallest first: text alone, then ever more frame slots.

    Each number of slots has a shape with little text, where that saves much: padding costs as much
    to read as a prompt. The largest holds a video of ``max_frames`` and ``spec.max_text`` tokens of
    text, or ``spec.max_prompt`` tokens where that is less.
    """
    frames = min(spec.max_frames or protocol.max_frames, protocol.max_frames)
    most = -(-frames // protocol.temporal_patch)
    counts = [0, 1]
    while counts[-1] < most:
        counts.append(min(counts[-1] * _STEP, most))
    side = protocol.patch_size * protocol.merge
    whole = protocol.pixel_bounds("video")[1] // side**2
    still = protocol.pixel_bounds("image")[1] // side**2
    shapes = list[BatchShape]()
    for before, slots in zip([0, *counts], counts, strict=False):
        tokens = whole
        if protocol.budget == "video":  # One frame may have all of it, many frames their parts.
            tokens = -(-whole // (protocol.temporal_patch * max(before, 1)))
        if slots == 1:
            tokens = max(tokens, still)
        tokens = min(tokens, spec.max_prompt)
        length = min(spec.max_text + slots * (tokens + _MARKS), spec.max_prompt)
        windows, whole_length = _windows(tokens, protocol), bucket(length, 64)
        short = bucket(slots * tokens + max(spec.max_text // _SHORT, _LEAST), 64)
        if short <= _WORTH * whole_length:
            shapes.append(BatchShape(1, short, slots, windows, 0))
        shapes.append(BatchShape(1, whole_length, slots, windows, 0))
    return [shape for i, shape in enumerate(shapes) if shape not in shapes[:i]]


def _windows(tokens: int, protocol: ProtocolSpec) -> int:
    """Most attention windows of a picture of so many merged tokens, unless it is very wide."""
    side = protocol.patch_size * protocol.merge
    best = 1
    for rows in range(1, math.isqrt(tokens) + 1):
        columns = min(tokens // rows, rows * _WIDEST)
        best = max(best, math.prod(-(-n * side // protocol.window) for n in (rows, columns)))
    return best


def fitting(example: Example, shapes: Sequence[BatchShape]) -> BatchShape:
    """Return the smallest shape that holds a prompt. Raises ApiError where none does."""
    size, largest = Size.of(example), shapes[-1]
    for shape in shapes:
        if (size.length <= shape.length and size.slots <= shape.slots
                and (size.windows <= shape.windows or not size.slots)):
            return shape
    raise ApiError(
        400, f"the prompt has {size.length} tokens, {size.slots} frame slots of {size.windows} "
        f"windows; the server was started for {largest.length} tokens, {largest.slots} slots of "
        f"{largest.windows} windows. Send fewer, smaller or less elongated pictures, or less text",
        param="messages", code="context_length_exceeded")
