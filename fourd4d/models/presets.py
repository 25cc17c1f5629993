"""Published sizes of Qwen2.5-VL (arXiv 2502.13923, their config files) and a tiny one for CPUs."""

from __future__ import annotations

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
    "3b": _published(2048, 36, 16, 2, 11_008, 151_936, 3420, tied=True),
    "7b": _published(3584, 28, 28, 4, 18_944, 152_064, 3420),
    "32b": _published(5120, 64, 40, 8, 27_648, 152_064, 3456),
    "72b": _published(8192, 80, 64, 8, 29_568, 152_064, 3456),
}


def preset(name: str) -> ModelConfig:
    """One of tiny, 3b, 7b, 32b, 72b. Raises InputError on other names."""
    if name not in _PRESETS:
        raise InputError("preset", f"unknown name {name!r}", f"Choose among {sorted(_PRESETS)}")
    return _PRESETS[name]


def preset_protocol(name: str, **overrides: Any) -> ProtocolSpec:
    """The token protocol that goes with a preset.

    ``tiny`` reads frames of at most 64 x 64 and, to keep sequences short, has no system turn.
    """
    tiny = dict(min_pixels=32 * 32, max_pixels=64 * 64, system="") if name == "tiny" else {}
    return preset(name).protocol(**(tiny | overrides))
