"""The few shapes of prompts that a server compiles for, all before it starts."""

from __future__ import annotations

import dataclasses
import math

from fourd4d.core.batch import BatchShape
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.collate import Size, bucket
from fourd4d.serve.errors import ApiError
from fourd4d.serve.spec import ServeSpec

_WIDEST = 4  # Ratio of sides up to which a picture of full size has windows kept for it.
_MARKS = 16  # Tokens around a frame slot: the vision marks, and its time where that is text.
_LEAST, _STEP, _FINE = 64, 32, 256  # Lengths: the least, and the step of those up to the third.
_WORTH = 0.75  # Fewer windows are compiled for too where they are at most so many of the most.


@dataclasses.dataclass(frozen=True)
class Family:
    """What is compiled. Prompts are read in one of the lengths, whatever frames they have; their
    frames are encoded before, in one of the sizes.

    Attributes:
      lengths: tokens, ascending.
      pictures: (frame slots, attention windows of each), ascending.
    """

    lengths: tuple[int, ...]
    pictures: tuple[tuple[int, int], ...]


def family(protocol: ProtocolSpec, spec: ServeSpec) -> Family:
    """Return the shapes, close enough for little padding: it costs as much to read as a prompt.

    The largest hold a video of ``max_frames`` and ``spec.max_text`` tokens of text, or
    ``spec.max_prompt`` tokens where that is less.
    """
    frames = min(spec.max_frames or protocol.max_frames, protocol.max_frames)
    most = -(-frames // protocol.temporal_patch)
    side = protocol.patch_size * protocol.merge
    whole = protocol.pixel_bounds("video")[1] // side**2
    still = protocol.pixel_bounds("image")[1] // side**2
    pictures = list[tuple[int, int]]()
    before, longest = 0, spec.max_text
    for slots in sorted({min(bucket(n, fine=4), most) for n in range(1, most + 1)}):
        tokens = whole
        if protocol.budget == "video":  # One frame may have all of it, many frames their parts.
            tokens = -(-whole // (protocol.temporal_patch * max(before, 1)))
        sizes = [min(n, spec.max_prompt) for n in ((tokens, still) if slots == 1 else (tokens,))]
        longest = max(longest, spec.max_text + slots * (max(sizes) + _MARKS))
        pictures += [(slots, n) for n in _counts([_windows(n, protocol) for n in sizes])]
        before = slots
    longest = bucket(min(longest, spec.max_prompt), _LEAST)
    lengths = {longest, *(bucket(n, _STEP, 8 if n <= _FINE else 4)
                          for n in range(_LEAST, longest, _STEP))}
    return Family(tuple(sorted(n for n in lengths if n <= longest)), tuple(pictures))


def _windows(tokens: int, protocol: ProtocolSpec) -> int:
    """Most attention windows of a picture of so many merged tokens, unless it is very wide."""
    side = protocol.patch_size * protocol.merge
    best = 1
    for rows in range(1, math.isqrt(tokens) + 1):
        columns = min(tokens // rows, rows * _WIDEST)
        best = max(best, math.prod(-(-n * side // protocol.window) for n in (rows, columns)))
    return best


def _counts(most: list[int]) -> list[int]:
    """Numbers of windows to compile for: the largest, and fewer, for most pictures are smaller."""
    power = 1 << max(most).bit_length() - 1
    found = [max(most)]
    for count in sorted({*most, power, power // 4}, reverse=True):
        if 0 < count <= _WORTH * found[0]:
            found.insert(0, count)
    return found


def fitting(example: Example, shapes: Family) -> BatchShape:
    """Return the smallest shape that holds a prompt. Raises ApiError where none does."""
    size, most = Size.of(example), shapes.lengths[-1]
    length = next((n for n in shapes.lengths if size.length <= n), None)
    held = [(slots, windows) for slots, windows in shapes.pictures
            if size.slots <= slots and size.windows <= windows]
    if length is not None and not size.slots:
        return BatchShape(1, length, 0, 1, 0)
    if length is None or not held:
        slots, windows = (max(numbers) for numbers in zip(*shapes.pictures, strict=True))
        raise ApiError(
            400, f"the prompt has {size.length} tokens, {size.slots} frame slots of {size.windows} "
            f"windows; the server was started for {most} tokens, {slots} slots of up to {windows} "
            "windows. Send fewer, smaller or less elongated pictures, or less text",
            param="messages", code="context_length_exceeded")
    return BatchShape(1, length, *min(held, key=math.prod), 0)
