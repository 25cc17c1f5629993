"""The one description of how videos and text become tokens, shared by every stage.

A checkpoint carries it, so fine-tuning, reinforcement learning and evaluation cannot drift apart
(frame limits, pixel limits, time scale, prompt suffix).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final, Literal

from fourd4d.core.errors import InputError


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_colour(value: Any) -> bool:
    return (isinstance(value, tuple) and len(value) == 3
            and all(type(n) in (int, float) and math.isfinite(n) for n in value))


def _is_optional_count(value: Any) -> bool:
    return value is None or _is_count(value)


_FIELDS: Final[tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...]] = (
    (("patch_size", "temporal_patch", "merge", "window", "min_pixels", "max_pixels", "max_frames",
      "latent_size"), _is_count, "a positive integer"),
    (("image_min_pixels", "image_max_pixels"), _is_optional_count, "a positive integer"),
    (("fps", "tokens_per_second"), _is_rate, "a positive number"),
    (("image_mean", "image_std"), _is_colour, "three numbers"),
    (("image_std",), lambda std: min(std) > 0, "three positive numbers"),
    (("system",), lambda text: isinstance(text, str), "text"),
)


@dataclasses.dataclass(frozen=True)
class ProtocolSpec:
    """Numbers and wordings of the token protocol.

    Attributes:
      patch_size: side of a patch, pixels.
      temporal_patch: frames in one frame slot.
      merge: side of the square of patches merged into one token.
      window: side of an attention window, pixels.
      min_pixels, max_pixels: bounds of one resized frame of a video, pixels.
      image_min_pixels, image_max_pixels: bounds of a still image; None for those of frames.
      max_frames: most frames of a video; longer ones are sampled uniformly in time.
      fps: frames a second asked of a video file; true timestamps travel with the frames.
      tokens_per_second: temporal M-RoPE ids per second of video.
      image_mean, image_std: per channel, of pixels scaled to [0, 1].
      latent_size: latents of one mental image (K in the method, axis R here).
      pooling: how an overlay's features become latents, ``strips`` or ``grid``.
      target: what an overlay's latents are pooled from. None: its features. ``difference``: what is
        left of them without those of the same frame before it was painted on.
      region: where they are pooled. None: everywhere. ``mask``: inside the painted object, for the
        latents whose part of the image holds some of it.
      suffix: wording of the user turn's end: ours, the released checkpoint's, or none.
      reader: who speaks from the first mental image on. None: the stream that imagines, which sees
        the frames. ``blind``: a second stream of the same weights that sees text and what was
        imagined, and no frames (``core.batch.ReaderInput``).
      system: system turn; the empty string leaves the turn out.
      times: how the times of a video's frames are said. None: as temporal M-RoPE ids. ``text``:
        every frame slot is an image of its own, and the mean time of its frames, in seconds,
        stands before it as text; ``tokens_per_second`` then means nothing.
      budget: what ``min_pixels`` and ``max_pixels`` bound. None: one frame. ``video``: all frames
        of a video together, as it is handed over.
    """

    patch_size: int = 14
    temporal_patch: int = 2
    merge: int = 2
    window: int = 112
    min_pixels: int = 56 * 56
    max_pixels: int = 256 * 28 * 28
    max_frames: int = 50
    fps: float = 1.0
    tokens_per_second: float = 2.0
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    latent_size: int = 4
    pooling: Literal["strips", "grid"] = "strips"
    suffix: Literal["fourd4d", "released", "none"] = "fourd4d"
    system: str = "You are a helpful assistant."
    image_min_pixels: int | None = None
    image_max_pixels: int | None = None
    reader: Literal["blind"] | None = None
    target: Literal["difference"] | None = None
    region: Literal["mask"] | None = None
    times: Literal["text"] | None = None
    budget: Literal["video"] | None = None

    def __post_init__(self) -> None:
        for kind, prefix in (("video", ""), ("image", "image_")):
            low, high = self.pixel_bounds(kind)
            if low > high:
                raise InputError(f"ProtocolSpec.{prefix}min_pixels", f"{low} is more than "
                                 f"{prefix}max_pixels = {high}", "Fix either")
        if self.window % (self.patch_size * self.merge):
            raise InputError(
                "ProtocolSpec.window",
                f"{self.window} is not a multiple of patch_size * merge = "
                f"{self.patch_size * self.merge}",
                "Choose a window that holds whole merged tokens",
            )
        if self.pooling not in ("strips", "grid"):
            raise InputError("ProtocolSpec.pooling", f"unknown value {self.pooling!r}",
                             "Use 'strips' or 'grid'")
        if self.suffix not in ("fourd4d", "released", "none"):
            raise InputError("ProtocolSpec.suffix", f"unknown value {self.suffix!r}",
                             "Use 'fourd4d', 'released' or 'none'")
        for name, known in (("reader", "blind"), ("target", "difference"), ("region", "mask"),
                            ("times", "text"), ("budget", "video")):
            value = getattr(self, name)
            if value not in (None, known):
                raise InputError(f"ProtocolSpec.{name}", f"unknown value {value!r}",
                                 f"Use {known!r}, or leave it out")
        if self.pooling == "grid" and round(self.latent_size**0.5) ** 2 != self.latent_size:
            raise InputError("ProtocolSpec.latent_size", f"{self.latent_size} is not a square",
                             "Grid pooling needs a square number, or use pooling='strips'")

    @property
    def patch_dim(self) -> int:
        """Numbers of one flattened patch (axis C)."""
        return 3 * self.temporal_patch * self.patch_size**2

    @property
    def window_patches(self) -> int:
        """Patches of a full window (axis M)."""
        return (self.window // self.patch_size) ** 2

    def pixel_bounds(self, kind: str) -> tuple[int, int]:
        """Return the least and the largest area of an ``image`` or of a ``video``'s frame."""
        if kind != "image":
            return self.min_pixels, self.max_pixels
        low, high = self.image_min_pixels, self.image_max_pixels
        return (self.min_pixels if low is None else low,
                self.max_pixels if high is None else high)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: object = "protocol") -> ProtocolSpec:
        """Raises InputError, with ``where``, on unknown fields and bad values."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise InputError(where, f"unknown fields {unknown}", f"Known: {sorted(known)}")
        kwargs: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        for names, good, wanted in _FIELDS:
            for name in names:
                if name in kwargs and not good(kwargs[name]):
                    raise InputError(where, f"{name} is {value[name]!r}, not {wanted}", "Fix it")
        try:
            return cls(**kwargs)
        except InputError as error:
            raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error
