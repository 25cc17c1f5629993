"""Vision encoder of Qwen3-VL (arXiv 2511.21631): a table of positions, no windows, DeepStack."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core.batch import VisionInput
from fourd4d.models.attention import attend
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import LayerNorm, Linear, normal, param, patch_angles, residual, rotate
from fourd4d.models.scan import scan_blocks
from fourd4d.models.vision_encoder import AttentionBlock
from fourd4d.parallel import constrain


class TableVisionBlock(AttentionBlock):
    """Pre-norm attention over a whole slot and a plain MLP."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, stack: int | None = None):
        super().__init__(config, LayerNorm, rngs=rngs, gated=False, stack=stack)

    def __call__(self, carried: tuple[Array, Array], level: Int[Array, ""],
                 cos: Float[Array, "S X half"], sin: Float[Array, "S X half"],
                 segments: Int[Array, "S X"]) -> tuple[Array, Array]:
        """Returns x, and what was kept of it for DeepStack.

        Args:
          carried: x of (S, X, width), and (levels, S, X, width).
          level: where to keep x after this block; past the end for nowhere.
        """
        x, kept = carried
        normed = self.norm1(x)
        q, k = rotate(self.q(normed), cos, sin), rotate(self.k(normed), cos, sin)
        mixed = attend(q, k, self.v(normed), segments, segments, None, self.attention)
        wide = residual(x, self.o(mixed))
        hidden = jax.nn.gelu(self.up(self.norm2(wide).astype(x.dtype)), approximate=True)
        hidden = constrain(hidden, "batch", "patches", "vision_mlp")
        x = residual(wide, self.down(hidden)).astype(x.dtype)
        x = constrain(x, "batch", "patches", "vision_embed")
        return x, kept.at[level].set(x, mode="drop")


class PatchMerger(nnx.Module):
    """Merged patches in decoder width.

    Args:
      stack: mergers of several levels, with a leading axis.
      joined_norm: the norm is over the patches of a token together, not over each.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, joined_norm: bool = False,
                 stack: int | None = None):
        v = config.vision
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype),
                                      stack=stack)
        joined = v.width * v.merge**2
        self.joined, self.joined_norm = joined, joined_norm
        self.norm = LayerNorm(joined if joined_norm else v.width, "vision_embed", v.eps, **shared)
        self.merge1 = Linear({"vision_embed": joined}, {"vision_mlp": joined}, bias=True, **shared)
        self.merge2 = Linear({"vision_mlp": joined}, {"embed": config.decoder.width}, bias=True,
                             **shared)

    def __call__(self, x: Float[Array, "S X P"]) -> Float[Array, "S U D"]:
        def join(x: Array) -> Array:
            return x.reshape(len(x), -1, self.joined)

        x = self.norm(join(x)) if self.joined_norm else join(self.norm(x))
        return self.merge2(jax.nn.gelu(self.merge1(x), approximate=False))


class TableVisionEncoder(nnx.Module):
    """Patches of frame slots to features in decoder width, those of DeepStack behind them."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        v = config.vision
        assert v.position_table is not None
        dtype = jnp.dtype(config.param_dtype)
        self.config = config
        self.patch = Linear({"patch_dim": v.patch_dim}, {"vision_embed": v.width}, bias=True,
                            rngs=rngs, param_dtype=dtype)
        self.table = param(rngs, (v.position_table**2, v.width), (None, "vision_embed"),
                           normal(0.02), dtype)
        self.blocks = TableVisionBlock(config, stack=v.layers, rngs=rngs)
        self.merger = PatchMerger(config, rngs=rngs)
        if v.levels:
            self.mergers = PatchMerger(config, rngs=rngs, joined_norm=True, stack=v.levels)

    def __call__(self, vision: VisionInput) -> Float[Array, "B F U E"]:
        config, v = self.config, self.config.vision
        b, f, w, m, _ = vision.patches.shape
        merged = w * m // v.merge**2
        if not b * f * w:  # Text alone.
            return jnp.zeros((b, f, merged, config.decoder.width * (1 + v.levels)), config.dtype)
        slots = jax.tree.map(lambda a: jnp.asarray(a).reshape(b * f, w * m, *a.shape[4:]), vision)
        angles = patch_angles(slots.coords, v.head_dim, v.rope_theta)
        x = self.patch(slots.patches.astype(config.dtype))
        x += table_positions(self.table[...], slots.coords, slots.mask).astype(x.dtype)
        x = constrain(x, "batch", "patches", "vision_embed")
        level = np.full(v.layers, v.levels)
        level[list(v.deepstack or ())] = np.arange(v.levels)
        kept = jnp.zeros((v.levels, *x.shape), x.dtype)
        x, kept = scan_blocks(
            self.blocks, (x, kept), (jnp.asarray(level),),
            (jnp.cos(angles), jnp.sin(angles), slots.mask.astype(jnp.int32)),
            remat=config.remat, unroll=config.unroll)
        features = [self.merger(x)]
        if v.levels:
            graphdef, states = nnx.split(self.mergers)
            deep = jax.lax.map(lambda own: nnx.merge(graphdef, own[0])(own[1]), (states, kept))
            features += list(deep)
        joined = jnp.concatenate(features, -1).reshape(b, f, merged, -1)
        return constrain(joined, "batch", None, None, "embed")


def table_positions(table: Float[Array, "_ E"], coords: Int[Array, "S X 2"],
                    mask: Array) -> Float[Array, "S X E"]:
    """Rows of a square table, stretched over each slot's grid and read between its points.

    Its corners lie on the grid's corners; a grid of one row lies on the first.

    Args:
      coords: (row, column) of each patch.
      mask: patches that are there; the others get what lies at (0, 0).
    """
    side = math.isqrt(len(table))
    there = jnp.where(mask[..., None], coords, 0)
    last = jnp.maximum(jnp.max(there, axis=1, keepdims=True), 1).astype(jnp.float32)
    at = there.astype(jnp.float32) * ((side - 1) / last)
    low = jnp.minimum(jnp.floor(at).astype(jnp.int32), side - 1)
    part = at - low
    high = jnp.minimum(low + 1, side - 1)
    wide = table.astype(jnp.float32)
    total = jnp.zeros((*coords.shape[:-1], table.shape[-1]))
    for rows, row_weight in ((low[..., 0], 1 - part[..., 0]), (high[..., 0], part[..., 0])):
        for columns, weight in ((low[..., 1], 1 - part[..., 1]), (high[..., 1], part[..., 1])):
            total += (row_weight * weight)[..., None] * wide[rows * side + columns]
    return total
