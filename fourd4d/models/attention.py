"""One attention function; the implementation is chosen by platform and they agree in tests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def visible(query_segments: Int[Array, "B T"], key_segments: Int[Array, "B S"],
            first_slot: Int[Array, ""] | int | None) -> Bool[Array, "B T S"]:
    """Which keys a query sees: those of its own segment, none in segment 0.

    With ``first_slot``, query t sits at slot ``first_slot + t`` and sees no later slot.
    """
    seen = query_segments[:, :, None] == key_segments[:, None, :]
    seen &= key_segments[:, None, :] != 0
    if first_slot is not None:
        queries = first_slot + jnp.arange(query_segments.shape[1])
        seen &= jnp.arange(key_segments.shape[1])[None, :] <= queries[:, None]
    return seen


def attend_xla(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
               v_BSKH: Float[Array, "B S K H"], mask_BTS: Bool[Array, "B T S"]
               ) -> Float[Array, "B T N H"]:
    """Plain attention with a float32 softmax; a query that sees nothing gets a mean of values."""
    b, t, n, h = q_BTNH.shape
    k = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(b, t, k, n // k, h) * (h**-0.5)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_BTS[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, -1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH).reshape(b, t, n, h)


def attend(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
           v_BSKH: Float[Array, "B S K H"], query_segments: Int[Array, "B T"],
           key_segments: Int[Array, "B S"], first_slot: Int[Array, ""] | int | None,
           implementation: str = "auto") -> Float[Array, "B T N H"]:
    """Attention inside segments; see ``visible`` for who sees whom. Scale is H ** -0.5."""
    del implementation
    mask = visible(query_segments, key_segments, first_slot)
    return attend_xla(q_BTNH, k_BSKH, v_BSKH, mask)
