"""Latents: pooled overlay features in, hidden states out."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fourd4d.core.batch import OverlayInput
from fourd4d.models.config import ModelConfig
from fourd4d.models.layers import Linear, normal, param


def pool_overlays(features: Float[Array, "B F U D"], overlays: OverlayInput
                  ) -> Float[Array, "B Q D"]:
    """Target latents: weighted means of each overlay's merged tokens, float32; absent ones zero.

    Where ``plain`` is given, without the same means of the plain frames.
    """

    def taken(slots: Any) -> Float[Array, "B O U D"]:
        at = jnp.maximum(jnp.asarray(slots), 0)[:, :, None, None]
        return jnp.take_along_axis(features, at, axis=1).astype(jnp.float32)

    merged = taken(overlays.slot)
    if overlays.plain is not None:
        merged -= taken(overlays.plain)
    pooled = jnp.einsum("BORU,BOUD->BORD", jnp.asarray(overlays.pool, jnp.float32), merged)
    return pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])


class Statistic(nnx.Variable):
    """What training collects without a gradient; it travels with the frozen weights."""


class ImageryHead(nnx.Module):
    """Hidden state to latent: the identity, that plus a gated correction starting at zero, or one
    trained vector whatever the state.

    With ``centred``, also the mean target of each place of a block, and of how many.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.centred = config.imagery.centred
        if self.centred is not None:
            self.mean = Statistic(jnp.zeros((self.centred, config.decoder.width), jnp.float32))
            self.seen = Statistic(jnp.zeros((), jnp.float32))
        self.active = config.imagery.head == "mlp"
        self.fixed = config.imagery.head == "constant"
        if self.fixed:
            width = config.decoder.width
            self.constant = param(rngs, (width,), ("embed",), normal(1 / math.sqrt(width)),
                                  jnp.dtype(config.param_dtype))
        if not self.active:
            return
        shared: dict[str, Any] = dict(rngs=rngs, param_dtype=jnp.dtype(config.param_dtype))
        embed, mlp = {"embed": config.decoder.width}, {"mlp": config.imagery.mlp}
        self.gate = Linear(embed, mlp, **shared)
        self.up = Linear(embed, mlp, **shared)
        self.down = Linear(mlp, embed, scale=0.0, **shared)

    def __call__(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        if self.fixed:
            return jnp.broadcast_to(self.constant[...].astype(hidden.dtype), hidden.shape)
        if not self.active:
            return hidden
        return hidden + self.down(jax.nn.silu(self.gate(hidden)) * self.up(hidden))

    def centre(self, targets: Float[Array, "B Q D"], present: Float[Array, "B O"]
               ) -> Float[Array, "B Q D"]:
        """Take the mean target off those that are there; the identity without ``centred``."""
        if self.centred is None:
            return targets
        blocks = targets.reshape(*present.shape, self.centred, -1)
        return jnp.where(present[..., None, None] > 0, blocks - self.mean[...], 0.0
                         ).reshape(targets.shape)

    def observe(self, targets: Float[Array, "B Q D"], present: Float[Array, "B O"]) -> None:
        """Count raw targets in; the mean is over all that were ever counted."""
        assert self.centred is not None
        blocks = targets.reshape(*present.shape, self.centred, -1)
        number = jnp.sum(present)
        seen = self.seen[...] + number
        total = jnp.einsum("BO,BORD->RD", present, blocks, precision="highest")
        self.mean[...] += (total - number * self.mean[...]) / jnp.maximum(seen, 1.0)
        self.seen[...] = seen
