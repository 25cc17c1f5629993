"""Mental images in text, and how an overlay's features become their target latents."""

from __future__ import annotations

import functools
import re

import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.processing.patches import token_offsets
from fourd4d.processing.tokenizer import LATENT_END, LATENT_PAD, LATENT_START

_MARK_AT_START = re.compile(rf"(^|<think>)(?:[ \t]*{IMAGE_MARK})+[ \t]*", re.MULTILINE)
_MARK = re.compile(rf"[ \t]*{IMAGE_MARK}")
_SPAN = re.compile(
    rf"{re.escape(LATENT_START)}(?:{re.escape(LATENT_PAD)})*(?:{re.escape(LATENT_END)})?")


def span(latent_size: int) -> str:
    """One mental image as text."""
    return LATENT_START + LATENT_PAD * latent_size + LATENT_END


def insert_spans(response: str, latent_size: int) -> str:
    """The response with a span in place of every ``<output_image>``."""
    return response.replace(IMAGE_MARK, span(latent_size))


def marked(response: str) -> str:
    """The response with ``<output_image>`` in place of every span, one cut off included."""
    return _SPAN.sub(IMAGE_MARK, response)


def remove_marks(response: str) -> str:
    """The response without ``<output_image>``, for training on text alone.

    A mark goes with the spaces before it, or with those after it at the start of a line or of the
    thought, so that no double space remains.
    """
    return _MARK.sub("", _MARK_AT_START.sub(r"\1", response))


def reader_masks(
    vision_slot: Int[np.ndarray, "L"], latent_index: Int[np.ndarray, "L"]
) -> tuple[Bool[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Return which tokens a reader sees and which it chooses; see ``core.batch.ReaderInput``.

    It sees all but the frames, and speaks the text after the first latent.
    """
    latent = latent_index >= 0
    return vision_slot < 0, (np.cumsum(latent) > 0) & ~latent


def _bins(length: int, number: int) -> Float[np.ndarray, "number length"]:
    """Adaptive average pooling in 1-D: bin i covers floor(i n / k) to ceil((i + 1) n / k)."""
    weights = np.zeros((number, length))
    for i in range(number):
        start, end = i * length // number, -(-(i + 1) * length // number)
        weights[i, start:end] = 1.0 / (end - start)
    return weights


def _strips(length: int, number: int) -> Float[np.ndarray, "number length"]:
    """Contiguous groups that share no token; with fewer tokens than groups, tokens repeat."""
    weights = np.zeros((number, length))
    for i in range(number):
        start = i * length // number
        end = max(start + 1, (i + 1) * length // number)
        weights[i, start:end] = 1.0 / (end - start)
    return weights


def covered(mask: Bool[np.ndarray, "_ _"], height: int, width: int
            ) -> Float[np.ndarray, "height width"]:
    """Return the share of each cell of an even grid that a mask of any size fills."""
    cells = (np.arange(mask.shape[0]) * height // mask.shape[0])[:, None] * width + (
        np.arange(mask.shape[1]) * width // mask.shape[1])
    pixels = np.bincount(cells.ravel(), minlength=height * width)
    filled = np.bincount(cells.ravel(), mask.ravel(), height * width)
    return (filled / np.maximum(pixels, 1)).reshape(height, width)


def masked_weights(rows: int, columns: int, protocol: ProtocolSpec,
                   mask: Bool[np.ndarray, "_ _"]) -> Float[np.ndarray, "R U"]:
    """``pooling_weights`` inside a mask of the same picture.

    Each latent's tokens count as far as the mask fills them; a latent whose tokens it does not
    touch stays as it is. So which latents hold the object tells its place.
    """
    height, width = rows // protocol.merge, columns // protocol.merge
    raster = _raster(height, width, protocol)
    inside = raster * covered(mask, height, width).reshape(-1)
    total = inside.sum(1, keepdims=True)
    return _in_windows(np.where(total > 0, inside / np.where(total > 0, total, 1.0), raster),
                       rows, columns, protocol)


@functools.lru_cache(maxsize=256)
def pooling_weights(rows: int, columns: int, protocol: ProtocolSpec) -> Float[np.ndarray, "R U"]:
    """Matrix that pools the merged tokens of one still image into ``latent_size`` latents.

    ``strips`` averages contiguous runs of the raster order, ``grid`` the bins of a 2-D adaptive
    average pooling. Columns follow the window order of the frame slot; rows sum to 1.

    Args:
      rows, columns: the image's grid, patches.
    """
    raster = _raster(rows // protocol.merge, columns // protocol.merge, protocol)
    weights = _in_windows(raster, rows, columns, protocol)
    weights.setflags(write=False)  # Cached: one array for all callers.
    return weights


def _raster(height: int, width: int, protocol: ProtocolSpec) -> Float[np.ndarray, "R _"]:
    """Pooling weights of the merged tokens in raster order."""
    if protocol.pooling == "strips":
        return _strips(height * width, protocol.latent_size)
    side = round(protocol.latent_size**0.5)
    raster = np.einsum("ah,bw->abhw", _bins(height, side), _bins(width, side))
    return raster.reshape(protocol.latent_size, height * width)


def _in_windows(raster: Float[np.ndarray, "R _"], rows: int, columns: int,
                protocol: ProtocolSpec) -> Float[np.ndarray, "R U"]:
    """Columns in raster order → in the window order of the frame slot."""
    height, width = rows // protocol.merge, columns // protocol.merge
    offsets = token_offsets(rows, columns, protocol)
    side = protocol.window // (protocol.patch_size * protocol.merge)
    windows = -(-height // side) * -(-width // side)
    weights = np.zeros((protocol.latent_size, windows * side**2), np.float32)
    weights[:, offsets] = raster
    return weights
