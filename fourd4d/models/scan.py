"""Runs stacked blocks as a scan over layers, under a named rematerialisation policy."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from fourd4d.models.config import Remat

_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


_watched: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("watched", default=None)


@contextlib.contextmanager
def watching() -> Iterator[list[Any]]:
    """Lists, for every scan traced within, x after each of its blocks (a leading layers axis).

    Where x is a tree, its first array.

    The arrays belong to the function being traced, which has to return what it wants of them.
    """
    kept: list[Any] = []
    token = _watched.set(kept)
    try:
        yield kept
    finally:
        _watched.reset(token)


def checkpointed(body: Any, remat: Remat) -> Any:
    """``body`` under the policy; a scan needs no barrier against common subexpressions."""
    if remat == "none":
        return body
    return jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=False)


def scan_blocks(blocks: nnx.Module, x: Any, per_layer: tuple[Any, ...], shared: tuple[Any, ...], *,
                remat: Remat, unroll: int, outputs: bool = False) -> Any:
    """x after every block: ``x = block(x, *per_layer[i], *shared)`` for each layer i.

    Args:
      blocks: a module whose parameters have a leading layers axis.
      per_layer: trees with that axis too.
      outputs: blocks return (x, y); the stacked y come back beside x.
    """
    graphdef, state = nnx.split(blocks)
    watched = _watched.get()

    def body(x: Any, layer: Any) -> tuple[Any, Any]:
        own, values = layer
        result = nnx.merge(graphdef, own)(x, *values, *shared)
        x, y = result if outputs else (result, None)
        return x, (y, None if watched is None else jax.tree.leaves(x)[0])

    x, (stacked, every) = jax.lax.scan(
        checkpointed(body, remat), x, (state, per_layer), unroll=unroll)
    if watched is not None:
        watched.append(every)
    return (x, stacked) if outputs else x
