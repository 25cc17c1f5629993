"""Trees ↔ nested dicts of arrays: what is stored knows nothing of our classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from fourd4d.core.errors import InputError


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def flatten(tree: Any) -> dict[tuple[str, ...], Any]:
    """Leaves by path. Raises InputError when two leaves have one path."""
    flat: dict[tuple[str, ...], Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = tuple(_name(key) for key in path) or ("value",)
        if names in flat:
            raise InputError("state", f"two leaves are called {'/'.join(names)!r}",
                             "Give the containers distinct keys")
        flat[names] = leaf
    return flat


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested dicts with the leaves at their paths."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def is_key(leaf: Any) -> bool:
    """Whether the leaf is a typed random key (or its shape)."""
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def to_plain(leaf: Any) -> Any:
    """An array that can be stored: random keys as their data, Python numbers as arrays."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def to_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding as stored. Without a sharding: the first device."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    sharding: Any = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        spec = getattr(sharding, "spec", None)
        if spec is not None:  # One more axis, the words of the key, not split.
            sharding = jax.sharding.NamedSharding(
                sharding.mesh, jax.sharding.PartitionSpec(
                    *spec, *(None,) * (len(data.shape) - len(spec))))
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def from_plain(value: Any, like: Any) -> Any:
    """Inverse of ``to_plain``, for a leaf that looks ``like`` this."""
    if isinstance(like, bool | int | float):
        return type(like)(value)
    if not is_key(like):
        return value
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)),
                   jax.ShapeDtypeStruct(like.shape, like.dtype))
    return jax.random.wrap_key_data(value, impl=found[0])


def differences(wanted: Mapping[tuple[str, ...], Any],
                stored: Mapping[tuple[str, ...], Any]) -> list[str]:
    """One line for each path that is missing, unused, or of another shape. Dtypes may differ."""
    lines = []
    for path in sorted(set(wanted) | set(stored)):
        name = "/".join(path)
        if path not in stored:
            lines.append(f"{name}: missing from the checkpoint, wanted {shape(wanted[path])}")
        elif path not in wanted:
            lines.append(f"{name}: in the checkpoint {shape(stored[path])}, not wanted")
        elif tuple(stored[path].shape) != tuple(wanted[path].shape):
            lines.append(f"{name}: {shape(stored[path])} in the checkpoint, "
                         f"{shape(wanted[path])} wanted")
    return lines


def shape(leaf: Any) -> str:
    return f"({', '.join(str(n) for n in leaf.shape)})"
