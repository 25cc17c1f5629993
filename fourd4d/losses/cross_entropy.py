"""Log-probabilities of given tokens without ever holding all logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fourd4d.core.metrics import Mean
from fourd4d.parallel import axes_that_split, platform

_SMALL = 2**24  # Logits; below this, 64 MB in float32, one pass without recomputation is fastest.
_CHUNK = 128
_TOKENS = 512  # Of a device's own rows at a time, at least: each time it reads the whole head.
_OUT = -1e30  # Finite, so that 0 * _OUT is 0 in the entropy.


def token_log_probs_and_entropy(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    valid_vocab: int | None = None,
    allowed: Bool[Array, "V"] | None = None,
    blocked: Int[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Log-probability of each target and entropy of its distribution, in nats, float32.

    Logits are made ``chunk`` positions of every row at a time and made again in the backward pass;
    products run in ``hidden``'s dtype and accumulate in float32, the head's gradient too. Where a
    mesh splits rows, except on TPUs, the head is gathered once for all chunks. The
    target's logit is picked by comparison, not by gather, so the vocabulary may lie on several
    devices.

    Args:
      hidden: after the final norm; position l scores ``targets[:, l]``.
      head: columns are tokens; for tied embeddings pass the transposed table.
      targets: ids below V; where a result is not wanted any id will do.
      temperature: divides the logits.
      chunk: positions per step; by default 128, more where ``hidden``, or a device's part of it,
        has less than four rows, or all of them when the logits are small.
      valid_vocab: columns from here on are padding and get no probability.
      allowed: columns that may get probability; the others are left out of the softmax.
      blocked: one more column to leave out at each position, or -1.
    """
    rows, length, _ = hidden.shape
    vocab = head.shape[1]

    def score(h_BCD: Any, y_BC: Any, b_BC: Any, w_DV: Any, wide_DV: Any) -> tuple[Any, Any]:
        z_BCV = _logits(h_BCD, w_DV, wide_DV) / temperature
        ids = jax.lax.broadcasted_iota(jnp.int32, z_BCV.shape, 2)
        if valid_vocab is not None and valid_vocab < vocab:
            z_BCV = jnp.where(ids < valid_vocab, z_BCV, _OUT)
        if allowed is not None:
            z_BCV = jnp.where(allowed, z_BCV, _OUT)
        if b_BC is not None:
            z_BCV = jnp.where(ids == b_BC[..., None], _OUT, z_BCV)
        lse_BC = jax.nn.logsumexp(z_BCV, axis=-1)
        picked_BC = jnp.sum(jnp.where(ids == y_BC[..., None], z_BCV, 0.0), axis=-1)
        p_BCV = jnp.exp(z_BCV - lse_BC[..., None])
        return picked_BC - lse_BC, lse_BC - jnp.sum(p_BCV * z_BCV, axis=-1)

    narrow = jax.lax.stop_gradient(head.astype(hidden.dtype))  # See ``_logits``.
    if chunk is None and rows * length * vocab <= _SMALL:
        return score(hidden, targets, blocked, narrow, head)
    # TPUs of 16 GB have no room for the gradient of a whole head: there every chunk is exchanged.
    axes = () if platform() == "tpu" else axes_that_split("batch", rows)

    def chunks(h_BLD: Any, y_BL: Any, b_BL: Any, *heads: Any) -> tuple[Any, Any]:
        if axes:  # Each device adds up its own gradient of the head, and all sum it up once.
            heads = tuple(jax.lax.pcast(w_DV, axes, to="varying") for w_DV in heads)
        size = chunk or max(_CHUNK, _TOKENS // h_BLD.shape[0])
        return _scanned(score, h_BLD, y_BL, b_BL, heads, min(size, length))

    # Chunks add up the head's gradient in this dtype.
    wide = head.astype(jnp.promote_types(head.dtype, jnp.float32))
    if axes:
        split, whole = PartitionSpec(axes), PartitionSpec()
        chunks = jax.shard_map(chunks, in_specs=(split, split, split, whole, whole),
                               out_specs=split, axis_names=set(axes))
    return chunks(hidden, targets, blocked, narrow, wide)


@jax.custom_vjp
def _logits(h_BCD: Any, w_DV: Any, wide_DV: Any) -> Any:
    """float32; the gradient of ``w`` is handed to ``wide``, the same in a wider dtype, which is not
    looked at: so no device need hold it."""
    return _product(h_BCD, w_DV)


def _product(h_BCD: Any, w_DV: Any) -> Any:
    return jnp.einsum("bcd,dv->bcv", h_BCD, w_DV, preferred_element_type=jnp.float32)


def _logits_forward(h_BCD: Any, w_DV: Any, wide_DV: Any) -> tuple[Any, Any]:
    return _logits(h_BCD, w_DV, wide_DV), (h_BCD, w_DV, jnp.zeros((), wide_DV.dtype))


def _logits_backward(kept: Any, g_BCV: Any) -> tuple[Any, Any, Any]:
    h_BCD, w_DV, like = kept
    (g_BCD,) = jax.linear_transpose(lambda h: _product(h, w_DV), h_BCD)(g_BCV)
    (g_DV,) = jax.linear_transpose(lambda w: _product(h_BCD, w), w_DV)(g_BCV)
    return g_BCD, None, g_DV.astype(like.dtype)


_logits.defvjp(_logits_forward, _logits_backward)


def _scanned(score: Any, hidden: Any, targets: Any, blocked: Any, heads: Any, size: int
             ) -> tuple[Any, Any]:
    """``score`` of ``size`` positions at a time."""
    rows, length, _ = hidden.shape
    steps = -(-length // size)
    pad = steps * size - length

    def split(x: Any) -> Any:
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, steps, size, *x.shape[2:]), 1, 0)

    xs = split(hidden), split(targets), None if blocked is None else split(blocked)
    body = jax.checkpoint(score, prevent_cse=False)
    _, out = jax.lax.scan(lambda _, xs: (None, body(*xs, *heads)), None, xs)
    log_probs, entropy = (
        jnp.moveaxis(x, 0, 1).reshape(rows, steps * size)[:, :length] for x in out)
    return log_probs, entropy


def text_loss(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "D V"],
    tokens: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    *,
    segment_ids: Int[Array, "B L"] | None = None,
    chunk: int | None = None,
    valid_vocab: int | None = None,
) -> Mean:
    """Cross-entropy in nats of every token given what precedes it in its row.

    ``hidden[:, l - 1]`` predicts ``tokens[:, l]``, which counts ``weights[:, l]``: 0 on padding and
    on pads of mental images. Nothing predicts the first token of a segment.
    """
    counts = weights[:, 1:]
    if segment_ids is not None:
        counts = jnp.where(segment_ids[:, 1:] == segment_ids[:, :-1], counts, 0.0)
    log_probs, _ = token_log_probs_and_entropy(
        hidden[:, :-1], head, tokens[:, 1:], chunk=chunk, valid_vocab=valid_vocab)
    return Mean.of(-log_probs, counts)
