"""Timestamps to M-RoPE ids (arXiv 2502.13923), as transformers' ``get_rope_index`` counts them.

Text counts on all three axes together. A medium starts where the text before it ended: its merged
tokens share that offset, to which time, row and column are added; text after it goes on from the
largest id of any axis. Latents of a mental image count as text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from fourd4d.core.protocol import ProtocolSpec


@dataclasses.dataclass(frozen=True)
class VisionSpan:
    """A run of vision tokens: ``times`` holds one temporal id per frame slot."""

    times: Int[np.ndarray, "F"]
    rows: int
    columns: int

    @property
    def length(self) -> int:
        return len(self.times) * self.rows * self.columns


def is_uniform(timestamps: Float[np.ndarray, "T"]) -> bool:
    """Whether frames follow each other at one rate, to a millionth of a step."""
    if len(timestamps) < 3:
        return True
    step = (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
    ideal = timestamps[0] + step * np.arange(len(timestamps))
    return bool(np.abs(timestamps - ideal).max() <= 1e-6 * step)


def slot_times(timestamps: Float[np.ndarray, "T"], protocol: ProtocolSpec) -> Int[np.ndarray, "F"]:
    """Temporal id of each frame slot of a video, from its frames' times in seconds.

    A slot's id is floor((its first frame's time - the first frame's time) * tokens_per_second).
    At a uniform rate the official formula is followed to the rounding: slot number times seconds
    per slot times tokens per second, each product in float32. Elsewhere the product is rounded to
    float32 before the floor, so that 1.9999999999 seconds are 2.
    """
    patch, rate = protocol.temporal_patch, np.float32(protocol.tokens_per_second)
    slots = -(-len(timestamps) // patch)
    if len(timestamps) > 1 and is_uniform(timestamps):
        step = (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
        seconds = np.arange(slots).astype(np.float32) * np.float32(step * patch)
        return (seconds * rate).astype(np.int32)
    elapsed = timestamps[::patch] - timestamps[0]
    return (elapsed * protocol.tokens_per_second).astype(np.float32).astype(np.int32)


def slot_seconds(timestamps: Float[np.ndarray, "T"], protocol: ProtocolSpec
                 ) -> Float[np.ndarray, "F"]:
    """Mean time of the frames of each frame slot, seconds; the last frame fills an odd slot."""
    missing = -len(timestamps) % protocol.temporal_patch
    whole = np.concatenate([timestamps, np.repeat(timestamps[-1:], missing)])
    return whole.reshape(-1, protocol.temporal_patch).mean(1)


def mrope_ids(spans: Sequence[int | VisionSpan]) -> Int[np.ndarray, "3 L"]:
    """Ids (time, row, column) of a sequence given as runs: a number of text tokens, or a medium."""
    parts, start = [np.zeros((3, 0), np.int64)], 0
    for span in spans:
        if isinstance(span, VisionSpan):
            grid = np.broadcast_arrays(
                np.asarray(span.times)[:, None, None], np.arange(span.rows)[None, :, None],
                np.arange(span.columns)[None, None, :])
            part = np.stack([axis.reshape(-1) for axis in grid]) + start
        else:
            part = np.broadcast_to(np.arange(span) + start, (3, span))
        if part.shape[1]:
            start = int(part.max()) + 1
            parts.append(part)
    return np.concatenate(parts, axis=1).astype(np.int32)
