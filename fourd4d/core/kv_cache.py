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


@pytree
class SlotCache:
    """Keys and values laid out for one query a row: both products read them without a transpose.

    As a ring: slot ``used`` is written next, then the one after it, modulo S. Slot order means
    nothing; a query sees every slot of its row that is not of segment 0.

    As prompts that rows share: R prompts, in D groups of as many; group d serves rows d * B / D …
    and a row may look into any prompt of its group.

    Attributes:
      keys, values: after rotary embedding, layers first.
      segment_ids: 0 marks padding and slots that hold nothing.
      used: the slot written next.
      rows: of each prompt, the rows of its group that look into it, numbered within the group;
        B / D for none. None where row b looks into row b.
      place: where row b stands in its group's ``rows``, flattened; any number for rows that look
        nowhere.
    """

    keys: Float[Array, "layers R K H S"]
    values: Float[Array, "layers R K S H"]
    segment_ids: Int[Array, "R S"]
    used: Int[Array, ""]
    rows: Int[Array, "D R_D C"] | None = None
    place: Int[Array, "D B_D"] | None = None

    @staticmethod
    def empty(like: KVCache, rows: int, slots: int) -> SlotCache:
        """Room for ``slots`` tokens of ``rows`` rows of a model whose caches look ``like`` this."""
        layers, _, _, kv_heads, head_dim = like.keys.shape
        head = layers, rows, kv_heads
        return SlotCache(jnp.zeros((*head, head_dim, slots), like.keys.dtype),
                         jnp.zeros((*head, slots, head_dim), like.values.dtype),
                         jnp.zeros((rows, slots), jnp.int32), jnp.zeros((), jnp.int32))
