"""One tokenised example, as NumPy arrays; no JAX here, so data workers stay light."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class VisionSlots:
    """Frame slots of one example, patches in window order.

    Within a window, patches come in groups of ``merge ** 2`` that the patch merger joins; windows
    cut by the grid's edge are padded (``mask`` False).

    Attributes:
      patches: normalised pixels, channel-major: (channel, time, height, width).
      coords: (row, column) of each patch in its grid, patches.
      mask: True on real patches.
    """

    patches: Float[np.ndarray, "F W M C"]
    coords: Int[np.ndarray, "F W M 2"]
    mask: Bool[np.ndarray, "F W M"]


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt, or a prompt with its response.

    Attributes:
      tokens: ids; ``<|latent_pad|>`` where a latent is fed.
      positions: M-RoPE ids (time, height, width).
      text_weights: weight of predicting ``tokens[l]`` from what precedes it; 0 on prompts and pads.
      vision_slot, vision_offset: merged token ``offset`` of frame slot ``slot`` is fed here, or -1.
      latent_index: number of the latent fed here, 0 … Q-1 in reading order, else -1.
      slots: the example's frame slots; overlays come after the media.
      overlay_slot: frame slot of each overlay.
      pool: weights that pool an overlay's merged tokens into its latents; rows sum to 1.
      plain_slot: frame slot of what each overlay was painted on; None where it plays no part.
      reader_sees, reader_speaks: tokens that the reader sees, and tokens that it chooses; None
        without a reader (``core.batch.ReaderInput``).
    """

    tokens: Int[np.ndarray, "L"]
    positions: Int[np.ndarray, "3 L"]
    text_weights: Float[np.ndarray, "L"]
    vision_slot: Int[np.ndarray, "L"]
    vision_offset: Int[np.ndarray, "L"]
    latent_index: Int[np.ndarray, "L"]
    slots: VisionSlots
    overlay_slot: Int[np.ndarray, "O"]
    pool: Float[np.ndarray, "O R U"]
    plain_slot: Int[np.ndarray, "O"] | None = None
    reader_sees: Bool[np.ndarray, "L"] | None = None
    reader_speaks: Bool[np.ndarray, "L"] | None = None

    @property
    def length(self) -> int:
        return len(self.tokens)
