"""Splash attention (Pallas, TPU) behind our attention's signature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Float, Int

from fourd4d.models.attention import device_specs
from fourd4d.parallel import local_shape

_LANES = 128
_BLOCKS = (512, 384, 256, 128)


def attend_splash(q_BTNH: Float[Array, "B T N H"], k_BSKH: Float[Array, "B S K H"],
                  v_BSKH: Float[Array, "B S K H"], query_segments: Int[Array, "B T"],
                  key_segments: Int[Array, "B S"], *, causal: bool, interpret: bool = False
                  ) -> Float[Array, "B T N H"]:
    """Self-attention inside segments, causal or not; lengths are multiples of 128.

    Padding (segment 0) attends to padding. On a mesh, each device takes its rows and heads; of
    causal attention, where ``length`` is split, its queries too, and all keys.

    Args:
      interpret: run the kernel's Python on any platform, for tests.
    """
    t, h = q_BTNH.shape[1], q_BTNH.shape[3]
    q_BTNH = (q_BTNH.astype(jnp.float32) * h**-0.5).astype(q_BTNH.dtype)
    parts = t // local_shape((t,), "length")[0] if causal else 1
    if t // parts % _LANES:
        parts = 1
    specs = device_specs(q_BTNH, k_BSKH, queries=parts > 1)
    heads = q_BTNH.shape[2]
    if specs is not None and specs[0][2] is not None:
        heads = local_shape((heads,), "heads")[0]
    kernel = _kernel(t, k_BSKH.shape[1], heads, parts, causal, interpret)

    def local(kernel: Any, q: Array, k: Array, v: Array, qs: Array, ks: Array) -> Array:
        # The kernel's tiles are 128 wide: zero features change no score. They are added here, since
        # the compiler cannot slice sums over devices along two axes at once.
        q, k, v = (jnp.pad(a.transpose(0, 2, 1, 3), ((0, 0),) * 3 + ((0, -h % _LANES),))
                   for a in (q, k, v))
        ids = splash_attention_kernel.SegmentIds(qs, ks)
        out: Any = jax.vmap(kernel)(q, k, v, ids)
        return out.transpose(0, 2, 1, 3)[..., :h]

    run: Any = local
    if specs is not None:
        q_spec, kv_spec, *ids = specs
        mask = kernel.manual_sharding_spec(jax.sharding.NamedSharding(
            jax.sharding.get_abstract_mesh(), jax.P(None, q_spec[1])))
        run = jax.shard_map(local, in_specs=(mask, q_spec, kv_spec, kv_spec, *ids),
                            out_specs=q_spec, check_vma=False)
    return run(kernel, q_BTNH, k_BSKH, v_BSKH, query_segments, key_segments).astype(q_BTNH.dtype)


def _kernel(queries: int, keys: int, heads: int, parts: int, causal: bool, interpret: bool) -> Any:
    """For ``heads`` of one device; ``parts`` devices share the queries."""
    mask = splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    block_q = next(block for block in _BLOCKS if queries // parts % block == 0)
    block_k = next(block for block in _BLOCKS if keys % block == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block_q, block_kv=block_k, block_kv_compute=block_k,
        block_q_dkv=block_q, block_kv_dkv=block_k, block_kv_dkv_compute=block_k,
        block_q_dq=block_q, block_kv_dq=block_k)
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask((queries, keys))] * heads),
        block_sizes=sizes, head_shards=1, q_seq_shards=parts, interpret=interpret)
