"""A model and its processor."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from fourd4d.models import ModelConfig, Thinker
from fourd4d.parallel import DEFAULT_RULES, Rules, born_sharded
from fourd4d.processing import Processor
from fourd4d.train import state as train_state

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16),
           "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class ModelBundle:
    """A model's weights and all that is needed to talk to it.

    Attributes:
      graphdef, tree: ``nnx.merge(graphdef, tree)`` is the model.
    """

    config: ModelConfig
    processor: Processor
    graphdef: Any
    tree: Any

    @property
    def model(self) -> Thinker:
        return nnx.merge(self.graphdef, self.tree)


def shapes(config: ModelConfig) -> Any:
    """(graphdef, state of shapes)."""
    return train_state.shapes(lambda rngs: Thinker(config, rngs))


def fresh_parts(config: ModelConfig, parts: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """What a new model holds where ``parts`` has leaves, born sharded; nothing for nothing."""
    names = {path for path, _ in nnx.to_flat_state(parts)}
    if not names:
        return parts
    new = born_sharded(
        lambda key: nnx.split_state(nnx.state(Thinker(config, nnx.Rngs(key))),
                                    lambda path, _: path in names, ...)[0], mesh, rules)
    return new(jax.random.key(0))
