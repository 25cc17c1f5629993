"""``config.json`` of a Qwen3-VL directory to ``ModelConfig`` and back."""

from __future__ import annotations

import math
from typing import Any, Final

from fourd4d.core.errors import InputError
from fourd4d.models.config import DecoderConfig, ModelConfig, VisionConfig
from fourd4d.models.hf_checks import check_numbers, rotary, ties_head, width_problems

FAMILY: Final = "qwen3_vl"
_MISSING = object()

# What the writers leave out when it equals these (Qwen3VLTextConfig, Qwen3VLVisionConfig of
# transformers). Published files have other numbers, and say so.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=151_936, hidden_size=4096, intermediate_size=22_016, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=32, head_dim=128, hidden_act="silu",
    max_position_embeddings=128_000, rms_norm_eps=1e-6, rope_theta=500_000.0,
    attention_bias=False, rope_scaling=_MISSING,
)
_VISION_DEFAULTS: dict[str, Any] = dict(
    depth=27, hidden_size=1152, hidden_act="gelu_pytorch_tanh", intermediate_size=4304,
    num_heads=16, in_channels=3, patch_size=16, spatial_merge_size=2, temporal_patch_size=2,
    out_hidden_size=3584, num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24],
)
_WINDOW: Final = 4  # Merged tokens a side. Attention knows none: only the layout of patches does.


def from_hf(value: dict[str, Any], where: object = "config.json", **fields: Any) -> ModelConfig:
    """The model a Hugging Face config describes; ``fields`` set dtype, remat and the like.

    Rotary numbers are read from ``rope_theta`` and ``rope_scaling``, or from ``rope_parameters``
    (transformers 5).

    Raises:
      InputError: another family, missing parts, contradictions, or features we do not have.
    """
    if value.get("model_type") != FAMILY:
        raise InputError(where, f"model_type {value.get('model_type')!r} is not a known family",
                         f"Known: {FAMILY!r}")
    vision, text = value.get("vision_config"), value.get("text_config")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise InputError(where, "vision_config or text_config is missing",
                         "Give a vision-language model")
    tied = ties_head(value, text, where)
    if isinstance(rope := text.get("rope_parameters"), dict):
        text = {**text, **rope, "rope_scaling": rope}
    d = {name: text.get(name, default) for name, default in _DEFAULTS.items()}
    v = {name: vision.get(name, default) for name, default in _VISION_DEFAULTS.items()}
    _check(d, v, where)
    try:
        return _model(d, v, tied, fields)
    except InputError as error:  # It speaks of our field; theirs is in the file.
        raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error


def _model(d: dict[str, Any], v: dict[str, Any], tied: bool, fields: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(
            width=v["hidden_size"], layers=v["depth"], heads=v["num_heads"],
            mlp=v["intermediate_size"], full_layers=tuple(range(v["depth"])),
            patch_size=v["patch_size"], temporal_patch=v["temporal_patch_size"],
            merge=v["spatial_merge_size"], channels=v["in_channels"],
            window=_WINDOW * v["patch_size"] * v["spatial_merge_size"],
            position_table=math.isqrt(v["num_position_embeddings"]),
            deepstack=tuple(v["deepstack_visual_indexes"]) or None,
        ),
        decoder=DecoderConfig(
            width=d["hidden_size"], layers=d["num_hidden_layers"], heads=d["num_attention_heads"],
            kv_heads=d["num_key_value_heads"] or d["num_attention_heads"], head_dim=d["head_dim"],
            mlp=d["intermediate_size"], vocab=d["vocab_size"],
            mrope_sections=tuple(d["rope_scaling"]["mrope_section"]),
            rope_theta=float(d["rope_theta"]), eps=d["rms_norm_eps"], tied=tied,
            max_positions=d["max_position_embeddings"], qkv="normed", mrope="interleaved",
        ),
        family=FAMILY, **fields,
    )


def _check(d: dict[str, Any], v: dict[str, Any], where: object) -> None:
    check_numbers(d, v, "deepstack_visual_indexes", where)
    problems = width_problems(d, v, d["head_dim"])
    table = v["num_position_embeddings"]
    if math.isqrt(table) ** 2 != table:
        problems.append(f"num_position_embeddings {table} is not a square")
    if not rotary(d).get("mrope_interleaved", True):
        problems.append("mrope_interleaved false is not supported")
    problems += [f"hidden_act {part['hidden_act']!r} is not supported"
                 for part, known in ((d, "silu"), (v, "gelu_pytorch_tanh"))
                 if part["hidden_act"] != known]
    if d["attention_bias"]:
        problems.append("attention_bias is not supported")
    if problems:
        raise InputError(where, "; ".join(problems), "Fix the config")


def to_hf(config: ModelConfig, dtype: str, **extra: Any) -> dict[str, Any]:
    """``config.json`` for ``config``, as transformers and everyone since writes it.

    Args:
      dtype: of the tensors beside it.
      extra: more fields (special token ids).

    Raises:
      InputError: numbers that have no field there, where transformers knows one value only.
    """
    v, d = config.vision, config.decoder
    fixed = [("vision.rope_theta", v.rope_theta, 10_000.0), ("vision.eps", v.eps, 1e-6)]
    wrong = [f"{name} {value:g} (only {known:g} can be written)"
             for name, value, known in fixed if value != known]
    if wrong:
        raise InputError("config.json", ", ".join(wrong), "Keep the trainer's checkpoint")
    assert v.position_table is not None
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": FAMILY,
        "text_config": decoder_to_hf(config) | {
            "model_type": "qwen3_vl_text", "dtype": dtype, "attention_dropout": 0.0,
            "initializer_range": 0.02, "use_cache": True},
        "tie_word_embeddings": d.tied,
        "vision_config": {
            "deepstack_visual_indexes": list(v.deepstack or ()),
            "depth": v.layers,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": v.width,
            "in_channels": v.channels,
            "initializer_range": 0.02,
            "intermediate_size": v.mlp,
            "model_type": FAMILY,
            "num_heads": v.heads,
            "num_position_embeddings": v.position_table**2,
            "out_hidden_size": d.width,
            "patch_size": v.patch_size,
            "spatial_merge_size": v.merge,
            "temporal_patch_size": v.temporal_patch,
        },
        **extra,
    }


def decoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A config of transformers' text-only model with our decoder's shape: for comparing speed."""
    d = config.decoder
    return dict(
        model_type="qwen3", attention_bias=False, head_dim=d.head_dim, hidden_act="silu",
        hidden_size=d.width, intermediate_size=d.mlp, max_position_embeddings=d.max_positions,
        num_attention_heads=d.heads, num_hidden_layers=d.layers, num_key_value_heads=d.kv_heads,
        rms_norm_eps=d.eps, rope_theta=d.rope_theta, vocab_size=d.vocab,
        rope_scaling={"mrope_interleaved": True, "mrope_section": list(d.mrope_sections),
                      "rope_type": "default"},
        tie_word_embeddings=d.tied)
