"""Tiny thinkers, prompts and a scripted stand-in, shared by the sampling and RL tests."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.kv_cache import KVCache
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models.config import DecoderConfig, ModelConfig, VisionConfig
from fourd4d.models.thinker import Thinker
from fourd4d.parallel import batch_axes
from fourd4d.sampling import SamplingSpec

VOCAB, TABLE = 18, 24
PAD, END, START, LATENT, STOP = 0, 14, 15, 16, 17
SPEC = SamplingSpec(
    max_tokens=24, vocab=VOCAB, latent_start=START, latent_pad=LATENT, latent_end=STOP,
    ends=(END,), forbidden=(LATENT, STOP), latent_size=3, max_latents=12,
)
CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=1, heads=2, mlp=16, full_layers=(0,), patch_size=4,
                        window=16),
    decoder=DecoderConfig(width=32, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=48,
                          vocab=TABLE, mrope_sections=(2, 3, 3), valid_vocab=VOCAB),
    dtype="float32", remat="none",
)
TABLE_CONFIG = dataclasses.replace(  # A table of positions, DeepStack, norms on q and k.
    CONFIG,
    vision=dataclasses.replace(CONFIG.vision, position_table=3, deepstack=(0,)),
    decoder=dataclasses.replace(CONFIG.decoder, qkv="normed", mrope="interleaved",
                                mrope_sections=(4, 2, 2)),
)
PROTOCOL: ProtocolSpec = CONFIG.protocol(latent_size=3)


def thinker(seed: int = 0, config: ModelConfig = CONFIG) -> Thinker:
    """A random model whose next-token distribution is broad, so that rows differ."""
    return Thinker(config, nnx.Rngs(seed))


def prompts(rows: int = 4, length: int = 12, left: bool = False, seed: int = 0,
            reader: Literal["blind"] | None = None) -> Batch:
    """Ragged prompts over one frame slot; text tokens are never control tokens."""
    shape = BatchShape(rows=rows, length=length, slots=1, windows=1, overlays=0)
    protocol = dataclasses.replace(PROTOCOL, reader=reader)
    batch = Batch.fake(shape, protocol, vocab=END, seed=seed)
    batch = jax.tree.map(np.asarray, batch)
    if not left:
        return batch
    shift = length - np.sum(batch.segment_ids != 0, axis=1)

    def roll(x: Any) -> Any:
        return np.stack([np.roll(row, s, axis=-1) for row, s in zip(x, shift, strict=True)])

    return dataclasses.replace(
        batch, tokens=roll(batch.tokens), segment_ids=roll(batch.segment_ids),
        positions=np.stack([roll(axis) for axis in batch.positions]),
        vision_index=roll(batch.vision_index), latent_index=roll(batch.latent_index),
        text_weights=roll(batch.text_weights), reader=jax.tree.map(roll, batch.reader),
    )


def take_rows(batch: Batch, rows: Any) -> Batch:
    """A batch of some rows of another."""
    return jax.tree.map_with_path(
        lambda path, x: x[:, rows] if "batch" in batch_axes(path, x.ndim)[1:] else x[rows], batch)


class Scripted(nnx.Module):
    """Prefers, at M-RoPE position p, token ``script[p]``; its hidden state tells the position."""

    def __init__(self, script: Any, width: int = 8):
        self.script = nnx.Variable(jnp.asarray(script, jnp.int32))
        self.width = width

    def encode(self, vision: Any) -> Any:
        del vision
        return None

    def embed(self, tokens: Any, vision_index: Any, features: Any, latent_index: Any,
              latents: Any) -> Any:
        del vision_index, features
        x = jnp.broadcast_to(tokens[..., None], (*tokens.shape, self.width)).astype(jnp.float32)
        if latents is None:
            return x
        fed = jnp.take_along_axis(latents, jnp.maximum(latent_index, 0)[..., None], 1)
        return jnp.where(latent_index[..., None] >= 0, fed, x)

    def decode(self, embeds: Any, positions: Any, segments: Any, cache: Any = None,
               prefix: Any = None, fill: bool = False) -> Any:
        del segments, prefix, fill
        hidden = embeds.at[..., 0].set(positions[0].astype(jnp.float32))
        return hidden, cache or self.empty_cache(1, 1)

    def logits(self, hidden: Any) -> Any:
        at = hidden[..., 0].astype(jnp.int32)
        return 50.0 * jax.nn.one_hot(self.script[...][at], TABLE)

    def imagine(self, hidden: Any) -> Any:
        return hidden

    def empty_cache(self, rows: int, slots: int) -> KVCache:
        return KVCache.empty(1, rows, slots, 1, 1)
