"""Key table: our parameter paths and the tensor names of Qwen2.5-VL's safetensors."""

from __future__ import annotations

from fourd4d.core.weight_map import Entry, KeyTable, kernel, vector
from fourd4d.models.config import ModelConfig, VisionConfig
from fourd4d.models.shared_keys import decoder_entries, vision_attention_entries


def key_table(config: ModelConfig) -> KeyTable:
    """Every parameter but adapters and the imagery head, which these files do not know.

    Older writers put the decoder under ``model.`` and the encoder under ``visual.``, newer ones
    under ``model.language_model.`` and ``model.visual.``; both are read, the older is written.
    """
    entries = [*_vision(config.vision),
               *decoder_entries(config.decoder, "model.", "lm_head.weight")]
    tied = (("lm_head.weight", "model.embed_tokens.weight"),) if config.decoder.tied else ()
    return KeyTable(
        entries=tuple(entries),
        renames=((r"^model\.language_model\.", "model."), (r"^language_model\.model\.", "model."),
                 (r"^model\.visual\.", "visual."), (r"^language_model\.lm_head\.", "lm_head.")),
        ignored=(r".*rotary_emb\.inv_freq", r".*rotary_pos_emb\.inv_freq"),
        copies=tied,
    )


def _vision(v: VisionConfig) -> list[Entry]:
    ours, theirs = ("vision", "blocks"), "visual.blocks.{layer}"
    entries = [
        Entry(("vision", "patch", "kernel"), "visual.patch_embed.proj.weight", (1, 0), (1, 1),
              tail=(v.channels, v.temporal_patch, v.patch_size, v.patch_size)),
        vector(("vision", "norm", "scale"), "visual.merger.ln_q.weight"),
    ]
    for name, key in (("merge1", "visual.merger.mlp.0"), ("merge2", "visual.merger.mlp.2")):
        entries += [kernel(("vision", name), key), vector(("vision", name, "bias"), f"{key}.bias")]
    entries += vision_attention_entries(theirs)
    for name in ("gate", "up", "down"):
        key = f"{theirs}.mlp.{name}_proj"
        entries += [kernel((*ours, name), key), vector((*ours, name, "bias"), f"{key}.bias")]
    entries += [vector((*ours, norm, "scale"), f"{theirs}.{norm}.weight")
                for norm in ("norm1", "norm2")]
    return entries
