"""One attention function; the implementation is chosen by platform and they agree in tests."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourd4d.core.errors import InputError
from fourd4d.parallel import platform

# Scores kept at once when rows are taken in turn: what fits a core's cache.
_ROWS_BUDGET = 1 << 18


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
        in the backward pass: for a CPU's caches), ``splash`` (TPU), ``cudnn`` (GPU); ``auto`` is
        the platform's own where it can do these shapes, else ``xla``.

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
    if implementation == "splash":
        if length % 128 or keys % 128:
            return f"lengths {length} and {keys} are not multiples of 128"
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
    """``attend_xla``, as many rows at a time as keep the scores in a CPU's cache.

    The backward pass computes the scores again: writing and reading them costs more.
    """
    b, t, n, h = q_BTNH.shape
    rows = max(1, _ROWS_BUDGET // (n * t * k_BSKH.shape[1]))
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
