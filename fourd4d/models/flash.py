"""Flash attention (Pallas, GPU) behind our attention's signature: no mask of queries by keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as kernels
from jaxtyping import Array, Float, Int

from fourd4d.models.attention import device_specs

_BLOCK = 128
_SMALLEST = 32  # Of the backward pass.


def attend_flash(q_BTNH: Float[Array, "B T N H"], k_BTKH: Float[Array, "B T K H"],
                 v_BTKH: Float[Array, "B T K H"], segments: Int[Array, "B T"], *, causal: bool,
                 interpret: bool = False) -> Float[Array, "B T N H"]:
    """Self-attention inside segments, causal or not.

    Padding (segment 0) attends to padding. On a mesh, each device takes its rows and heads.

    Args:
      interpret: run the kernel's Python on any platform, for tests.
    """
    t, h = q_BTNH.shape[1], q_BTNH.shape[3]
    whole = padded_length(t)

    def local(q: Array, k: Array, v: Array, segments: Array) -> Array:
        shared = q.shape[2] // k.shape[2]
        k, v = (jnp.repeat(x, shared, axis=2) for x in (k, v))  # The kernel wants as many heads.
        q, k, v = (jnp.pad(x, ((0, 0), (0, whole - t), (0, 0), (0, 0))) for x in (q, k, v))
        segments = jnp.pad(segments, ((0, 0), (0, whole - t)))
        block = min(_BLOCK, whole)
        sizes = kernels.BlockSizes(
            block_q=block, block_k=block, block_q_dkv=_SMALLEST, block_kv_dkv=_SMALLEST,
            block_q_dq=_SMALLEST, block_kv_dq=_SMALLEST)
        out: Any = kernels.mha(q, k, v, segments, h**-0.5, causal, sizes, interpret=interpret)
        return out[:, :t]

    run: Any = local
    specs = device_specs(q_BTNH, k_BTKH)
    if specs is not None:
        q_spec, kv_spec, ids, _ = specs
        run = jax.shard_map(local, in_specs=(q_spec, kv_spec, kv_spec, ids), out_specs=q_spec,
                            check_vma=False)
    return run(q_BTNH, k_BTKH, v_BTKH, segments).astype(q_BTNH.dtype)


def padded_length(length: int) -> int:
    """What the kernel's blocks divide: blocks are powers of two, of 128 where there are several."""
    if length >= _BLOCK:
        return -(-length // _BLOCK) * _BLOCK
    return max(_SMALLEST, 1 << (length - 1).bit_length())
