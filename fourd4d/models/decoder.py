"""Language decoder of the Qwen families: grouped-query attention, M-RoPE, SwiGLU."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core.kv_cache import KVCache, SlotCache
from fourd4d.models.attention import attend
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import Linear, RMSNorm, residual, rotate, text_angles
from fourd4d.models.prefix_attention import Part, PrefixPart, SlotPart, attend_parts
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
        self.normed = d.qkv == "normed"
        self.q = linear("q", embed, heads, bias=not self.normed)
        self.k = linear("k", embed, kv_heads, bias=not self.normed)
        self.v = linear("v", embed, kv_heads, bias=not self.normed)
        if self.normed:
            self.norm_q = RMSNorm(d.head_dim, "head_dim", d.eps, **shared)
            self.norm_k = RMSNorm(d.head_dim, "head_dim", d.eps, **shared)
        self.o = linear("o", heads, embed, scale=out)
        self.norm2 = RMSNorm(d.width, "embed", d.eps, **shared)
        self.gate = linear("gate", embed, mlp)
        self.up = linear("up", embed, mlp)
        self.down = linear("down", mlp, embed, scale=out)

    def __call__(self, x: Float[Array, "B L D"], layer: Int[Array, ""],
                 past: tuple[tuple[Array, ...], ...],
                 cos: Float[Array, "B L half"], sin: Float[Array, "B L half"],
                 segments: Int[Array, "B L"], about: tuple[tuple[Any, ...], ...],
                 levels: Float[Array, "_ B L D"] | None, keep: bool
                 ) -> tuple[Array, tuple[Array, Array] | None]:
        """Returns x and, to ``keep``, this block's new keys and values.

        Args:
          layer: its number.
          past: of each source of earlier tokens, what is this layer's own.
          about: what each of them is, one of ``prefix_attention``'s parts, and its other fields.
          levels: what is added to x after the first layers, one each.
        """
        normed = self.norm1(x)
        q, k = self.q(normed), self.k(normed)
        if self.normed:
            q, k = self.norm_q(q), self.norm_k(k)
        q = constrain(rotate(q, cos, sin), "batch", "length", "heads", "head_dim")
        k = constrain(rotate(k, cos, sin), "batch", "length", "kv_heads", "head_dim")
        v = constrain(self.v(normed), "batch", "length", "kv_heads", "head_dim")
        if past:
            parts = [kind(*kv, *rest) for kv, (kind, *rest) in zip(past, about, strict=True)]
            mixed = attend_parts(q, k, v, segments, parts)
        else:
            mixed = attend(q, k, v, segments, segments, 0, self.attention)
        wide = residual(x, self.o(mixed))
        normed = self.norm2(wide).astype(x.dtype)
        hidden = jax.nn.silu(self.gate(normed)) * self.up(normed)
        hidden = constrain(hidden, "batch", "length", "mlp")
        x = residual(wide, self.down(hidden)).astype(x.dtype)
        if levels is not None:  # Read at every layer, so that one program serves them all.
            own = jax.lax.dynamic_index_in_dim(
                levels, jnp.minimum(layer, len(levels) - 1), keepdims=False)
            x = jnp.where(layer < len(levels), x + own, x)
        return constrain(x, "batch", "length", "embed"), ((k, v) if keep else None)


class Decoder(nnx.Module):
    """Embeddings to hidden states after the final norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.decoder
        self.config = config
        self.blocks = DecoderBlock(config, stack=d.layers, rngs=rngs)
        self.norm = RMSNorm(d.width, "embed", d.eps, rngs=rngs,
                            param_dtype=jnp.dtype(config.param_dtype))

    def __call__(self, x: Float[Array, "B L E"], positions: Int[Array, "3 B L"],
                 segments: Int[Array, "B L"], cache: KVCache | SlotCache | None = None,
                 prefix: KVCache | SlotCache | None = None, fill: bool = False
                 ) -> tuple[Float[Array, "B L D"], Any]:
        config, d = self.config, self.config.decoder
        angles = text_angles(positions, d.head_dim, d.rope_theta, d.mrope_sections,
                             interleaved=d.mrope == "interleaved")
        x, *levels = jnp.split(x.astype(config.dtype), x.shape[-1] // d.width, axis=-1)
        x = constrain(x, "batch", "length", "embed")
        segments = jnp.asarray(segments, jnp.int32)
        past = [part for part in (prefix, cache) if part is not None]
        keep = fill or cache is not None
        x, new = scan_blocks(
            self.blocks, x,
            (jnp.arange(d.layers), tuple(_own(part, d.layers) for part in past)),
            (jnp.cos(angles), jnp.sin(angles), segments,
             tuple(_about(part, part is prefix) for part in past),
             jnp.stack(levels) if levels else None, keep),
            remat=config.remat, unroll=config.unroll, outputs=True)
        x = self.norm(x)
        if not keep:
            return x, None
        keys, values = new
        if cache is None:
            return x, KVCache(keys, values, segments, jnp.asarray(segments.shape[1], jnp.int32))
        if isinstance(cache, SlotCache):
            return x, _written(cache, keys, values, segments)
        write = jax.lax.dynamic_update_slice_in_dim
        return x, KVCache(
            keys=write(cache.keys, keys.astype(cache.keys.dtype), cache.used, 2),
            values=write(cache.values, values.astype(cache.values.dtype), cache.used, 2),
            segment_ids=write(cache.segment_ids, segments, cache.used, 1),
            used=cache.used + segments.shape[1],
        )


def _own(cache: KVCache | SlotCache, layers: int) -> tuple[Array, ...]:
    """What each layer has of a cache: the first fields of its part."""
    if isinstance(cache, SlotCache):
        return (jnp.arange(layers),)
    return cache.keys, cache.values


def _about(cache: KVCache | SlotCache, prefix: bool) -> tuple[Any, ...]:
    """What all layers share of a cache: the kind of part that it is, and its other fields."""
    if isinstance(cache, SlotCache):
        return SlotPart, cache.keys, cache.values, cache.segment_ids, cache.rows, cache.place
    return PrefixPart if prefix else Part, cache.segment_ids


def _written(ring: SlotCache, keys: Float[Array, "layers B 1 K H"],
             values: Float[Array, "layers B 1 K H"], segments: Int[Array, "B 1"]) -> SlotCache:
    write = jax.lax.dynamic_update_slice_in_dim
    return SlotCache(
        keys=write(ring.keys, jnp.moveaxis(keys, 2, 4).astype(ring.keys.dtype), ring.used, 4),
        values=write(ring.values, jnp.moveaxis(values, 2, 3).astype(ring.values.dtype),
                     ring.used, 3),
        segment_ids=write(ring.segment_ids, segments, ring.used, 1),
        used=(ring.used + 1) % ring.segment_ids.shape[1])
