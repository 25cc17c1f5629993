"""Attention over several sources of keys at once: a shared prefix, a cache, the tokens themselves.

Each source gives an unnormalised result and its softmax statistics; they merge exactly, as in
flash decoding. So keys need not be copied side by side, and a prefix that many rows share is kept
and read once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fourd4d.core.struct import pytree
from fourd4d.models.attention import visible
from fourd4d.parallel import local_shape, one_cpu, platform

# Scores kept at once on a CPU when a gradient may be wanted, and elsewhere: what a TPU's vector
# memory holds several of, what a GPU has room for.
_SCORES = 1 << 18
_TPU_SCORES = 1 << 23
_GPU_SCORES = 1 << 26
_QUERIES = 8, 256  # Of a row at once, elsewhere: so few keep products wide enough.
_SHORTEST = 64  # Keys of a prompt below which reading fewer saves nothing.
_PROMPTS = 4  # Prompts that a CPU reads at once.


@pytree
class Part:
    """Keys seen before. R rows, each shared by B / R consecutive query rows."""

    keys: Float[Array, "R S K H"]
    values: Float[Array, "R S K H"]
    segment_ids: Int[Array, "R S"]


@pytree
class PrefixPart(Part):
    """Keys that every real token sees, whatever its segment: packed responses share a prompt."""


@pytree
class SlotPart:
    """A ``core.kv_cache.SlotCache`` of which ``layer`` is read, for one query a row.

    All layers are here: to cut one out beforehand would copy what nobody looks at.
    """

    layer: Int[Array, ""]
    keys: Float[Array, "layers R K H S"]
    values: Float[Array, "layers R K S H"]
    segment_ids: Int[Array, "R S"]
    rows: Int[Array, "D R_D C"] | None = None
    place: Int[Array, "D B_D"] | None = None


def attend_parts(q_BTNH: Float[Array, "B T N H"], k_BTKH: Float[Array, "B T K H"],
                 v_BTKH: Float[Array, "B T K H"], segments_BT: Int[Array, "B T"],
                 past: Sequence[Part | SlotPart]) -> Float[Array, "B T N H"]:
    """Each query sees the tokens up to itself, and of ``past``, that are of its own segment.

    Of a ``PrefixPart`` or ``SlotPart`` it sees all. Segment 0 is padding everywhere.

    What comes back for a query that sees nothing is finite and otherwise unspecified.
    """
    t = q_BTNH.shape[1]
    own = Part(k_BTKH, v_BTKH, segments_BT)
    if t == 1:
        return _attend(q_BTNH, segments_BT, own, 0, past)
    if any(isinstance(part, SlotPart) for part in past):
        raise ValueError(f"a SlotPart answers one query a row, not {t}")
    rows = min(part.keys.shape[0] for part in (*past, own))
    if one_cpu():
        keys = t + sum(part.keys.shape[1] for part in past)
        if q_BTNH.shape[0] * q_BTNH.shape[2] * t * keys > _SCORES and rows > 1:
            return _by_rows(q_BTNH, segments_BT, own, past, rows)
    else:
        size = _queries_at_once(q_BTNH, max(t, *(part.keys.shape[1] for part in past)))
        if size < t:
            return _by_queries(q_BTNH, segments_BT, own, past, size)
    return _attend(q_BTNH, segments_BT, own, 0, past)


def _by_rows(q: Array, segments: Array, own: Part, past: Sequence[Part | SlotPart], rows: int
             ) -> Array:
    """One row of the most widely shared part at a time; its scores fit a CPU's cache."""

    def split(x: Array) -> Array:
        return x.reshape(rows, x.shape[0] // rows, *x.shape[1:])

    @jax.checkpoint
    def some(_: None, inputs: tuple) -> tuple[None, Array]:
        q, segments, own, past = inputs
        return None, _attend(q, segments, own, 0, past)

    parts = jax.tree.map(split, (q, segments, own, tuple(past)))
    return jax.lax.scan(some, None, parts)[1].reshape(q.shape)


def _queries_at_once(q: Array, keys: int) -> int:
    """Queries of a row whose scores with so many keys a device keeps at once: a power of two."""
    rows, _, heads, _ = local_shape(q.shape, "batch", "length", "heads", "head_dim")
    room = _TPU_SCORES if platform() == "tpu" else _GPU_SCORES
    fewest, most = _QUERIES
    return min(max(1 << (room // (rows * heads * keys)).bit_length() >> 1, fewest), most)


def _by_queries(q: Array, segments: Array, own: Part, past: Sequence[Part | SlotPart],
                size: int) -> Array:
    """``size`` queries of every row at a time, which leaves rows where their devices are."""
    b, t = segments.shape
    count = -(-t // size)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, count * size - t)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(b, count, size, *x.shape[2:]), 1, 0)

    def wide(part: Any) -> Any:
        """Steps add up the gradients of keys and values in this dtype."""
        return dataclasses.replace(part, keys=part.keys.astype(jnp.float32),
                                   values=part.values.astype(jnp.float32))

    own, past = wide(own), [wide(part) for part in past]

    @jax.checkpoint
    def some(_: None, inputs: tuple) -> tuple[None, Array]:
        q, segments, first = inputs
        return None, _attend(q, segments, own, first, past)

    inputs = split(q), split(segments), jnp.arange(count) * size
    mixed = jnp.moveaxis(jax.lax.scan(some, None, inputs)[1], 0, 1)
    return mixed.reshape(b, count * size, *q.shape[2:])[:, :t]


def _attend(q: Array, segments: Array, own: Part, first: Array | int,
            past: Sequence[Part | SlotPart]) -> Array:
    """Queries standing at ``own``'s places ``first`` …"""
    found = [_one(q, segments, own, first), *(
        _slots(q, segments, part) if isinstance(part, SlotPart) else
        _one(q, segments, part, None) for part in past)]
    top = jnp.stack([most for _, _, most in found]).max(0)
    total = jnp.zeros_like(top)
    mixed = jnp.zeros((*top.shape, q.shape[-1]))
    for out, weight, most in found:
        scale = jnp.exp(most - top)
        mixed = mixed + out * scale[..., None]
        total = total + weight * scale
    return (mixed / total[..., None]).astype(q.dtype).reshape(q.shape)


def _one(q_BTNH: Array, segments_BT: Array, part: Part, first: Array | int | None
         ) -> tuple[Float[Array, "B T K G H"], Float[Array, "B T K G"], Float[Array, "B T K G"]]:
    """exp(scores - most) @ values, its sum of weights, and most; float32.

    X lists the queries of all rows that share the part's row.
    """
    b, t, n, h = q_BTNH.shape
    r, _, kv, _ = part.keys.shape
    g, shared = n // kv, b // r
    q_RXKGH = q_BTNH.reshape(r, shared * t, kv, g, h)
    scores_RKXGS = jnp.einsum("RXKGH,RSKH->RKXGS", q_RXKGH, part.keys.astype(q_BTNH.dtype),
                              preferred_element_type=jnp.float32)
    asking, kept = segments_BT.reshape(r, shared * t), part.segment_ids
    if isinstance(part, PrefixPart):
        asking, kept = (asking != 0).astype(jnp.int32), (kept != 0).astype(jnp.int32)
    mask_RXS = visible(asking, kept, first)
    scores_RKXGS = jnp.where(mask_RXS[:, None, :, None], scores_RKXGS * h**-0.5, -1e30)
    most_RKXG = jax.lax.stop_gradient(jnp.max(scores_RKXGS, -1))
    weights_RKXGS = jnp.exp(scores_RKXGS - most_RKXG[..., None])
    out_RKXGH = jnp.einsum("RKXGS,RSKH->RKXGH", weights_RKXGS.astype(q_BTNH.dtype),
                           part.values.astype(q_BTNH.dtype), preferred_element_type=jnp.float32)

    def rows(x_RKX: Array) -> Array:
        return jnp.moveaxis(x_RKX, 1, 2).reshape(b, t, kv, *x_RKX.shape[3:])

    return rows(out_RKXGH), rows(jnp.sum(weights_RKXGS, -1)), rows(most_RKXG)


def _slots(q_BTNH: Array, segments_BT: Array, part: SlotPart
           ) -> tuple[Float[Array, "B T K G H"], Float[Array, "B T K G"], Float[Array, "B T K G"]]:
    """``_one`` for a ``SlotPart`` and one query a row; rows go to their prompts and come back.

    X lists the rows that look into the part's row.
    """
    if part.rows is not None and part.rows.shape[0] == 1 and one_cpu():
        return _by_prompts(q_BTNH, segments_BT, part)
    b, _, n, h = q_BTNH.shape
    keys_RKHS, values_RKSH = (jax.lax.dynamic_index_in_dim(x, part.layer, keepdims=False).astype(
        q_BTNH.dtype) for x in (part.keys, part.values))
    r, kv, _, s = keys_RKHS.shape
    q_XNH, live_X, c = q_BTNH[:, 0], segments_BT[:, 0] != 0, 1
    if part.rows is not None:
        groups, _, c = part.rows.shape
        asked = part.rows.reshape(groups, -1)
        q_XNH = dealt(q_XNH, asked).reshape(-1, n, h)
        live_X = dealt(live_X, asked).reshape(-1)
    q_RKYH = jnp.swapaxes(q_XNH.reshape(r, c, kv, n // kv, h), 1, 2).reshape(r, kv, -1, h)
    scores = jnp.einsum("RKYH,RKHS->RKYS", q_RKYH, keys_RKHS,
                        preferred_element_type=jnp.float32).reshape(r, kv, c, n // kv, s)
    seen_RCS = live_X.reshape(r, c, 1) & (part.segment_ids != 0)[:, None]
    scores = jnp.where(seen_RCS[:, None, :, None], scores * h**-0.5, -1e30)
    most_RKCG = jnp.max(scores, -1)
    weights = jnp.exp(scores - most_RKCG[..., None])
    out_RKYH = jnp.einsum("RKYS,RKSH->RKYH", weights.reshape(r, kv, -1, s).astype(q_BTNH.dtype),
                          values_RKSH, preferred_element_type=jnp.float32)

    def back(x_RKC: Array) -> Array:
        x_XK = jnp.swapaxes(x_RKC, 1, 2).reshape(r * c, kv, *x_RKC.shape[3:])
        if part.place is not None:
            x_XK = dealt(x_XK, part.place).reshape(b, kv, *x_RKC.shape[3:])
        return x_XK[:, None]

    return (back(out_RKYH.reshape(r, kv, c, n // kv, h)), back(jnp.sum(weights, -1)),
            back(most_RKCG))


def _by_prompts(q_BTNH: Array, segments_BT: Array, part: SlotPart
                ) -> tuple[Float[Array, "B T K G H"], Float[Array, "B T K G"],
                           Float[Array, "B T K G"]]:
    """``_slots``, a few prompts at a time and only those that some row looks into.

    On a CPU the others, which are held for rows to come, cost as much as those in use; so does
    the room behind a prompt that is shorter than the longest. Of each no more is read than the
    shortest of some lengths that holds it and those read with it, for no more rows than the least
    of a few counts.
    """
    assert part.rows is not None and part.place is not None
    b, _, n, h = q_BTNH.shape
    kv, rows_RC, length = part.keys.shape[2], part.rows[0], part.segment_ids.shape[1]
    place_B, (r, c), g = part.place[0], rows_RC.shape, n // kv
    taken_R = jnp.sum(rows_RC < b, axis=1)
    ends_R = jnp.max(jnp.where(part.segment_ids != 0, jnp.arange(1, length + 1), 0), axis=1)
    sizes, counts = _sizes(length), _counts(c)
    kinds = list(itertools.product(sizes, counts))
    kind_R = len(counts) * _bracket(ends_R, sizes) + _bracket(taken_R, counts)
    # Stable: those in use come first, the shortest of them before the others.
    order_R = jnp.argsort(jnp.where(taken_R > 0, kind_R, len(kinds)))

    def reader(size: int, count: int) -> Callable[[Array, Array], tuple[Array, ...]]:
        def read(own_P: Array, q_PKYH: Array) -> tuple[Array, ...]:
            def cut(x: Array, axis: int) -> Array:
                shape = [1, 1, *x.shape[2:]]
                shape[axis] = size
                return jnp.concatenate([
                    jax.lax.dynamic_slice(x, (part.layer, own, 0, 0, 0), shape)[0]
                    for own in own_P]).astype(q_BTNH.dtype)

            # Of the places for rows, the first are filled.
            scores_PKYS = jnp.einsum("PKYH,PKHS->PKYS", q_PKYH[:, :, : count * g],
                                     cut(part.keys, 4), preferred_element_type=jnp.float32)
            seen_PS = jnp.take(part.segment_ids[:, :size], own_P, axis=0) != 0
            scores_PKYS = jnp.where(seen_PS[:, None, None], scores_PKYS * h**-0.5, -1e30)
            most_PKY = jnp.max(scores_PKYS, -1)
            weights_PKYS = jnp.exp(scores_PKYS - most_PKY[..., None])
            out_PKYH = jnp.einsum("PKYS,PKSH->PKYH", weights_PKYS.astype(q_BTNH.dtype),
                                  cut(part.values, 3), preferred_element_type=jnp.float32)
            spare = (0, 0), (0, 0), (0, (c - count) * g)
            return (jnp.pad(out_PKYH, (*spare, (0, 0))), jnp.pad(jnp.sum(weights_PKYS, -1), spare),
                    jnp.pad(most_PKY, spare, constant_values=-1e30))

        return read

    def some(first: Array | int, p: int) -> Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]:
        """``p`` prompts a step, from place ``first`` of their order."""

        def step(number: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
            at = first + number * p
            own_P = jax.lax.dynamic_slice(order_R, (at,), (p,))
            rows_X = jnp.take(rows_RC, own_P, axis=0).reshape(-1)
            q_PKYH = jnp.swapaxes(jnp.take(q_BTNH[:, 0], rows_X, axis=0, mode="clip").reshape(
                p, c, kv, g, h), 1, 2).reshape(p, kv, c * g, h)
            new = jax.lax.switch(kind_R[own_P[-1]], [reader(*kind) for kind in kinds], own_P,
                                 q_PKYH)
            # Kept by prompts until the end: a CPU scatters to rows one after the other.
            return tuple(jax.lax.dynamic_update_slice_in_dim(x, y, at, 0)
                         for x, y in zip(found, new, strict=True))

        return step

    del segments_BT  # A row that has ended is in no prompt's list.
    found = (jnp.zeros((r, kv, c * g, h)), jnp.zeros((r, kv, c * g)),
             jnp.full((r, kv, c * g), -1e30))
    used, whole = jnp.sum(taken_R > 0), 0
    if c == 1 and r >= _PROMPTS:  # One row alone is too little for a product.
        whole = used // _PROMPTS * _PROMPTS
        found = jax.lax.fori_loop(0, used // _PROMPTS, some(0, _PROMPTS), found)
    found = jax.lax.fori_loop(0, used - whole, some(whole, 1), found)
    # Rows that look nowhere have place past the end, and get any row's.
    from_B = jnp.take(jnp.argsort(order_R), place_B // c, mode="clip") * c + place_B % c

    def back(x_RKY: Array) -> Array:
        x_XKG = jnp.swapaxes(x_RKY.reshape(r, kv, c, g, *x_RKY.shape[3:]), 1, 2).reshape(
            r * c, kv, g, *x_RKY.shape[3:])
        return jnp.take(x_XKG, from_B, axis=0, mode="clip")[:, None]

    out, total, most = found
    return back(out), back(total), back(most)


def _sizes(length: int) -> list[int]:
    """How much of a prompt may be read, ascending up to ``length``; a third or less is spare."""
    sizes, size = list[int](), _SHORTEST
    while size < length:
        sizes.append(size)
        size += max(_SHORTEST // 2, 1 << size.bit_length() - 3)
    return [*sizes, length]


def _counts(width: int) -> list[int]:
    """For how many rows a prompt may be read, ascending up to all of its ``width`` places."""
    return [width // 2, width] if width > 1 else [1]


def _bracket(x: Int[Array, "R"], sizes: Sequence[int]) -> Int[Array, "R"]:
    """Which of the ascending sizes is the first that holds x."""
    return jnp.sum(x[:, None] > jnp.asarray(sizes[:-1], jnp.int32), axis=1)


def dealt(x: Array, index: Int[Array, "D X"]) -> Array:
    """x[d][index[d]] for each of the D groups that x's first axis falls into.

    An index past the end takes the last entry.
    """
    groups = index.shape[0]
    own = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    return jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(own, index)
