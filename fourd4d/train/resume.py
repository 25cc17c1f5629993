"""What a run began with, and picking it up where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fourd4d.checkpoint.orbax import CheckpointManager
from fourd4d.core.errors import InputError
from fourd4d.train.state import TrainState


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays: what a restore fills."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def resumed(checkpoints: CheckpointManager, state: TrainState, batches: Any,
            about: Mapping[str, Any], where: object) -> tuple[int, TrainState]:
    """(steps done, state): those of the newest checkpoint, ``batches`` put back where they were; or
    0 and ``state`` where there is none. Raises InputError where the run began otherwise.

    Args:
      about: specs of this run, with its ``train.origin``.
    """
    first = checkpoints.latest() or 0
    if first:
        restored = checkpoints.restore(abstract(state), batches)
        check_origin(restored.specs, about, where)
        state = restored.state
    return first, state


_REMEDIES = {"start": "Give the config.init (and seed) that the run started from",
             "seed": "Give the config.seed that the run started with"}


def origin(params: Any, seed: int) -> dict[str, Any]:
    """What a checkpoint's specs say of the weights and the draws its run began with."""
    return {"start": fingerprint(params), "seed": seed}


def check_origin(saved: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raises InputError unless a run continues with the weights and draws it began with.

    Args:
      saved, now: specs that hold what ``origin`` gave.
    """
    for key, remedy in _REMEDIES.items():
        if saved.get(key) != now[key]:
            raise InputError(where, f"{key} was {saved.get(key)}, now {now[key]}",
                             f"{remedy}, or another config.workdir")


def fingerprint(params: Any) -> str:
    """A short name of exactly these weights, whatever their sharding."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)}:{leaf.shape}:{leaf.dtype}:".encode())
        digest.update(int(_bit_sum(leaf)).to_bytes(4, "little"))
    return digest.hexdigest()[:16]


@jax.jit
def _bit_sum(x: jax.Array) -> jax.Array:
    """Sum of the words times odd numbers of their places, modulo 2 ** 32: order plays no part."""
    words = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, words).astype(jnp.uint32)
    place = jnp.ones(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        count = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * (jnp.uint32(2) * count * jnp.uint32(2 * axis + 1) + jnp.uint32(1))
    return jnp.sum(bits * place, dtype=jnp.uint32)
