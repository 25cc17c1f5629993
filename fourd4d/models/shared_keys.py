"""Where the Qwen families keep the tensors that they share."""

from __future__ import annotations

from fourd4d.core.weight_map import Entry, kernel, vector
from fourd4d.models.config import DecoderConfig


def decoder_entries(d: DecoderConfig, prefix: str, head: str) -> list[Entry]:
    """Entries of the embedding table, the blocks, the last norm and an untied head.

    Args:
      prefix: of the decoder's names, with its dot.
      head: name of the vocabulary head.
    """
    ours, theirs = ("decoder", "blocks"), f"{prefix}layers.{{layer}}"
    attention = f"{theirs}.self_attn"
    entries = [Entry(("embedding",), f"{prefix}embed_tokens.weight", (0, 1), (1, 1)),
               vector(("decoder", "norm", "scale"), f"{prefix}norm.weight"),
               vector((*ours, "norm1", "scale"), f"{theirs}.input_layernorm.weight"),
               vector((*ours, "norm2", "scale"), f"{theirs}.post_attention_layernorm.weight"),
               kernel((*ours, "o"), f"{attention}.o_proj", inputs=2)]
    entries += [kernel((*ours, name), f"{attention}.{name}_proj", outputs=2) for name in "qkv"]
    if d.qkv == "normed":
        entries += [vector((*ours, f"norm_{name}", "scale"), f"{attention}.{name}_norm.weight")
                    for name in "qk"]
    else:
        entries += [vector((*ours, name, "bias"), f"{attention}.{name}_proj.bias", 2)
                    for name in "qkv"]
    entries += [kernel((*ours, name), f"{theirs}.mlp.{name}_proj")
                for name in ("gate", "up", "down")]
    return entries if d.tied else [*entries, Entry(("output",), head, (1, 0), (1, 1))]


def vision_attention_entries(theirs: str) -> list[Entry]:
    """Entries of the attention in the encoder's blocks, queries, keys and values fused.

    Args:
      theirs: name of a block.
    """
    ours, key = ("vision", "blocks"), f"{theirs}.attn.qkv"
    entries: list[Entry] = []
    for part, name in enumerate("qkv"):
        entries += [kernel((*ours, name), key, outputs=2, part=(part, 3)),
                    vector((*ours, name, "bias"), f"{key}.bias", 2, (part, 3))]
    return [*entries, kernel((*ours, "o"), f"{theirs}.attn.proj", inputs=2),
            vector((*ours, "o", "bias"), f"{theirs}.attn.proj.bias")]
