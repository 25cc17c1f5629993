"""Key table: our parameter paths and the tensor names of Qwen3-VL's safetensors."""

from __future__ import annotations

from fourd4d.core.weight_map import Entry, KeyTable, kernel, vector
from fourd4d.models.config import ModelConfig, VisionConfig
from fourd4d.models.shared_keys import decoder_entries, vision_attention_entries

_TEXT, _VISUAL = "model.language_model.", "model.visual."


def key_table(config: ModelConfig) -> KeyTable:
    """Every parameter but adapters and the imagery head, which these files do not know."""
    entries = [*_vision(config.vision), *decoder_entries(config.decoder, _TEXT, "lm_head.weight")]
    tied = (("lm_head.weight", f"{_TEXT}embed_tokens.weight"),) if config.decoder.tied else ()
    return KeyTable(
        entries=tuple(entries),
        renames=((r"^visual\.", _VISUAL), (r"^model\.(?=layers\.|norm\.|embed_tokens\.)", _TEXT)),
        ignored=(r".*rotary_emb\.inv_freq", r".*rotary_pos_emb\.inv_freq"),
        copies=tied,
    )


def _vision(v: VisionConfig) -> list[Entry]:
    ours, theirs = ("vision", "blocks"), f"{_VISUAL}blocks.{{layer}}"
    entries = [
        Entry(("vision", "patch", "kernel"), f"{_VISUAL}patch_embed.proj.weight", (1, 0), (1, 1),
              tail=(v.channels, v.temporal_patch, v.patch_size, v.patch_size)),
        vector(("vision", "patch", "bias"), f"{_VISUAL}patch_embed.proj.bias"),
        Entry(("vision", "table"), f"{_VISUAL}pos_embed.weight", (0, 1), (1, 1)),
        *_merger(("vision", "merger"), f"{_VISUAL}merger"),
    ]
    if v.levels:
        entries += _merger(("vision", "mergers"), f"{_VISUAL}deepstack_merger_list.{{layer}}")
    entries += vision_attention_entries(theirs)
    for name, key in (("up", "linear_fc1"), ("down", "linear_fc2")):
        entries += _biased((*ours, name), f"{theirs}.mlp.{key}")
    for norm in ("norm1", "norm2"):
        entries += _norm((*ours, norm), f"{theirs}.{norm}")
    return entries


def _merger(ours: tuple[str, ...], theirs: str) -> list[Entry]:
    return [*_norm((*ours, "norm"), f"{theirs}.norm"),
            *_biased((*ours, "merge1"), f"{theirs}.linear_fc1"),
            *_biased((*ours, "merge2"), f"{theirs}.linear_fc2")]


def _biased(ours: tuple[str, ...], theirs: str) -> list[Entry]:
    return [kernel(ours, theirs), vector((*ours, "bias"), f"{theirs}.bias")]


def _norm(ours: tuple[str, ...], theirs: str) -> list[Entry]:
    return [vector((*ours, "scale"), f"{theirs}.weight"), vector((*ours, "bias"), f"{theirs}.bias")]
