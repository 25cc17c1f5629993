"""Folding low-rank adapters into the weights they adapt."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fourd4d.models.config import ModelConfig

ADAPTERS = ("lora_a", "lora_b")


def merge_lora(config: ModelConfig, state: Any) -> tuple[ModelConfig, Any]:
    """The config without adapters and the state whose kernels contain them.

    Sums are made in float32 and rounded once to the kernel's dtype. Without adapters, both come
    back as they are.
    """
    if config.lora is None:
        return config, state
    flat = dict(nnx.to_flat_state(state))
    scale = config.lora.alpha / config.lora.rank

    @jax.jit
    def folded(kernel: Any, a: Any, b: Any) -> Any:
        wide = [x.astype(jnp.float32) for x in (a, b)]
        # Both are stacked over layers: a (layers, inputs…, rank), b (layers, rank, outputs…).
        low = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(*wide)
        return (kernel.astype(jnp.float32) + scale * low).astype(kernel.dtype)

    merged = {}
    for path, leaf in flat.items():
        if path[-1] in ADAPTERS:
            continue
        a = flat.get((*path[:-1], "lora_a"))
        if path[-1] == "kernel" and a is not None:
            b = flat[*path[:-1], "lora_b"]
            leaf = leaf.replace(folded(*(x.get_value() for x in (leaf, a, b))))
        merged[path] = leaf
    return dataclasses.replace(config, lora=None), nnx.from_flat_state(merged)
