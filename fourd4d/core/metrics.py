"""Metrics as (sum, weight) pairs: they add over devices, accumulation steps and hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fourd4d.core.html import table
from fourd4d.core.struct import pytree


@pytree
class Mean:
    """A mean not yet divided. ``total`` and ``weight`` are float32 scalars."""

    total: Any
    weight: Any

    @classmethod
    def of(cls, values: Any, weights: Any = None) -> Mean:
        """Mean of ``values`` under ``weights`` of the same shape (ones by default)."""
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights, jnp.float32)
        # Weightless entries may hold anything, NaN included.
        return cls(jnp.sum(jnp.where(weights == 0, 0.0, values) * weights), jnp.sum(weights))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def _repr_html_(self) -> str:
        return table([(self.value(), self.weight)], ("mean", "weight"))

    def value(self) -> Any:
        """total / weight, and 0 where there is no weight."""
        none = self.weight == 0
        return jnp.where(none, 0.0, self.total / jnp.where(none, 1.0, self.weight))


def add(left: Mapping[str, Mean], right: Mapping[str, Mean]) -> dict[str, Mean]:
    """Key by key; a key on one side only is kept."""
    out = dict(left)
    for key, mean in right.items():
        out[key] = out[key] + mean if key in out else mean
    return out


def compute(means: Mapping[str, Mean]) -> dict[str, float]:
    """Python floats, on the host."""
    return {key: float(jax.device_get(mean.value())) for key, mean in means.items()}
