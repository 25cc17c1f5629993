"""Dynamic sampling: groups whose rewards are all equal give their place to others.

Source: DAPO (arXiv 2503.14476), equation 11. A group of equal rewards has no advantages; a step
samples more prompts until as many groups differ as it has prompts, or until its rounds are over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from fourd4d.core.batch import Batch
from fourd4d.core.rollout import Rollout
from fourd4d.losses import informative_groups
from fourd4d.parallel.hosts import batch_axes, batch_shardings


@dataclasses.dataclass(frozen=True)
class Groups:
    """P prompts with G responses each, as sampled.

    Attributes:
      prompts: P rows.
      features: of the prompts' videos; None where they are not kept.
      rollout: P * G rows, those of a prompt side by side.
    """

    prompts: Batch
    features: Any
    rollout: Rollout


@dataclasses.dataclass(frozen=True)
class Refilled:
    """What the rounds of a step gave.

    Attributes:
      groups: as many as one round has.
      rewards: of their responses.
      rounds: how many batches of prompts were sampled.
      replaced: groups of the first round that others took the place of.
    """

    groups: Groups
    rewards: Float[np.ndarray, "P G"]
    rounds: int
    replaced: int


def differ(rewards: Float[np.ndarray, "P G"]) -> Bool[np.ndarray, "P"]:
    """Which groups have responses of different rewards."""
    return np.asarray(informative_groups(jnp.asarray(rewards)))


def choose(kept: Bool[np.ndarray, "P"], new: Bool[np.ndarray, "P"]) -> Int[np.ndarray, "P"]:
    """Which P of 2 P groups stay, given which of them differ; the kept ones come first in the 2 P.

    Groups that differ go before those that do not, earlier before later.
    """
    return np.argsort(~np.concatenate([kept, new]), kind="stable")[: len(kept)]


def refill(first: Groups, rewards: Float[np.ndarray, "P G"], rounds: int, mesh: Mesh,
           sample: Callable[[int], tuple[Groups, Float[np.ndarray, "P G"]] | None]) -> Refilled:
    """Sample further rounds while groups of equal rewards remain.

    Args:
      first, rewards: the first round, with the rewards of all hosts' responses.
      rounds: most rounds, the first among them.
      sample: another round by its number, from 1 on; None where the data has ended.
    """
    groups, done, replaced = first, 1, 0
    while done < rounds and not differ(rewards).all():
        drawn = sample(done)
        if drawn is None:
            break
        done += 1
        more, theirs = drawn
        index = choose(differ(rewards), differ(theirs))
        taken = int((index >= len(rewards)).sum())
        if taken:
            groups = _take(mesh, groups, more, index, rewards.shape[1])
            rewards = np.concatenate([rewards, theirs])[index]
            replaced += taken
    return Refilled(groups, rewards, done, replaced)


def _take(mesh: Mesh, kept: Groups, new: Groups, index: Int[np.ndarray, "P"], group: int
          ) -> Groups:
    """Groups of both by their number, placed as the kept ones are."""
    each = (index[:, None] * group + np.arange(group)).reshape(-1)  # In 2 P G responses.
    take = jax.jit(_rows, out_shardings=batch_shardings((kept.prompts, kept.features), mesh))
    prompts, features = take((kept.prompts, kept.features), (new.prompts, new.features), index)
    take = jax.jit(_rows, out_shardings=batch_shardings(kept.rollout, mesh))
    return Groups(prompts, features, take(kept.rollout, new.rollout, each))


def _rows(kept: Any, new: Any, index: Int[jax.Array, "N"]) -> Any:
    def rows(path: Any, a: Any, b: Any) -> Any:
        axes = batch_axes(path, a.ndim)
        if "batch" not in axes:
            return a
        at = axes.index("batch")
        return jnp.take(jnp.concatenate([a, b], axis=at), index, axis=at)

    return jax.tree.map_with_path(rows, kept, new)
