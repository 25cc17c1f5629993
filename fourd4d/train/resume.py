"""What a run began with, and picking it up where it stopped."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from absl import logging

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

    What else changed since then is named in the log.

    Args:
      about: specs of this run, with its ``train.origin``.
    """
    first = checkpoints.latest() or 0
    if first:
        saved = read_specs(checkpoints.directory, first)
        check_origin(saved, about, where)
        for field, (before, after) in changes(saved, about).items():
            logging.warning("%s: from step %d on with %s %s; it was %s", where, first, field, after,
                            before)
        state = checkpoints.restore(abstract(state), batches).state
    return first, state


# What may not change when a run goes on, as it gives the weights their meaning or the rows their
# order: path in the specs, field of the command line.
_FIXED: Final[Mapping[tuple[str, ...], str]] = {
    ("trainable",): "config.trainable",
    ("model", "lora"): "config.model.lora",
    ("model", "imagery"): "config.model.imagery",
    ("model", "family"): "config.init",
    ("model", "vision"): "config.model.vision",
    ("model", "decoder"): "config.model.decoder",
    ("config", "optimizer", "name"): "config.optimizer.name",
    ("start",): "config.init (and seed)",
    ("seed",): "config.seed",
    ("data",): "config.data.path",
    ("protocol",): "config.protocol",
    ("tokenizer",): "config.tokenizer",
    ("config", "imagery"): "config.imagery",
    ("config", "data", "pack"): "config.data.pack",
    ("config", "data", "pairs"): "config.data.pairs",
    ("config", "data", "assumed_fps"): "config.data.assumed_fps",
}
# Where the position counts batches, as in earlier versions, they must stay as they were.
_BATCH: Final[Mapping[tuple[str, ...], str]] = {
    ("config", "batch"): "config.batch", ("config", "prompts"): "config.prompts"}
# Fields of the config that may change without a word: they are compared above, or the updates do
# not depend on them.
_FREE: Final = (
    "workdir", "mesh", "epochs", "log_every", "eval_every", "show_every", "save_every", "keep",
    "reading.*", "accumulate", "rl.accumulate", "data.path", "data.root", "data.held_out",
    "data.held_out_root", "data.round_to", "data.max_failed_*", "data.feature_cache*", "init",
    "preset", "seed", "trainable", "tokenizer", "protocol.*", "model.*")


def origin(params: Any, seed: int, data: str = "") -> dict[str, Any]:
    """Return what a checkpoint's specs say of the weights, draws and data its run began with.

    Args:
      data: the source's ``fingerprint``.
    """
    return {"start": fingerprint(params), "seed": seed, "position": "rows"} | (
        {"data": data} if data else {})


def check_origin(saved: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise InputError, naming the field, where a run would go on with other data or weights.

    Args:
      saved, now: specs that hold what ``origin`` gave. What one of them lacks is not compared.
    """
    fixed = _FIXED if "position" in saved else {**_FIXED, **_BATCH}
    for path, field in fixed.items():
        before, after = _at(saved, path), _at(now, path)
        if isinstance(before, dict) and isinstance(after, dict):
            # A field that an earlier version did not have is one that is not set.
            other = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            before, after = ({k: value.get(k) for k in other} for value in (before, after))
        if before != after and _ABSENT not in (before, after):
            raise InputError(where, f"{'.'.join(path)} was {_short(before)}, now {_short(after)}",
                             f"Give the {field} that the run started with, or another "
                             "config.workdir")


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Fields that differ, may do so, and steer the run: name → (before, after).

    The length of the run is one of them where the learning rate depends on it.
    """
    before, after = (_flat(specs.get("config", {})) for specs in (saved, now))
    free = _FREE if after.get("optimizer.schedule") == "cosine" else (*_FREE, "steps")
    found = {name: (before[name], after[name]) for name in sorted(set(before) & set(after))
             if before[name] != after[name] and not any(map(
                 functools.partial(fnmatch.fnmatchcase, name), free))}
    dtypes = [(specs.get("model") or {}).get("dtype") for specs in (saved, now)]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        found["model.dtype"] = dtypes[0], dtypes[1]
    return {f"config.{name}": (_short(a), _short(b)) for name, (a, b) in found.items()}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted path, as JSON holds them."""
    if not isinstance(value, Mapping):
        return {path: json.loads(json.dumps(value, default=str))}
    parts = (_flat(item, f"{path}.{key}" if path else key) for key, item in value.items())
    return {name: item for part in parts for name, item in part.items()}


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
