"""A split model that many calls take, hashed once."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


class Held:
    """The static part of a split model; what changes with its weights is a tuple of arrays.

    To hash an ``nnx.GraphDef`` and to flatten its state at every call takes longer than a small
    model's program.
    """

    def __init__(self, graphdef: Any, tree: Any):
        self._parts = graphdef, tree
        self._hash = hash(self._parts)

    @classmethod
    def of(cls, graphdef: Any, states: tuple[Any, ...]) -> tuple[Held, tuple[Any, ...]]:
        """Return what takes the place of ``graphdef, states``, also of such as are held already."""
        if isinstance(graphdef, cls):
            return graphdef, states
        leaves, tree = jax.tree.flatten(states)
        return cls(graphdef, tree), tuple(leaves)

    def merged(self, leaves: tuple[Any, ...]) -> Any:
        graphdef, tree = self._parts
        return nnx.merge(graphdef, *jax.tree.unflatten(tree, leaves))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Held) and self._parts == other._parts


def merged(graphdef: Any, states: tuple[Any, ...]) -> Any:
    """The model of ``graphdef, *states = nnx.split(model)``, or of ``Held.of`` these."""
    if isinstance(graphdef, Held):
        return graphdef.merged(states)
    return nnx.merge(graphdef, *states)
