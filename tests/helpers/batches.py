"""Examples and batches made by hand."""

import dataclasses

import numpy as np

from fourd4d.core.example import Example, VisionSlots
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing.latent_spans import reader_masks

PROTOCOL = ProtocolSpec(patch_size=4, window=16, merge=2, latent_size=2, temporal_patch=2)
M, C, R = PROTOCOL.window_patches, PROTOCOL.patch_dim, PROTOCOL.latent_size


def make(seed: int, length: int = 20, media: int = 2, overlays: int = 1,
         windows: int = 1) -> Example:
    """A consistent example: each media slot feeds two tokens, each overlay R latents."""
    rng = np.random.default_rng(seed)
    slots, u = media + overlays, windows * M // PROTOCOL.merge**2
    vision_slot, offset, latent = (np.full(length, -1, np.int32) for _ in range(3))
    vision_slot[1 : 1 + 2 * media] = np.repeat(np.arange(media), 2)
    offset[1 : 1 + 2 * media] = rng.integers(0, u, 2 * media)
    start = 2 + 2 * media
    latent[start : start + overlays * R] = np.arange(overlays * R)
    weights = np.zeros(length, np.float32)
    weights[-3:] = 1.0
    return Example(
        tokens=rng.integers(1, 60, length).astype(np.int32),
        positions=rng.integers(0, 99, (3, length)).astype(np.int32), text_weights=weights,
        vision_slot=vision_slot, vision_offset=offset, latent_index=latent,
        slots=VisionSlots(
            patches=rng.standard_normal((slots, windows, M, C)).astype(np.float32),
            coords=rng.integers(0, 4, (slots, windows, M, 2)).astype(np.int32),
            mask=rng.random((slots, windows, M)) < 0.9),
        overlay_slot=np.arange(media, slots, dtype=np.int32),
        pool=rng.random((overlays, R, u)).astype(np.float32),
    )


READING = dataclasses.replace(PROTOCOL, reader="blind")


def with_reader(example: Example) -> Example:
    """The example as a protocol with a reader makes it."""
    sees, speaks = reader_masks(example.vision_slot, example.latent_index)
    return dataclasses.replace(example, reader_sees=sees, reader_speaks=speaks)
