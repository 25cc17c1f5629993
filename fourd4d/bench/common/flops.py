"""Floating-point operations of a traced program, loops included.

XLA's own cost analysis counts the body of a loop once, whatever its trip count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *args: Any, turns: int = 1) -> float:
    """Operations of the matrix products and convolutions in ``function(*args)``.

    Arguments may be shapes. A multiply-add is two operations; of several branches the costliest
    counts; recomputation counts; kernels count what they declare.

    Args:
      turns: of a loop whose trip count depends on data.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr, turns)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [x for item in value for x in _inner(item)]
    return []


def _count(jaxpr: Any, turns: int) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(
                left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
            features = params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(out) * math.prod(kernel) / kernel[features]
        elif name == "pallas_call":
            estimate = params.get("cost_estimate")
            total += float(estimate.flops) if estimate else 0.0
        else:
            parts = [_count(j, turns) for value in params.values() for j in _inner(value)]
            if name == "scan":
                total += params["length"] * sum(parts)
            elif name == "while":
                total += turns * sum(parts)
            elif name == "cond":
                total += max(parts, default=0.0)
            elif name == "shard_map":
                total += sum(parts) * math.prod(
                    params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
            else:
                total += sum(parts)
    return total
