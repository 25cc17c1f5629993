"""Latents: pooled overlay features in, hidden states out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fourd4d.core.batch import OverlayInput
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import Linear


def pool_overlays(features: Float[Array, "B F U D"], overlays: OverlayInput
                  ) -> Float[Array, "B Q D"]:
    """Target latents: weighted means of each overlay's merged tokens, float32; absent ones zero."""
    slot = jnp.maximum(jnp.asarray(overlays.slot), 0)
    taken = jnp.take_along_axis(features, slot[:, :, None, None], axis=1)
    pool = jnp.asarray(overlays.pool, jnp.float32)
    pooled = jnp.einsum("BORU,BOUD->BORD", pool, taken.astype(jnp.float32))
    return pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])


class ImageryHead(nnx.Module):
    """Hidden state to latent: the identity, or that plus a gated correction starting at zero."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.active = config.imagery.head == "mlp"
        if not self.active:
            return
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype))
        embed, mlp = {"embed": config.decoder.width}, {"mlp": config.imagery.mlp}
        self.gate = Linear(embed, mlp, **shared)
        self.up = Linear(embed, mlp, **shared)
        self.down = Linear(mlp, embed, scale=0.0, **shared)

    def __call__(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        if not self.active:
            return hidden
        return hidden + self.down(jax.nn.silu(self.gate(hidden)) * self.up(hidden))
