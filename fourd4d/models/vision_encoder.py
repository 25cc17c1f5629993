"""Vision encoder of Qwen2.5-VL (arXiv 2502.13923): windows, a few full blocks, patch merger."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from fourd4d.core.batch import VisionInput
from fourd4d.models.attention import attend
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import LayerNorm, Linear, RMSNorm, patch_angles, residual, rotate
from fourd4d.models.scan import scan_blocks
from fourd4d.parallel import constrain


class AttentionBlock(nnx.Module):
    """What the encoders' blocks share: the parameters of pre-norm attention, and the MLP's shape.

    Args:
      norm: class of both norms.
      gated: the MLP has a gate.
    """

    def __init__(self, config: ModelConfig, norm: type[RMSNorm | LayerNorm], *, rngs: nnx.Rngs,
                 gated: bool, stack: int | None = None):
        v = config.vision
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype),
                                      stack=stack)
        embed, mlp = {"vision_embed": v.width}, {"vision_mlp": v.mlp}
        heads = {"vision_heads": v.heads, "head_dim": v.head_dim}
        out = 1 / math.sqrt(2 * v.layers)
        self.attention = config.attention
        self.norm1 = norm(v.width, "vision_embed", v.eps, **shared)
        self.q = Linear(embed, heads, bias=True, **shared)
        self.k = Linear(embed, heads, bias=True, **shared)
        self.v = Linear(embed, heads, bias=True, **shared)
        self.o = Linear(heads, embed, bias=True, scale=out, **shared)
        self.norm2 = norm(v.width, "vision_embed", v.eps, **shared)
        if gated:
            self.gate = Linear(embed, mlp, bias=True, **shared)
        self.up = Linear(embed, mlp, bias=True, **shared)
        self.down = Linear(mlp, embed, bias=True, scale=out, **shared)


class VisionBlock(AttentionBlock):
    """Pre-norm attention and gated MLP over the patches of (slot, window)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, stack: int | None = None):
        super().__init__(config, RMSNorm, rngs=rngs, gated=True, stack=stack)

    def __call__(self, x: Float[Array, "S W M E"], full: Bool[Array, ""],
                 cos: Float[Array, "S W M half"], sin: Float[Array, "S W M half"],
                 mask: Bool[Array, "S W M"]) -> Float[Array, "S W M E"]:
        normed = self.norm1(x)
        q, k = rotate(self.q(normed), cos, sin), rotate(self.k(normed), cos, sin)
        v = self.v(normed)

        def over(lead: int) -> Any:
            def branch(q: Array, k: Array, v: Array, segments: Array) -> Array:
                rows = math.prod(q.shape[:lead])
                q, k, v = (a.reshape(rows, -1, *a.shape[-2:]) for a in (q, k, v))
                segments = segments.reshape(rows, -1)
                return attend(q, k, v, segments, segments, None, self.attention).reshape(x_heads)

            return branch

        x_heads = q.shape
        mixed = jax.lax.cond(full, over(1), over(2), q, k, v, mask.astype(jnp.int32))
        wide = residual(x, self.o(mixed))
        normed = self.norm2(wide).astype(x.dtype)
        hidden = jax.nn.silu(self.gate(normed)) * self.up(normed)
        hidden = constrain(hidden, "batch", "windows", "patches", "vision_mlp")
        x = residual(wide, self.down(hidden)).astype(x.dtype)
        return constrain(x, "batch", "windows", "patches", "vision_embed")


class VisionEncoder(nnx.Module):
    """Patches of frame slots to features in decoder width."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        v = config.vision
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype))
        joined = v.width * v.merge**2
        self.config = config
        self.patch = Linear({"patch_dim": v.patch_dim}, {"vision_embed": v.width}, **shared)
        self.blocks = VisionBlock(config, stack=v.layers, rngs=rngs)
        self.norm = RMSNorm(v.width, "vision_embed", v.eps, **shared)
        self.merge1 = Linear({"vision_embed": joined}, {"vision_mlp": joined}, bias=True, **shared)
        self.merge2 = Linear({"vision_mlp": joined}, {"embed": config.decoder.width}, bias=True,
                             **shared)

    def __call__(self, vision: VisionInput) -> Float[Array, "B F U D"]:
        config, v = self.config, self.config.vision
        b, f, w, m, _ = vision.patches.shape
        if not b * f * w:  # Text alone.
            return jnp.zeros((b, f, w * m // v.merge**2, config.decoder.width), config.dtype)
        slots = jax.tree.map(lambda a: jnp.asarray(a).reshape(b * f, *a.shape[2:]), vision)
        angles = patch_angles(slots.coords, v.head_dim, v.rope_theta)
        x = self.patch(slots.patches.astype(config.dtype))
        x = constrain(x, "batch", "windows", "patches", "vision_embed")
        full = np.isin(np.arange(v.layers), v.full_layers)
        x = scan_blocks(self.blocks, x, (jnp.asarray(full),),
                        (jnp.cos(angles), jnp.sin(angles), slots.mask),
                        remat=config.remat, unroll=config.unroll)
        x = self.norm(x).reshape(b, f, w * m // v.merge**2, -1)
        x = self.merge2(jax.nn.gelu(self.merge1(x), approximate=False))
        return constrain(x, "batch", None, None, "embed")
