"""One attention function; the implementation is chosen by platform and they agree in tests."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourd4d.core.errors import InputError
from fourd4d.parallel import partition, platform

# Scores kept at once when rows are taken in turn: what fits a core's cache.
_ROWS_BUDGET = 1 << 18
_LONG = 1 << 22  # Scores of a row that is taken in parts.


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


def attend(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
           v_BSKH: Float[Array, "B S K H"], query_segments: Int[Array, "B T"],
           key_segments: Int[Array, "B S"], first_slot: Int[Array, ""] | int | None,
           implementation: str = "auto") -> Float[Array, "B T N H"]:
    """Attention inside segments; see ``visible`` for who sees whom. Scale is H ** -0.5.

    What comes back for a query that sees nothing is finite and otherwise unspecified.

    Args:
      implementation: ``xla`` (anywhere), ``rows`` (the same, some rows at a time and recomputed
        in the backward pass: for a CPU's caches), ``splash`` (TPU), ``cudnn`` (GPU, with a mask of
        queries by keys), ``flash`` (GPU, without); ``auto`` is the platform's own where it can do
        these shapes, else ``xla``.

    Raises:
      InputError: an implementation asked for by name that cannot do these shapes.
    """
    shapes = q_BTNH, k_BSKH, first_slot
    if implementation == "auto":
        implementation = _automatic(*shapes)
    else:
        reason = _obstacle(implementation, *shapes)
        if reason:
            raise InputError(f"attention {implementation!r}", reason, "Use 'auto' or 'xla'")
    if implementation == "splash":
        from fourd4d.models.splash import attend_splash

        return attend_splash(q_BTNH, k_BSKH, v_BSKH, query_segments, key_segments,
                             causal=first_slot is not None)
    if implementation == "flash":
        from fourd4d.models.flash import attend_flash

        return attend_flash(q_BTNH, k_BSKH, v_BSKH, query_segments, causal=first_slot is not None)
    mask = visible(query_segments, key_segments, first_slot)
    if implementation == "cudnn":
        # Its gradient for a query that sees nothing is NaN, whatever comes back from behind.
        mask |= ~jnp.any(mask, axis=-1, keepdims=True)
        return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask[:, None],
                                            implementation="cudnn")
    if implementation == "rows":
        return attend_rows(q_BTNH, k_BSKH, v_BSKH, mask)
    return attend_xla(q_BTNH, k_BSKH, v_BSKH, mask)


def _automatic(q: Array, k: Array, first_slot: Array | int | None) -> str:
    own = {"tpu": "splash", "gpu": "cudnn", "cpu": "rows"}.get(platform(), "xla")
    return "xla" if _obstacle(own, q, k, first_slot) else own


def _split() -> bool:
    """Whether arrays may be split over devices here."""
    return math.prod(jax.sharding.get_abstract_mesh().axis_sizes) > 1


def _obstacle(implementation: str, q: Array, k: Array, first_slot: Array | int | None) -> str:
    """Why an implementation cannot do these shapes; empty when it can."""
    length, keys, width = q.shape[1], k.shape[1], q.shape[3]
    if implementation == "splash" and (length % 128 or keys % 128):
        return f"lengths {length} and {keys} are not multiples of 128"
    if implementation == "flash" and length != keys:
        return f"{length} queries of {keys} keys are not attention of tokens to themselves"
    if implementation in ("splash", "flash"):
        if first_slot is not None and not (isinstance(first_slot, int) and first_slot == 0):
            return "it does not decode against a cache"
    if implementation == "cudnn":
        if q.dtype not in (jnp.bfloat16, jnp.float16):
            return f"dtype {q.dtype} is neither bfloat16 nor float16"
        if width % 8 or width > 128 or length % 2 or keys % 2:
            return f"head width {width} or lengths {length}, {keys} are outside its limits"
    if implementation == "rows" and _split():
        return "rows are split over devices"
    return ""


def device_specs(q: Array, k: Array, queries: bool = False) -> tuple[Any, Any, Any, Any] | None:
    """How a mesh's devices share q (B, T, N, H), k or v (B, S, K, H), and ids of queries and keys.

    Each has its own rows and heads, and with ``queries`` a part of them too. None on one device.
    """
    if not _split():
        return None
    # Query heads of one key head must stay together.
    heads = partition(q.shape[2:3], "heads")[0] if partition(k.shape[2:3], "kv_heads")[0] else None
    rows = partition(q.shape[:1], "batch")[0]
    length = partition(q.shape[1:2], "length")[0] if queries else None
    return (jax.P(rows, length, heads, None), jax.P(rows, None, heads, None),
            jax.P(rows, length), jax.P(rows, None))


def attend_xla(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
               v_BSKH: Float[Array, "B S K H"], mask_BTS: Bool[Array, "B T S"]
               ) -> Float[Array, "B T N H"]:
    """Plain attention with a float32 softmax; a query that sees nothing gets a mean of values."""
    b, t, n, h = q_BTNH.shape
    k = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(b, t, k, n // k, h)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    # Scaled in float32: bfloat16 would round both H ** -0.5 and the product.
    scores = jnp.where(mask_BTS[:, None, None], scores * h**-0.5, -1e30)
    weights = jax.nn.softmax(scores, -1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH).reshape(b, t, n, h)


def attend_rows(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
                v_BSKH: Float[Array, "B S K H"], mask_BTS: Bool[Array, "B T S"]
                ) -> Float[Array, "B T N H"]:
    """``attend_xla``, as many rows at a time as keep the scores in a CPU's cache; of long rows, as
    many queries.

    The backward pass computes the scores again: writing and reading them costs more.
    """
    b, t, n, h = q_BTNH.shape
    scores = n * t * k_BSKH.shape[1]
    if scores > _LONG:
        return _attend_queries(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
    rows = max(1, _ROWS_BUDGET // scores)
    if b <= rows:
        return attend_xla(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
    while b % rows:
        rows -= 1

    @jax.checkpoint
    def some(_: None, part: tuple[Array, ...]) -> tuple[None, Array]:
        return None, attend_xla(*part)

    parts = tuple(a.reshape(b // rows, rows, *a.shape[1:])
                  for a in (q_BTNH, k_BSKH, v_BSKH, mask_BTS))
    return jax.lax.scan(some, None, parts)[1].reshape(b, t, n, h)


def _attend_queries(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """``attend_rows`` of one row after the other, some of its queries at a time."""
    t, n, h = q.shape[1:]
    size = max(1, _ROWS_BUDGET // (n * k.shape[1]))
    parts = -(-t // size)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, parts * size - t), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(parts, 1, size, *x.shape[1:])

    def row(_: None, own: tuple[Array, ...]) -> tuple[None, Array]:
        q, k, v, mask = own

        @jax.checkpoint
        def some(_: None, part: tuple[Array, ...]) -> tuple[None, Array]:
            return None, attend_xla(part[0], k[None], v[None], part[1])

        mixed = jax.lax.scan(some, None, (split(q), split(mask)))[1]
        return None, mixed.reshape(parts * size, n, h)[:t]

    return jax.lax.scan(row, None, (q, k, v, mask))[1]
