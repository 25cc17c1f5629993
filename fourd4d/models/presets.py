"""Published sizes, from their config files, and a tiny one of each family for CPUs.

Qwen2.5-VL (arXiv 2502.13923): 3b, 7b, 32b, 72b. Qwen3-VL (arXiv 2511.21631): ``qwen3_`` and 2b, 4b,
8b, 32b.
"""

from __future__ import annotations

import re
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models.config import DecoderConfig, ModelConfig, VisionConfig


def _published(width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int,
               vision_mlp: int, tied: bool = False) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(width=1280, layers=32, heads=16, mlp=vision_mlp,
                            full_layers=(7, 15, 23, 31)),
        decoder=DecoderConfig(width=width, layers=layers, heads=heads, kv_heads=kv_heads,
                              head_dim=128, mlp=mlp, vocab=vocab, tied=tied,
                              valid_vocab=151_668),
    )


def _published3(width: int, layers: int, heads: int, mlp: int, *, large: bool,
                tied: bool = False) -> ModelConfig:
    vision: dict[str, Any] = (
        dict(width=1152, layers=27, mlp=4304, deepstack=(8, 16, 24)) if large else
        dict(width=1024, layers=24, mlp=4096, deepstack=(5, 11, 17)))
    return ModelConfig(
        vision=_table_encoder(heads=16, patch_size=16, position_table=48, **vision),
        decoder=DecoderConfig(
            width=width, layers=layers, heads=heads, kv_heads=8, head_dim=128, mlp=mlp,
            vocab=151_936, tied=tied, valid_vocab=151_672, mrope_sections=(24, 20, 20),
            rope_theta=5_000_000.0, max_positions=262_144, qkv="normed", mrope="interleaved"),
        family="qwen3_vl")


def _table_encoder(*, layers: int, patch_size: int, **fields: Any) -> VisionConfig:
    return VisionConfig(layers=layers, full_layers=tuple(range(layers)), patch_size=patch_size,
                        window=8 * patch_size, **fields)


_PRESETS = {
    "tiny": ModelConfig(
        vision=VisionConfig(width=64, layers=3, heads=4, mlp=192, full_layers=(2,),
                            patch_size=8, window=32),
        decoder=DecoderConfig(width=128, layers=3, heads=4, kv_heads=2, head_dim=32, mlp=384,
                              vocab=1024, tied=True,
                              # The published sections give columns the slowest frequencies: in a
                              # frame of four columns they would turn by less than 1e-3 rad in all.
                              # Here they turn by half a radian, and words still find each other at
                              # any distance by the slow ones.
                              mrope_sections=(1, 2, 13), rope_theta=10_000.0),
        dtype="float32", remat="none",
    ),
    "tiny3": ModelConfig(
        vision=_table_encoder(width=64, layers=3, heads=4, mlp=256, patch_size=8,
                              position_table=8, deepstack=(0, 1)),
        decoder=DecoderConfig(width=128, layers=3, heads=4, kv_heads=2, head_dim=32, mlp=384,
                              vocab=1024, tied=True, mrope_sections=(6, 5, 5), rope_theta=10_000.0,
                              qkv="normed", mrope="interleaved"),
        family="qwen3_vl", dtype="float32", remat="none",
    ),
    "3b": _published(2048, 36, 16, 2, 11_008, 151_936, 3420, tied=True),
    "7b": _published(3584, 28, 28, 4, 18_944, 152_064, 3420),
    "32b": _published(5120, 64, 40, 8, 27_648, 152_064, 3456),
    "72b": _published(8192, 80, 64, 8, 29_568, 152_064, 3456),
    "qwen3_2b": _published3(2048, 28, 16, 6144, large=False, tied=True),
    "qwen3_4b": _published3(2560, 36, 32, 9728, large=False, tied=True),
    "qwen3_8b": _published3(4096, 36, 32, 12_288, large=True),
    "qwen3_32b": _published3(5120, 64, 64, 25_600, large=True),
}


def names() -> tuple[str, ...]:
    """Names of all presets."""
    return tuple(_PRESETS)


def published(family: str) -> tuple[str, ...]:
    """Names of a family's published sizes, smallest first."""
    return tuple(name for name, config in _PRESETS.items()
                 if config.family == family and not name.startswith("tiny"))


def named_in(text: str) -> tuple[str, ...]:
    """Names of the presets that a path speaks of, such as ``runs/dift_3b/checkpoints``.

    Where it has the word that a family's names begin with, its size is one of that family's.
    """
    words = re.split(r"[^0-9a-z]+", text.casefold())
    parts = {name: name.rpartition("_")[::2] for name in _PRESETS}
    told = {first for first, _ in parts.values() if first and first in words} or {""}
    return tuple(name for name, (first, size) in parts.items() if first in told and size in words)


def preset(name: str) -> ModelConfig:
    """One of the sizes by name. Raises InputError on other names."""
    if name not in _PRESETS:
        raise InputError("preset", f"unknown name {name!r}", f"Choose among {sorted(_PRESETS)}")
    return _PRESETS[name]


def preset_protocol(name: str, **overrides: Any) -> ProtocolSpec:
    """The token protocol that goes with a preset.

    ``tiny`` reads frames of at most 64 x 64 and, to keep sequences short, has no system turn;
    ``tiny3`` reads sixteen such frames. Of the published sizes of the newer family, whose bounds
    are of whole videos, 4 to 768 frames of 32 x 32 tokens.
    """
    config, own = preset(name), {}
    if name == "tiny":
        own = dict(min_pixels=32 * 32, max_pixels=64 * 64, system="")
    elif name == "tiny3":
        own = dict(min_pixels=32 * 32, max_pixels=16 * 64 * 64)
    elif config.vision.position_table is not None:
        own = dict(min_pixels=128 * 32 * 32, max_pixels=768 * 32 * 32, fps=2.0, max_frames=768,
                   image_min_pixels=256 * 256, image_max_pixels=4096 * 4096)
    return config.protocol(**(own | overrides))
