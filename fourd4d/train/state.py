"""Training state, born sharded, and gradients over microbatches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int

from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.core.struct import pytree
from fourd4d.parallel import DEFAULT_RULES, Rules, abstract_for, batch_axes, born_sharded
from fourd4d.parallel.sharding import shardings_for

B = TypeVar("B")
EVERYTHING = (".*",)


@pytree
class TrainState:
    """All that a step changes, and the weights it only reads.

    Attributes:
      step: updates made so far.
      params: trainable variables. ``nnx.merge(graphdef, state.params, state.frozen)`` is the model.
      frozen: the other variables; no gradient, no optimizer statistics.
      opt_state: of ``params``.
    """

    step: Int[Array, ""]
    params: Any
    frozen: Any
    opt_state: Any


def trainable_filter(patterns: Sequence[str]) -> Callable[[Any, Any], bool]:
    """An nnx filter: parameters whose path (``a/b/c``) matches one of ``patterns`` as a whole."""
    wanted = re.compile("|".join(f"(?:{p})" for p in patterns) or r"(?!)")

    def keep(path: Any, value: Any) -> bool:
        if isinstance(value, nnx.Variable) and not isinstance(value, nnx.Param):
            return False
        return wanted.fullmatch("/".join(str(part) for part in path)) is not None

    return keep


def split(tree: Any, trainable: Sequence[str] = EVERYTHING) -> tuple[Any, Any]:
    """A model's state into (params, frozen).

    Raises:
      InputError: a pattern matches no parameter.
    """
    names = ["/".join(str(part) for part in path) for path, _ in nnx.to_flat_state(tree)]
    for pattern in trainable:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise InputError("trainable parameters", f"pattern {pattern!r} matches none",
                             f"Paths look like {names[0]!r}; a pattern must match the whole path")
    params, frozen = nnx.split_state(tree, trainable_filter(trainable), ...)
    return params, frozen


def _assemble(tree: Any, tx: optax.GradientTransformation, trainable: Sequence[str]) -> TrainState:
    params, frozen = split(tree, trainable)
    return TrainState(jnp.zeros((), jnp.int32), params, frozen, tx.init(params))


def shapes(make: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    """(graphdef, state of shapes). ``nnx.eval_shape`` would take logical names for mesh axes."""
    return jax.eval_shape(lambda: nnx.split(make(nnx.Rngs(0))))


def abstract_state(
    make: Callable[[nnx.Rngs], nnx.Module],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    trainable: Sequence[str] = EVERYTHING,
) -> tuple[Any, TrainState]:
    """(graphdef, state of ``jax.ShapeDtypeStruct`` with shardings); allocates nothing."""
    graphdef, tree = shapes(make)
    state = jax.eval_shape(lambda tree: _assemble(tree, tx, trainable), tree)
    return graphdef, abstract_for(state, mesh, rules)


def create_state(
    make: Callable[[nnx.Rngs], nnx.Module],
    seed: int,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    trainable: Sequence[str] = EVERYTHING,
) -> tuple[Any, TrainState]:
    """(graphdef, freshly initialised state), every array born on its own devices.

    Args:
      make: builds the model.
      trainable: see ``split``.
    """
    graphdef, _ = shapes(make)

    def init(key: Any) -> TrainState:
        return _assemble(nnx.split(make(nnx.Rngs(key)))[1], tx, trainable)

    return graphdef, born_sharded(init, mesh, rules)(jax.random.key(seed))


def state_from(
    tree: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    trainable: Sequence[str] = EVERYTHING,
) -> TrainState:
    """A state at step 0 around weights that exist already (``nnx.state`` of a loaded model)."""
    tree = jax.device_put(tree, shardings_for(tree, mesh, rules))
    params, frozen = split(tree, trainable)
    step, opt_state = born_sharded(
        lambda p: (jnp.zeros((), jnp.int32), tx.init(p)), mesh, rules)(params)
    return TrainState(step, params, frozen, opt_state)


def microbatches(batch: B, count: int) -> B:
    """The batch with a new first axis of ``count`` microbatches.

    Row i goes to microbatch i % count, which keeps every device busy in every microbatch.

    Raises:
      InputError: rows that do not divide.
    """

    def deal(path: Any, x: Any) -> Any:
        axes = batch_axes(path, x.ndim)
        if "batch" not in axes:
            return jnp.broadcast_to(x, (count, *x.shape))
        at = axes.index("batch")
        if x.shape[at] % count:
            raise InputError(f"batch{jax.tree_util.keystr(path)}", f"{x.shape[at]} rows do not "
                             f"divide into {count} microbatches", "Change either number")
        x = x.reshape(*x.shape[:at], x.shape[at] // count, count, *x.shape[at + 1 :])
        return jnp.moveaxis(x, at + 1, 0)

    return jax.tree.map_with_path(deal, batch)


def gradients(
    loss: Callable[[Any, B], tuple[Any, Mapping[str, Mean]]],
    params: Any,
    batch: B,
    count: int = 1,
    deal: Callable[[B, int], B] = microbatches,
) -> tuple[Any, Any, dict[str, Mean]]:
    """(loss, gradients, metrics) of a batch, ``count`` microbatches one after the other.

    ``loss(params, microbatch)`` returns the microbatch's *share* of the whole loss (sums divided by
    the whole batch's weights) and its metrics; shares, gradients and metrics add up, so the result
    does not depend on ``count``. Gradients add in float32.

    Args:
      deal: puts the microbatch axis first; rows that belong together need their own.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if count == 1:
        (total, metrics), grads = value_and_grad(params, batch)
        return total, grads, dict(metrics)
    parts = deal(batch, count)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(value_and_grad, params, first)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), shapes)

    def body(carry: Any, part: B) -> tuple[Any, None]:
        out = value_and_grad(params, part)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), carry, out), None

    ((total, metrics), grads), _ = jax.lax.scan(body, zeros, parts)
    return total, grads, dict(metrics)


def apply_gradients(
    state: TrainState, grads: Any, tx: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """One update; also ``grad_norm`` (before clipping) and ``update_norm``."""
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {
        "grad_norm": Mean.of(optax.global_norm(grads)),
        "update_norm": Mean.of(optax.global_norm(updates)),
    }
    return TrainState(state.step + 1, params, state.frozen, opt_state), norms
