"""Parameters with logical axes, projections, norm and rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.models.config import LoraConfig

Init = Callable[[Any, tuple[int, ...], Any], Array]


def normal(std: float) -> Init:
    return lambda key, shape, dtype: (std * jax.random.normal(key, shape)).astype(dtype)


def zeros(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    return jnp.zeros(shape, dtype)


def ones(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    return jnp.ones(shape, dtype)


def param(rngs: nnx.Rngs, shape: Sequence[int], axes: Sequence[str | None], init: Init, dtype: Any,
          stack: int | None = None) -> nnx.Param:
    """A parameter that knows its logical axes; ``stack`` adds a leading ``layers`` axis.

    Stacked parameters belong to a block that is scanned: inside the scan they lose that axis.
    The axes live in the variable's metadata as ``out_sharding``, flax's own name for them.
    """
    shape, axes = tuple(shape), tuple(axes)
    if stack is not None:
        shape, axes = (stack, *shape), ("layers", *axes)
    return nnx.Param(init(rngs.params(), shape, dtype), out_sharding=axes, eager_sharding=False)


class Linear(nnx.Module):
    """y = x W + b over the trailing axes named ``inputs``, with an optional low-rank adapter.

    The kernel keeps separate axes (heads, head_dim, …) so that each can be sharded by name.
    """

    def __init__(self, inputs: dict[str, int], outputs: dict[str, int], *, rngs: nnx.Rngs,
                 param_dtype: Any, bias: bool = False, stack: int | None = None,
                 scale: float = 1.0, lora: LoraConfig | None = None):
        shape_in, shape_out = tuple(inputs.values()), tuple(outputs.values())
        std = scale / math.sqrt(math.prod(shape_in))
        self.contracted = len(shape_in)
        self.kernel = param(rngs, shape_in + shape_out, (*inputs, *outputs), normal(std),
                            param_dtype, stack)
        if bias:
            self.bias = param(rngs, shape_out, tuple(outputs), zeros, param_dtype, stack)
        self.has_bias = bias
        self.lora_scale = lora.alpha / lora.rank if lora else 0.0
        if lora:
            self.lora_a = param(rngs, (*shape_in, lora.rank), (*inputs, None),
                                normal(1 / math.sqrt(math.prod(shape_in))), param_dtype, stack)
            self.lora_b = param(rngs, (lora.rank, *shape_out), (None, *outputs), zeros,
                                param_dtype, stack)

    def __call__(self, x: Array) -> Array:
        def product(left: Array, right: Array, axes: int) -> Array:
            return jnp.tensordot(left, right.astype(x.dtype), axes)

        y = product(x, self.kernel[...], self.contracted)
        if self.lora_scale:
            low = product(x, self.lora_a[...], self.contracted)
            y = y + self.lora_scale * product(low, self.lora_b[...], 1)
        return y + self.bias[...].astype(x.dtype) if self.has_bias else y


class RMSNorm(nnx.Module):
    """Root mean square norm, arXiv 1910.07467, computed in float32 and rounded once."""

    def __init__(self, width: int, axis: str, eps: float, *, rngs: nnx.Rngs, param_dtype: Any,
                 stack: int | None = None):
        self.scale = param(rngs, (width,), (axis,), ones, param_dtype, stack)
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        return (wide * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm, arXiv 1607.06450, computed in float32 and rounded once."""

    def __init__(self, width: int, axis: str, eps: float, *, rngs: nnx.Rngs, param_dtype: Any,
                 stack: int | None = None):
        self.scale = param(rngs, (width,), (axis,), ones, param_dtype, stack)
        self.bias = param(rngs, (width,), (axis,), zeros, param_dtype, stack)
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)


def residual(x: Array, branch: Array) -> Array:
    """The sum in float32: a block rounds its residual stream once, where it ends.

    What a deep model loses in bfloat16 it loses mostly here.
    """
    return x.astype(jnp.float32) + branch.astype(jnp.float32)


def frequencies(dim: int, theta: float) -> Float[Array, "half"]:
    """Rotary frequencies of ``dim`` features, arXiv 2104.09864."""
    return 1.0 / theta ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)


def text_angles(positions: Int[Array, "3 B L"], head_dim: int, theta: float,
                sections: tuple[int, int, int], *, interleaved: bool = False
                ) -> Float[Array, "B L half"]:
    """M-RoPE (arXiv 2409.12191): each section of the frequencies turns with one position axis.

    Args:
      interleaved: frequencies 1, 4, 7, … turn with the height and 2, 5, 8, … with the width, as
        many as their sections say; all others with time.
    """
    if interleaved:
        axes = np.zeros(head_dim // 2, np.int32)
        for axis in (1, 2):
            axes[axis : 3 * sections[axis] : 3] = axis
        turning = jnp.moveaxis(positions[axes].astype(jnp.float32), 0, -1)
        return turning * frequencies(head_dim, theta)
    freqs = jnp.split(frequencies(head_dim, theta), [sections[0], sections[0] + sections[1]])
    parts = [positions[axis].astype(jnp.float32)[..., None] * f for axis, f in enumerate(freqs)]
    return jnp.concatenate(parts, -1)


def patch_angles(coords: Int[Array, "... 2"], head_dim: int, theta: float
                 ) -> Float[Array, "... half"]:
    """2-D rotary angles of patches: the first half turns with the row, the rest with the column."""
    parts = coords.astype(jnp.float32)[..., None] * frequencies(head_dim // 2, theta)
    return parts.reshape(*coords.shape[:-1], -1)


def rotate(x: Float[Array, "... T N H"], cos: Float[Array, "... T half"],
           sin: Float[Array, "... T half"]) -> Float[Array, "... T N H"]:
    """Turns feature i together with feature i + H / 2, in float32."""
    cos, sin = cos[..., None, :], sin[..., None, :]
    low, high = jnp.split(x.astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)
    return turned.astype(x.dtype)
