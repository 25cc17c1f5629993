"""Where a mental image looks: cosine of its latents with the video's own vision features.

Vision features come in the encoder's window order; these functions put them back in raster order,
compare, and paint the result over a frame. NumPy only.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fourd4d.core.example import Example

# Nine anchors of a perceptually even black-red-yellow scale.
_SCALE = np.array(
    [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51),
     (249, 140, 10), (249, 201, 50), (252, 255, 164)], np.float32)  # fmt: skip


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


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def colour(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Colours (0 … 255) of numbers in [0, 1]."""
    place = np.clip(values, 0, 1) * (len(_SCALE) - 1)
    low = np.minimum(place.astype(int), len(_SCALE) - 2)
    part = (place - low)[..., None]
    return _SCALE[low] * (1 - part) + _SCALE[low + 1] * part


def paint(
    frame: UInt8[np.ndarray, "H W 3"],
    cosines: Float[np.ndarray, "rows columns"],
    low: float,
    high: float,
    width: int = 176,
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame in grey under its heat map: dark at ``low``, bright at ``high``."""
    size = (width, max(1, round(width * frame.shape[0] / frame.shape[1])))
    kept = Image.Resampling.NEAREST if frame.shape[1] < width else Image.Resampling.LANCZOS
    grey = np.asarray(Image.fromarray(frame).convert("L").resize(size, kept), np.float32)
    scaled = ((cosines - low) / max(high - low, 1e-12)).astype(np.float32)
    heat = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC))
    heat = np.clip(heat, 0, 1)
    weight = (0.45 + 0.4 * heat)[..., None]
    return np.rint(grey[..., None] * (1 - weight) + colour(heat) * weight).astype(np.uint8)


def data_uri(pixels: UInt8[np.ndarray, "H W 3"], width: int | None = None) -> str:
    """The picture as a ``data:`` address, no wider than ``width`` pixels."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if width is not None and image.width > width:
        height = max(1, round(width * image.height / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if image.width < 96:  # Few pixels: keep each of them.
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "WEBP", quality=82)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
