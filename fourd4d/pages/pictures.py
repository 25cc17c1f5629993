"""Pictures for pages: pixels as inline images, and heat maps painted over frames."""

from __future__ import annotations

import base64
import functools
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# Nine anchors of a perceptually even black-red-yellow scale.
_SCALE = np.array(
    [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51),
     (249, 140, 10), (249, 201, 50), (252, 255, 164)], np.float32)


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


@functools.cache
def scale_uri() -> str:
    """The colours of ``paint`` from low to high, as they look over a middle grey."""
    ramp = np.linspace(0, 1, 90, dtype=np.float32)[None].repeat(8, 0)
    return data_uri(paint(np.full((8, 90, 3), 150, np.uint8), ramp, 0.0, 1.0, 90))
