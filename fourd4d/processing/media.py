"""Images and videos in memory, and images from files; ``video`` reads videos."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

from fourd4d.core.errors import InputError


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
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            upright = PIL.ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16") or upright.mode == "I":
                levels = np.asarray(upright).astype(np.float64) / 257
                return Image(np.repeat(np.clip(levels.round(), 0, 255).astype(np.uint8)[..., None],
                                       3, axis=-1))
            return Image(np.asarray(upright.convert("RGB")))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(where, f"no readable image ({error})",
                         "Give a whole image file") from error


def image_size(data: bytes, where: object = "image") -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size
            return (width, height) if turned else (height, width)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(where, f"no readable image ({error})",
                         "Give a whole image file") from error


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path; raises InputError where no file is, or an empty one."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "Check the path")
    if path.stat().st_size == 0:
        raise InputError(path, "the file is empty", "Fetch it again")
    return path
