"""Splash attention (Pallas, TPU) behind our attention's signature."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Float, Int

from fourd4d.parallel import partition

_LANES = 128
_BLOCKS = (512, 384, 256, 128)


def attend_splash(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
                  v_BSKH: Float[Array, "B S K H"], query_segments: Int[Array, "B T"],
                  key_segments: Int[Array, "B S"], *, causal: bool, interpret: bool = False
                  ) -> Float[Array, "B T N H"]:
    """Self-attention inside segments, causal or not; lengths are multiples of 128.

    Padding (segment 0) attends to padding. On a mesh, each device takes its rows and heads.

    Args:
      interpret: run the kernel's Python on any platform, for tests.
    """
    (_, t, n, h), k = q_BTNH.shape, k_BSKH.shape[2]
    q_BTNH = (q_BTNH.astype(jnp.float32) * h**-0.5).astype(q_BTNH.dtype)
    # The kernel's tiles are 128 wide: zero features change no score.
    wide = [jnp.pad(a, ((0, 0),) * 3 + ((0, -h % _LANES),)) for a in (q_BTNH, k_BSKH, v_BSKH)]

    def local(q: Array, k: Array, v: Array, qs: Array, ks: Array) -> Array:
        kernel = _kernel(t, ks.shape[1], q.shape[2], causal, interpret)
        q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))
        ids = splash_attention_kernel.SegmentIds(qs, ks)
        out: Any = jax.vmap(kernel)(q, k, v, ids)
        return out.transpose(0, 2, 1, 3)

    run: Any = local
    if math.prod(jax.sharding.get_abstract_mesh().axis_sizes) > 1:
        # Query heads of one key head must stay together.
        heads = partition((n,), "heads")[0] if partition((k,), "kv_heads")[0] else None
        rows = partition((q_BTNH.shape[0],), "batch")[0]
        spec = jax.P(rows, None, heads, None)
        ids = jax.P(rows, None)
        run = jax.shard_map(local, in_specs=(spec, spec, spec, ids, ids), out_specs=spec,
                            check_vma=False)
    return run(*wide, query_segments, key_segments)[..., :h].astype(q_BTNH.dtype)


def _kernel(queries: int, keys: int, heads: int, causal: bool, interpret: bool):
    mask = splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    block_q = next(block for block in _BLOCKS if queries % block == 0)
    block_k = next(block for block in _BLOCKS if keys % block == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block_q, block_kv=block_k, block_kv_compute=block_k,
        block_q_dkv=block_q, block_kv_dkv=block_k, block_kv_dkv_compute=block_k,
        block_q_dq=block_q, block_kv_dq=block_k)
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask((queries, keys))] * heads),
        block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
