"""Where a mental image looks: cosine of its latents with the video's own vision features.

Vision features come in the encoder's window order; these functions put them back in raster order
and compare. NumPy only.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec


def slot_grid(example: Example, slot: int, merge: int) -> tuple[int, int]:
    """(rows, columns) of merged tokens of one frame slot."""
    coords = example.slots.coords[slot][example.slots.mask[slot]]
    rows, columns = coords.max(0) + 1
    return int(rows) // merge, int(columns) // merge


def media_slots(example: Example) -> list[int]:
    """Frame slots that are fed as media, in order; overlays are not among them."""
    return [int(s) for s in np.unique(example.vision_slot[example.vision_slot >= 0])]


def raster_features(
    features: Float[np.ndarray, "F U D"], example: Example, slot: int, merge: int
) -> Float[np.ndarray, "rows columns D"]:
    """One slot's merged tokens, out of window order and into the picture's raster."""
    rows, columns = slot_grid(example, slot, merge)
    offsets = example.vision_offset[example.vision_slot == slot]
    return np.asarray(features)[slot, offsets].reshape(rows, columns, -1)


def cosine_maps(
    latents: Float[np.ndarray, "R D"],
    features: Float[np.ndarray, "F U D"],
    example: Example,
    merge: int,
    centred: bool = False,
) -> Float[np.ndarray, "R slots rows columns"]:
    """Cosine of each latent of one mental image with each merged token of the media.

    Args:
      centred: subtract the media's mean feature from both first. Features share a large common
        part, which makes plain cosines high everywhere; centred ones tell places apart.

    Raises:
      ValueError: the media's slots have different grids (images of several sizes).
    """
    slots = media_slots(example)
    grids = {slot_grid(example, slot, merge) for slot in slots}
    if len(grids) != 1:
        raise ValueError(f"cosine_maps: slots of different grids {sorted(grids)}")
    raster = np.stack([raster_features(features, example, s, merge) for s in slots])
    if centred:
        middle = raster.mean((0, 1, 2))
        raster, latents = raster - middle, np.asarray(latents) - middle
    return np.einsum("rd,shwd->rshw", _unit(latents), _unit(raster))


def mental_images(
    latents: Float[np.ndarray, "Q D"], features: Float[np.ndarray, "F U E"], example: Example,
    protocol: ProtocolSpec,
) -> list[Float[np.ndarray, "2 R slots rows columns"]]:
    """Plain and centred ``cosine_maps`` of each mental image of a response, in order.

    None where the media's slots have different grids.

    Args:
      latents: those of the response, all blocks in order.
      features: of the example's slots; what DeepStack adds behind the first D is left out.
    """
    if len({slot_grid(example, slot, protocol.merge) for slot in media_slots(example)}) != 1:
        return []
    own = np.asarray(features[..., : latents.shape[-1]], np.float32)
    return [np.stack([cosine_maps(latents[i : i + protocol.latent_size], own, example,
                                  protocol.merge, centred) for centred in (False, True)])
            for i in range(0, len(latents), protocol.latent_size)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
