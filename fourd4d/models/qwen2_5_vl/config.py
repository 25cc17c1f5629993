"""``config.json`` of a Qwen2.5-VL directory to ``ModelConfig`` and back."""

from __future__ import annotations

from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.models.config import DecoderConfig, ModelConfig, VisionConfig
from fourd4d.models.hf_checks import check_numbers, ties_head, width_problems

FAMILY = "qwen2_5_vl"
_MISSING = object()

# What the writers leave out when it equals these (Qwen2_5_VLConfig of transformers).
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=152_064, hidden_size=8192, intermediate_size=29_568, num_hidden_layers=80,
    num_attention_heads=64, num_key_value_heads=8, hidden_act="silu",
    max_position_embeddings=32_768, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
    use_sliding_window=False, tie_word_embeddings=False, rope_scaling=_MISSING,
)
_VISION_DEFAULTS: dict[str, Any] = dict(
    depth=32, hidden_size=3584, hidden_act="silu", intermediate_size=3420, num_heads=16,
    in_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
    tokens_per_second=4, window_size=112, out_hidden_size=3584,
    fullatt_block_indexes=[7, 15, 23, 31], rope_theta=10_000.0,
)


def from_hf(value: dict[str, Any], where: object = "config.json", **fields: Any) -> ModelConfig:
    """The model a Hugging Face config describes; ``fields`` set dtype, remat and the like.

    Both layouts are read: decoder fields at the top, or under ``text_config``; rotary numbers in
    ``rope_theta`` and ``rope_scaling``, or both in ``rope_parameters`` (transformers 5).

    Raises:
      InputError: another family, missing parts, contradictions, or features we do not have.
    """
    if value.get("model_type") != FAMILY:
        raise InputError(where, f"model_type {value.get('model_type')!r} is not a known family",
                         f"Known: {FAMILY!r}")
    vision = value.get("vision_config")
    if not isinstance(vision, dict):
        raise InputError(where, "vision_config is missing", "Give a vision-language model")
    text = value.get("text_config") or {}
    if not isinstance(text, dict):
        raise InputError(where, "text_config is not an object", "Fix the config")
    text = {**value, **text, "tie_word_embeddings": ties_head(value, text, where)}
    if "in_chans" in vision:
        vision = {"in_channels": vision["in_chans"], **vision}
    if isinstance(rope := text.get("rope_parameters"), dict):
        text = {**text, **rope, "rope_scaling": rope}
    if isinstance(rope := vision.get("rope_parameters"), dict):
        vision = {**vision, **rope}
    d = {name: text.get(name, default) for name, default in _DEFAULTS.items()}
    v = {name: vision.get(name, default) for name, default in _VISION_DEFAULTS.items()}
    head_dim = _check(d, v, where)
    try:
        return _model(d, v, head_dim, fields)
    except InputError as error:  # It speaks of our field; theirs is in the file.
        raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error


def _model(d: dict[str, Any], v: dict[str, Any], head_dim: int, fields: dict[str, Any]
           ) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(
            width=v["hidden_size"], layers=v["depth"], heads=v["num_heads"],
            mlp=v["intermediate_size"], full_layers=tuple(v["fullatt_block_indexes"]),
            patch_size=v["patch_size"], temporal_patch=v["temporal_patch_size"],
            merge=v["spatial_merge_size"], window=v["window_size"], channels=v["in_channels"],
            rope_theta=float(v["rope_theta"]), tokens_per_second=float(v["tokens_per_second"]),
        ),
        decoder=DecoderConfig(
            width=d["hidden_size"], layers=d["num_hidden_layers"], heads=d["num_attention_heads"],
            kv_heads=d["num_key_value_heads"] or d["num_attention_heads"], head_dim=head_dim,
            mlp=d["intermediate_size"], vocab=d["vocab_size"],
            mrope_sections=tuple(d["rope_scaling"]["mrope_section"]),
            rope_theta=float(d["rope_theta"]), eps=d["rms_norm_eps"],
            tied=d["tie_word_embeddings"], max_positions=d["max_position_embeddings"],
        ),
        family=FAMILY, **fields,
    )


def _check(d: dict[str, Any], v: dict[str, Any], where: object) -> int:
    """Head width of the decoder, after all contradictions were looked for."""
    check_numbers(d, v, "fullatt_block_indexes", where)
    head_dim, problems = d["hidden_size"] // d["num_attention_heads"], []
    if d["hidden_size"] % d["num_attention_heads"]:
        problems.append(f"hidden_size {d['hidden_size']} does not divide by "
                        f"{d['num_attention_heads']} heads")
    problems += width_problems(d, v, head_dim)
    problems += [f"hidden_act {part['hidden_act']!r} is not supported"
                 for part in (d, v) if part["hidden_act"] != "silu"]
    if d["use_sliding_window"]:
        problems.append("use_sliding_window is not supported")
    if problems:
        raise InputError(where, "; ".join(problems), "Fix the config")
    return head_dim


def to_hf(config: ModelConfig, dtype: str, **extra: Any) -> dict[str, Any]:
    """``config.json`` for ``config``, as transformers and everyone since writes it.

    Args:
      dtype: of the tensors beside it.
      extra: more fields (special token ids).

    Raises:
      InputError: numbers that have no field there, where transformers knows one value only.
    """
    v, d = config.vision, config.decoder
    fixed = [("vision.rope_theta", v.rope_theta, 10_000.0), ("vision.eps", v.eps, 1e-6),
             ("decoder.head_dim", d.head_dim, d.width // d.heads)]
    wrong = [f"{name} {value:g} (only {known:g} can be written)"
             for name, value, known in fixed if value != known]
    if wrong:
        raise InputError("config.json", ", ".join(wrong), "Keep the trainer's checkpoint")
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": FAMILY,
        "torch_dtype": dtype,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": d.width,
        "initializer_range": 0.02,
        "intermediate_size": d.mlp,
        "max_position_embeddings": d.max_positions,
        "max_window_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_hidden_layers": d.layers,
        "num_key_value_heads": d.kv_heads,
        "rms_norm_eps": d.eps,
        "rope_scaling": {"type": "mrope", "mrope_section": list(d.mrope_sections)},
        "rope_theta": d.rope_theta,
        "sliding_window": 32_768,
        "tie_word_embeddings": d.tied,
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "model_type": FAMILY,
            "depth": v.layers,
            "fullatt_block_indexes": list(v.full_layers),
            "hidden_act": "silu",
            "hidden_size": v.width,
            "in_channels": v.channels,
            "in_chans": v.channels,
            "intermediate_size": v.mlp,
            "num_heads": v.heads,
            "out_hidden_size": d.width,
            "patch_size": v.patch_size,
            "spatial_merge_size": v.merge,
            "spatial_patch_size": v.patch_size,
            "temporal_patch_size": v.temporal_patch,
            "tokens_per_second": (int(v.tokens_per_second) if v.tokens_per_second.is_integer()
                                  else v.tokens_per_second),
            "window_size": v.window,
        },
        "vocab_size": d.vocab,
        **extra,
    }


def decoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A config of transformers' text-only model with our decoder's shape: for comparing speed."""
    d = config.decoder
    return dict(
        model_type="qwen2", hidden_size=d.width, num_hidden_layers=d.layers,
        num_attention_heads=d.heads, num_key_value_heads=d.kv_heads, intermediate_size=d.mlp,
        vocab_size=d.vocab, rope_theta=d.rope_theta, tie_word_embeddings=d.tied,
        rms_norm_eps=d.eps)
