"""Keys and values of tokens already read, for decoding."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fourd4d.core.struct import pytree


@pytree
class KVCache:
    """A fixed buffer of S slots, the same slots for every row.

    A token at slot s sees slots 0 … s of its own segment; slots of segment 0 hold padding or
    nothing yet. So rows may be padded on either side, and slot order is time order.

    Attributes:
      keys, values: after rotary embedding, layers first.
      segment_ids: which segment each slot belongs to.
      used: number of slots written so far, a scalar shared by the rows.
    """

    keys: Float[Array, "layers B S K H"]
    values: Float[Array, "layers B S K H"]
    segment_ids: Int[Array, "B S"]
    used: Int[Array, ""]

    @staticmethod
    def empty(layers: int, rows: int, slots: int, kv_heads: int, head_dim: int,
              dtype: Any = jnp.float32) -> KVCache:
        shape = (layers, rows, slots, kv_heads, head_dim)
        return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype),
                       jnp.zeros((rows, slots), jnp.int32), jnp.zeros((), jnp.int32))
