"""Images and videos in memory, and images from files; ``video`` reads videos."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import PIL.ExifTags
import PIL.Image
from jaxtyping import UInt8

from fourd4d.core.errors import InputError

MOST_PIXELS: Final = 1 << 29
"""Largest picture that is read: 1.6 GB as RGB."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SHORT_TEXT: Final = 1 << 20  # Bytes that Pillow takes.


@dataclasses.dataclass(frozen=True)
class Image:
    """One still picture: uint8 RGB of shape (height, width, 3), or InputError."""

    pixels: np.ndarray
    kind: ClassVar[Literal["image"]] = "image"

    def __post_init__(self) -> None:
        _check_pixels(self.pixels, 3, "image")

    @property
    def frames(self) -> UInt8[np.ndarray, "1 H W 3"]:
        return self.pixels[None]


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames, and the second at which each is shown.

    Attributes:
      frames: uint8 RGB of shape (frames, height, width, 3).
      timestamps: seconds, one a frame.

    Raises:
      InputError: another type or shape; times that are not finite, do not rise, or are too few.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    kind: ClassVar[Literal["video"]] = "video"

    def __post_init__(self) -> None:
        _check_pixels(self.frames, 4, "video")
        times = np.asarray(self.timestamps, np.float64)
        object.__setattr__(self, "timestamps", times)
        if times.shape != (len(self.frames),):
            raise InputError("video", f"{len(self.frames)} frames, {times.size} timestamps",
                             "Give one timestamp per frame")
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError("video", "timestamps do not rise", "Sort the frames by time")


@dataclasses.dataclass(frozen=True)
class MediumShape:
    """What the token count of an image or a video depends on."""

    kind: Literal["image", "video"]
    frames: int
    height: int
    width: int


def _check_pixels(pixels: Any, dims: int, where: str) -> None:
    shape = np.shape(pixels)
    kind = getattr(pixels, "dtype", type(pixels).__name__)
    if kind != np.uint8 or len(shape) != dims or shape[-1] != 3:
        raise InputError(where, f"pixels are {kind} of shape {shape}",
                         "Give uint8 RGB with the channel last")
    if 0 in shape:
        raise InputError(where, f"no pixels (shape {shape})", "Give at least one frame")


def read_image(path: str | os.PathLike[str]) -> Image:
    """The picture in a file, upright (EXIF orientation applied), as RGB.

    Raises:
      InputError: missing, empty, or no image.
    """
    path = existing_file(path)
    return decode_image(path.read_bytes(), path)


def decode_image(data: bytes, where: object = "image") -> Image:
    """As ``read_image``, from the bytes of a file; ``where`` names them in errors."""
    with _opened(data, where) as image:
        image.load()  # Pillow turns a TIFF as it loads it, and then gives no orientation.
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode.startswith("I;16") or upright.mode == "I":
            levels = np.asarray(upright).astype(np.float64) / 257
            return Image(np.repeat(np.clip(levels.round(), 0, 255).astype(np.uint8)[..., None],
                                   3, axis=-1))
        return Image(np.asarray(upright.convert("RGB")))


def image_size(data: bytes, where: object = "image") -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone."""
    with _opened(data, where) as image:
        width, height = image.size
        turned = image.format != "TIFF" and _orientation(image) >= 5  # A TIFF's size is upright.
        return (width, height) if turned else (height, width)


# How a picture of each EXIF orientation is set upright.
_TURNS: Final = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT, 3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM, 5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270, 7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_OPENING: Final = threading.Lock()


@contextlib.contextmanager
def _opened(data: bytes, where: object) -> Iterator[PIL.Image.Image]:
    """The picture, opened within our own limit on its size; whatever fails is an InputError."""
    try:
        with _OPENING:  # Pillow's limit is one number of the process.
            limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
            try:
                image = PIL.Image.open(io.BytesIO(_without_text(data)))
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = limit
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(where, f"it has {image.width} x {image.height} pixels, more than "
                                 f"{MOST_PIXELS:,} in all", "Scale it down")
            yield image
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(where, "there is not memory enough for it", "Scale it down") from error
    except Exception as error:  # Pillow's readers have many of their own.
        what = re.sub(r" <_io.*?>", "", str(error).strip()) or type(error).__name__
        raise InputError(where, f"it is not a readable image ({what})",
                         "Give a whole image file") from error


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where the file gives none that makes sense."""
    try:
        value = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # A picture is not lost for its EXIF.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _without_text(data: bytes) -> bytes:
    """A PNG without the texts that image generators store in it, whose length Pillow limits."""
    if not data.startswith(_PNG):
        return data
    out, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        kind, start = data[at + 4 : at + 8], data[at + 8 : at + 28]
        text = kind in (b"tEXt", b"zTXt", b"iTXt")
        # Orientation may stand in XMP, which is not compressed.
        if not text or (start.startswith(b"XML:com.adobe.xmp\0\0") and length < _SHORT_TEXT):
            out.append(data[at:end])
        at = end
    out.append(data[at:])
    return b"".join(out)


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path; raises InputError where no file is, an empty one, or one that may not be read."""
    path = Path(path)
    try:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "no such file"
            raise InputError(path, what, "Check the path")
        if path.stat().st_size == 0:
            raise InputError(path, "the file is empty", "Fetch it again")
        with path.open("rb"):
            return path
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})",
                         "Check its permissions") from error
