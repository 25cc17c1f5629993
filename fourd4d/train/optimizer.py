"""AdamW with warm-up, as in the paper; Muon for training from scratch; which parameters decay."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import optax
from flax import nnx
from optax.contrib import MuonDimensionNumbers, muon

from fourd4d.core.errors import InputError
from fourd4d.parallel.sharding import logical_axes


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """The defaults are the paper's fine-tuning.

    Attributes:
      name: ``adamw``; or ``muon`` (Jordan et al. 2024), which orthogonalises the update of every
        matrix but the vocabulary's and leaves the rest to AdamW, at one learning rate
        (arXiv 2502.16982, equation 4): a tiny model learns to see in less than half the steps.
      learning_rate: at its peak.
      warmup_steps: linear, from 0.
      schedule: ``constant`` after warm-up, or ``cosine`` down to ``final_scale`` of the peak.
      total_steps: length of the run; ``cosine`` needs it.
      final_scale: share of ``learning_rate`` that ``cosine`` ends at.
      b1, b2, eps: AdamW's.
      weight_decay: on matrices only; vectors and parameters matching ``no_decay`` are spared.
      no_decay: regular expressions, searched in the parameter's path (``a/b/c``).
      clip_norm: global gradient norm above which gradients are scaled down; 0 for never.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-5
    warmup_steps: int = 10
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int = 0
    final_scale: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = ("bias", "norm", "scale")
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise InputError("OptimizerSpec.name", f"unknown value {self.name!r}",
                             "Use 'adamw' or 'muon'")
        if self.schedule not in ("constant", "cosine"):
            raise InputError("OptimizerSpec.schedule", f"unknown value {self.schedule!r}",
                             "Use 'constant' or 'cosine'")
        if self.schedule == "cosine" and self.total_steps <= self.warmup_steps:
            raise InputError("OptimizerSpec.total_steps", f"{self.total_steps} steps with "
                             f"{self.warmup_steps} of warm-up",
                             "Cosine needs a longer run than that: give more steps, fewer "
                             "warmup_steps, or schedule 'constant'")


def learning_rate(spec: OptimizerSpec) -> optax.Schedule:
    """Step (0 is the first update) → learning rate."""
    if spec.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, spec.learning_rate, spec.warmup_steps, spec.total_steps,
            spec.learning_rate * spec.final_scale)
    if not spec.warmup_steps:
        return optax.constant_schedule(spec.learning_rate)
    return optax.linear_schedule(0.0, spec.learning_rate, spec.warmup_steps)


def decay_mask(params: Any, no_decay: tuple[str, ...]) -> Any:
    """True on parameters that decay: matrices, the axis of stacked layers not counted."""
    spared = re.compile("|".join(f"(?:{p})" for p in no_decay)) if no_decay else None

    def decays(path: Any, leaf: Any) -> Any:
        value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        names = leaf.get_metadata().get("out_sharding") if isinstance(leaf, nnx.Variable) else None
        rank = value.ndim - ("layers" in (names or ()))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        yes = rank >= 2 and not (spared and spared.search(name))
        return leaf.replace(yes) if isinstance(leaf, nnx.Variable) else yes

    return jax.tree.map_with_path(
        decays, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def matrix_sides(names: Sequence[str | None]) -> MuonDimensionNumbers | None:
    """The axes on either side of a projection with these logical axes; None if it is none.

    ``heads`` and ``head_dim`` are one side, ``layers`` counts layers, and the vocabulary's tables
    are rows of their own rather than projections.
    """
    sides: list[tuple[int, ...]] = []
    for axis, name in enumerate(names):
        if name == "head_dim" and sides:
            sides[-1] = (*sides[-1], axis)
        elif name != "layers":
            sides.append((axis,))
    return MuonDimensionNumbers(*sides) if len(sides) == 2 and "vocab" not in names else None


def _muon_sides(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.replace(matrix_sides(logical_axes(leaf) or ())), params,
                        is_leaf=lambda x: isinstance(x, nnx.Variable))


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon with decoupled decay."""
    rate = learning_rate(spec)
    if spec.name == "muon":
        rule = muon(rate, consistent_rms=0.2, weight_decay=spec.weight_decay, adam_b1=spec.b1,
                    adam_b2=spec.b2, muon_weight_dimension_numbers=_muon_sides)
    else:
        rule = optax.adamw(rate, spec.b1, spec.b2, spec.eps, weight_decay=spec.weight_decay,
                           mask=lambda params: decay_mask(params, spec.no_decay))
    return optax.chain(optax.clip_by_global_norm(spec.clip_norm), rule) if spec.clip_norm else rule
