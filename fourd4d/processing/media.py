"""Images and videos in memory, and images from files; ``video`` reads videos."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.TiffImagePlugin
from jaxtyping import UInt8

from fourd4d.core.errors import InputError

MOST_PIXELS: Final = 250_000_000
"""Largest picture that is read; decoding takes up to 16 bytes a pixel."""
_LIMIT: Final = threading.RLock()
_ORIENTATION: Final = PIL.ExifTags.Base.Orientation
_TRANSPOSE: Final = {  # By orientation.
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT, 3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM, 5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270, 7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TEXT: Final = {b"tEXt", b"zTXt", b"iTXt"}
_SHOWN: Final = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}  # Others of lower case add nothing.
# What often has a picture's name and cannot be read: the start of the file, what it is, remedy.
_FOREIGN: Final = (
    (re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
     "it is a HEIC image, which is not supported", "Convert it to JPEG or PNG"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]",
                re.DOTALL), "it is an SVG drawing, which has no pixels", "Convert it to PNG"),
    (re.compile(rb"%PDF-"), "it is a PDF document", "Convert its page to PNG"),
    (re.compile(rb"version https://git-lfs"), "it is a Git LFS pointer, not the image",
     "Fetch the image with git lfs pull"),
    (re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
     "it is a web page, not an image", "Fetch the image again"),
)
_SHORT_TEXT: Final = 1 << 20  # Bytes that Pillow takes.
_ORIENTED: Final = {b"XML:com.adobe.xmp", b"Raw profile type exif"}


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
    timestamps: tuple[float, ...] = ()


def _check_pixels(pixels: Any, dims: int, where: str) -> None:
    shape = np.shape(pixels)
    kind = getattr(pixels, "dtype", type(pixels).__name__)
    if kind != np.uint8 or len(shape) != dims or shape[-1] != 3:
        raise InputError(where, f"pixels are {kind} of shape {shape}",
                         "Give uint8 RGB with the channel last")
    if 0 in shape:
        raise InputError(where, f"no pixels (shape {shape})", "Give at least one frame")


def read_image(path: str | os.PathLike[str]) -> Image:
    """The picture in a file, upright, as RGB.

    Of EXIF only the orientation is read; where that is not possible, the picture is as stored.

    Raises:
      InputError: missing, empty, not to be read, not an image, or of more than ``MOST_PIXELS``.
    """
    path = existing_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _not_read(path, error) from error
    return decode_image(data, path)


class TooLargeError(InputError):
    """A picture has more pixels than there is room for; nothing of it was decoded."""


def decode_image(data: bytes, where: object = "image", *, most: int = MOST_PIXELS) -> Image:
    """As ``read_image``, from the bytes of a file; ``where`` names them in errors.

    Raises TooLargeError: it has more than ``most`` pixels.
    """
    with _opened(data, where) as image:
        if math.prod(image.size) > most:
            raise TooLargeError(where, f"it has more than {most:,} pixels", "Scale it down")
        image.load()  # Pillow turns a TIFF as it loads it, and then gives no orientation.
        method = _TRANSPOSE.get(_orientation(image))
        upright = image if method is None else image.transpose(method)
        if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
            levels = np.asarray(upright).astype(np.float64)
            if upright.mode == "F" and (levels >= 0).all() and levels.max() <= 1:
                levels *= 65_535  # Shares of white.
            elif upright.mode == "F" or levels.max() > 65_535:
                raise InputError(where, "its levels are of 32 bits, and nobody says which is white",
                                 "Save it with 8 or 16 bits")
            levels /= 257
            return Image(np.repeat(np.clip(levels.round(), 0, 255).astype(np.uint8)[..., None],
                                   3, axis=-1))
        return Image(np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB")))


def image_size(data: bytes, where: object = "image") -> tuple[int, int]:
    """(height, width) of the upright picture."""
    with _opened(data, where) as image:
        width, height = image.size
        # Pillow gives the upright size of TIFF files, and the stored one of others.
        turned = _orientation(image) >= 5 and image.format != "TIFF"
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(data: bytes, where: object) -> Iterator[PIL.ImageFile.ImageFile]:
    """An image file whose size is within the limit; what fails while it is used is InputError."""
    try:
        data = _without_text(data)
        try:
            image = PIL.Image.open(io.BytesIO(data))
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
            with _no_limit():
                image = PIL.Image.open(io.BytesIO(data))
        with image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(where, f"it has {width} x {height} pixels, more than "
                                 f"{MOST_PIXELS:,} in all", "Scale it down")
            if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
                _keep_orientation_alone(image)
            large = width * height > (PIL.Image.MAX_IMAGE_PIXELS or MOST_PIXELS)
            with _no_limit() if large else contextlib.nullcontext():
                yield image
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(where, "there is not memory enough for it", "Scale it down") from error
    except Exception as error:  # Pillow has errors of every type for bad data.
        for start, what, remedy in _FOREIGN:
            if start.match(data[:4096]):
                raise InputError(where, what, remedy) from error
        what = re.sub(r" <_io.*?>", "", str(error).strip()) or type(error).__name__
        raise InputError(where, f"it is not a readable image ({what})",
                         "Give a whole image file") from error


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    """Without Pillow's limit of pixels, which is one for the process; see ``MOST_PIXELS``."""
    with _LIMIT:
        usual, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = usual


def _orientation(image: PIL.Image.Image) -> int:
    """1 … 8 of EXIF; 1 where it cannot be read."""
    try:
        tags = image.tag_v2 if isinstance(image, PIL.TiffImagePlugin.TiffImageFile) else (
            image.getexif())
        value = tags.get(_ORIENTATION)
        return next((k for k in range(1, 9) if value == k), 1)
    except Exception:  # Any bytes may stand there, and Pillow has errors of every type for them.
        return 1


def _keep_orientation_alone(image: PIL.TiffImagePlugin.TiffImageFile) -> None:
    """Loading a TIFF file turns it by its EXIF, and fails where any of that is bad."""
    exif = PIL.Image.Exif()
    exif[_ORIENTATION] = _orientation(image)
    image.getexif = lambda: exif


def _without_text(data: bytes) -> bytes:
    """Return a PNG file without the chunks that change no pixel, such as text and profiles.

    Viewers pass over damaged ones, which Pillow refuses, as it does text of more than 1 MB. Whole
    text that may hold the orientation stays.
    """
    if not data.startswith(_PNG):
        return data
    kept, at = [data[: len(_PNG)]], len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        keyword = data[at + 8 : min(at + 88, end)].split(b"\0")[0]
        if kind[:1].isupper() or (
                kind in _SHOWN or kind in _TEXT and keyword in _ORIENTED and length < _SHORT_TEXT
                ) and data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[at + 4 : end - 4])):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path; raises InputError where no file is, or an empty one, or one not to be read."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                empty = not file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path.
        raise _not_read(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(path, "it is a folder", "Name a file in it")
    if not stat.S_ISREG(mode):
        raise InputError(path, "it is not a regular file", "Copy it into a file")
    if empty:
        raise InputError(path, "the file is empty", "Fetch it again")
    return path


def _not_read(path: Path, error: Exception) -> InputError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):
        link = path.is_symlink() if isinstance(error, FileNotFoundError) else False
        return InputError(path, "no such file" + (
            f": it is a link to {os.readlink(path)!r}" if link else ""), "Check the path")
    return InputError(path, f"it cannot be read ({getattr(error, 'strerror', error)})",
                      "Check its permissions" if isinstance(error, PermissionError)
                      else "Check the path and the disk")
