"""Language decoder of Qwen2.5: grouped-query attention, M-RoPE, SwiGLU."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core.cache import KVCache
from fourd4d.models.attention import attend
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import Linear, RMSNorm, rotate, text_angles
from fourd4d.models.scan import scan_blocks
from fourd4d.parallel import constrain


class DecoderBlock(nnx.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, stack: int | None = None):
        d = config.decoder
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype),
                                      stack=stack)
        embed, mlp = {"embed": d.width}, {"mlp": d.mlp}
        heads = {"heads": d.heads, "head_dim": d.head_dim}
        kv_heads = {"kv_heads": d.kv_heads, "head_dim": d.head_dim}
        out = 1 / math.sqrt(2 * d.layers)

        def linear(name: str, inputs: Any, outputs: Any, **kwargs: Any) -> Linear:
            lora = config.lora if config.lora and name in config.lora.targets else None
            return Linear(inputs, outputs, lora=lora, **kwargs, **shared)

        self.attention = config.attention
        self.norm1 = RMSNorm(d.width, "embed", d.eps, **shared)
        self.q = linear("q", embed, heads, bias=True)
        self.k = linear("k", embed, kv_heads, bias=True)
        self.v = linear("v", embed, kv_heads, bias=True)
        self.o = linear("o", heads, embed, scale=out)
        self.norm2 = RMSNorm(d.width, "embed", d.eps, **shared)
        self.gate = linear("gate", embed, mlp)
        self.up = linear("up", embed, mlp)
        self.down = linear("down", mlp, embed, scale=out)

    def __call__(self, x: Float[Array, "B L D"], cached: tuple[Array, Array] | None,
                 cos: Float[Array, "B L half"], sin: Float[Array, "B L half"],
                 segments: Int[Array, "B L"], key_segments: Int[Array, "B S"],
                 first: Int[Array, ""] | None) -> tuple[Array, tuple[Array, Array] | None]:
        """Returns x and, when decoding against a cache, this block's new keys and values."""
        normed = self.norm1(x)
        q = constrain(rotate(self.q(normed), cos, sin), "batch", "length", "heads", "head_dim")
        k = constrain(rotate(self.k(normed), cos, sin), "batch", "length", "kv_heads", "head_dim")
        v = constrain(self.v(normed), "batch", "length", "kv_heads", "head_dim")
        new = None
        if cached is not None:
            new = k.astype(cached[0].dtype), v.astype(cached[1].dtype)
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, part, first, 1).astype(x.dtype)
                    for old, part in zip(cached, new, strict=True))
        start = 0 if first is None else first
        mixed = attend(q, k, v, segments, key_segments, start, self.attention)
        x = x + self.o(mixed)
        normed = self.norm2(x)
        hidden = jax.nn.silu(self.gate(normed)) * self.up(normed)
        hidden = constrain(hidden, "batch", "length", "mlp")
        return constrain(x + self.down(hidden), "batch", "length", "embed"), new


class Decoder(nnx.Module):
    """Embeddings to hidden states after the final norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.decoder
        self.config = config
        self.blocks = DecoderBlock(config, stack=d.layers, rngs=rngs)
        self.norm = RMSNorm(d.width, "embed", d.eps, rngs=rngs,
                            param_dtype=jnp.dtype(config.param_dtype))

    def __call__(self, x: Float[Array, "B L D"], positions: Int[Array, "3 B L"],
                 segments: Int[Array, "B L"], cache: KVCache | None = None
                 ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        config, d = self.config, self.config.decoder
        angles = text_angles(positions, d.head_dim, d.rope_theta, d.mrope_sections)
        x = constrain(x.astype(config.dtype), "batch", "length", "embed")
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if cache is None:
            x = scan_blocks(self.blocks, x, (None,), (cos, sin, segments, segments, None),
                            remat=config.remat, unroll=config.unroll, outputs=True)[0]
            return self.norm(x), None
        key_segments = jax.lax.dynamic_update_slice_in_dim(
            cache.segment_ids, segments.astype(jnp.int32), cache.used, 1)
        x, (keys, values) = scan_blocks(
            self.blocks, x, ((cache.keys, cache.values),),
            (cos, sin, segments, key_segments, cache.used),
            remat=config.remat, unroll=config.unroll, outputs=True)
        cache = KVCache(
            keys=jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, cache.used, 2),
            values=jax.lax.dynamic_update_slice_in_dim(cache.values, values, cache.used, 2),
            segment_ids=key_segments,
            used=cache.used + segments.shape[1],
        )  # fmt: skip
        return self.norm(x), cache
