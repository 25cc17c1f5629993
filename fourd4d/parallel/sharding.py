"""Shardings of whole trees from the logical names their variables carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fourd4d.parallel.rules import DEFAULT_RULES, Rules

T = TypeVar("T")


def _is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def logical_axes(variable: nnx.Variable) -> tuple[str | None, ...] | None:
    """The names a variable was made with (``nnx.with_partitioning``), or None."""
    names = variable.get_metadata().get("out_sharding")
    return tuple(names) if names else None


def _sharding(path: Any, leaf: Any, mesh: Mesh, rules: Rules) -> Any:
    if not _is_variable(leaf):
        return NamedSharding(mesh, PartitionSpec())
    names, value = logical_axes(leaf), leaf.get_value()
    if not jax.tree.leaves(value):  # A statistic that the optimizer keeps for others only.
        return leaf
    # Optimizer statistics wear their parameter's metadata, yet some are scalars.
    if names is None or (value.ndim == 0 and len(names) > 0):
        return leaf.replace(NamedSharding(mesh, PartitionSpec()))
    where = f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}"
    spec = rules.spec(names, value.shape, dict(mesh.shape), where)
    return leaf.replace(NamedSharding(mesh, spec))


def shardings_for(tree: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """The tree with a ``NamedSharding`` in place of every array.

    Leaves inside an ``nnx.Variable`` follow its logical names; nameless ones are replicated.

    Raises:
      InputError: naming the parameter whose names or sizes do not fit the mesh.
    """
    return jax.tree.map_with_path(
        lambda path, leaf: _sharding(path, leaf, mesh, rules), tree, is_leaf=_is_variable)


def abstract_for(tree: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """The tree as ``jax.ShapeDtypeStruct`` with shardings: what a restore fills."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree, shardings_for(tree, mesh, rules))


def born_sharded(init: Callable[..., T], mesh: Mesh,
                 rules: Rules = DEFAULT_RULES) -> Callable[..., T]:
    """``init`` run so that no device ever holds more than its share of the result.

    ``init`` takes arrays and returns a tree. It runs as shapes, then compiled with
    ``out_shardings``. Its variables name logical axes, so make them with ``eager_sharding=False``.
    """

    def run(*args: Any) -> T:
        shardings = shardings_for(jax.eval_shape(init, *args), mesh, rules)
        return jax.jit(init, out_shardings=shardings)(*args)

    return run
