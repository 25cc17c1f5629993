"""What a run began with, and picking it up where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp

from fourd4d.checkpoint.orbax import CheckpointManager, read_specs
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
        check_origin(read_specs(checkpoints.directory, first), about, where)
        state = checkpoints.restore(abstract(state), batches).state
    return first, state


# What may not change when a run goes on: path in the specs, field of the command line. Everything
# else may: steps, learning rates, loss weights, batch, workers, mesh, what is logged and kept.
_FIXED: Final[Mapping[tuple[str, ...], str]] = {
    ("trainable",): "config.trainable",
    ("start",): "config.init (and seed)",
    ("seed",): "config.seed",
    ("data",): "config.data.path",
    ("protocol",): "config.protocol",
    ("model", "lora"): "config.model.lora",
    ("model", "imagery"): "config.model.imagery",
    ("config", "imagery"): "config.imagery",
    ("config", "data", "pack"): "config.data.pack",
    ("config", "data", "assumed_fps"): "config.data.assumed_fps",
}


def origin(params: Any, seed: int, data: str = "") -> dict[str, Any]:
    """Return what a checkpoint's specs say of the weights, draws and data its run began with.

    Args:
      data: the source's ``fingerprint``.
    """
    return {"start": fingerprint(params), "seed": seed} | ({"data": data} if data else {})


def check_origin(saved: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise InputError, naming the field, where a run would go on with other data or weights.

    Args:
      saved, now: specs that hold what ``origin`` gave. What one of them lacks is not compared.
    """
    for path, field in _FIXED.items():
        before, after = _at(saved, path), _at(now, path)
        if isinstance(before, dict) and isinstance(after, dict):
            # A field that an earlier version did not have is one that is not set.
            other = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            before, after = ({k: value.get(k) for k in other} for value in (before, after))
        if before != after and _ABSENT not in (before, after):
            raise InputError(where, f"{'.'.join(path)} was {_short(before)}, now {_short(after)}",
                             f"Give the {field} that the run started with, or another "
                             "config.workdir")


_ABSENT: Final = "(absent)"


def _at(specs: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(specs, Mapping) or key not in specs:
            return _ABSENT
        specs = specs[key]
    return json.loads(json.dumps(specs))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 120 else f"{text[:117]}..."


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
