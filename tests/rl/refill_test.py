"""Dynamic sampling: which groups stay, and that their rows come along."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.rollout import Rollout
from fourd4d.parallel import host_to_global, make_mesh
from fourd4d.rl.refill import Groups, choose, differ, refill

MESH = make_mesh("data=1", jax.devices()[:1])


def test_groups_that_differ_come_first_and_early_ones_before_late_ones() -> None:
    yes, no = True, False
    assert choose(np.array([yes, no, yes]), np.array([yes, no, yes])).tolist() == [0, 2, 3]
    assert choose(np.array([no, no, no]), np.array([no, yes, no])).tolist() == [4, 0, 1]
    assert choose(np.array([no, no]), np.array([yes, yes])).tolist() == [2, 3]
    assert differ(np.array([[1.0, 1.0], [0.0, 1.0]])).tolist() == [False, True]


def groups(number: int) -> Groups:
    """Two prompts with two responses; tokens tell round and row."""
    batch = Batch.fake(BatchShape(2, 40, 2, 1, 1), ProtocolSpec(), seed=number)
    batch = dataclasses.replace(batch, tokens=np.zeros_like(batch.tokens) + 10 * number + np.arange(
        2, dtype=np.int32)[:, None], positions=np.zeros_like(batch.positions) + 10 * number
        + np.arange(2, dtype=np.int32)[None, :, None])
    said = Rollout.fake(4, 9, 4, 2, seed=number)
    rows = 10 * number + np.arange(4)[:, None]
    said = dataclasses.replace(said, tokens=np.zeros_like(said.tokens) + rows.astype(np.int32),
                               latents=np.zeros_like(said.latents) + rows[..., None].astype(
                                   np.float32))
    return Groups(host_to_global(batch, MESH), None, host_to_global(said, MESH))


def test_rows_of_prompts_and_responses_stay_together() -> None:
    asked: list[int] = []

    def sample_again(number: int) -> Any:
        asked.append(number)
        rewards = np.array([[1.0, 1.0], [0.0, 1.0]]) if number == 1 else np.array([[0.5, 0.0]] * 2)
        return groups(number), rewards

    found = refill(groups(0), np.array([[0.0, 0.0], [0.0, 0.5]]), 5, MESH, sample_again)
    assert asked == [1] and (found.rounds, found.replaced) == (2, 1)
    assert found.rewards.tolist() == [[0.0, 0.5], [0.0, 1.0]]
    assert np.asarray(found.groups.prompts.tokens)[:, 0].tolist() == [1, 11]
    assert np.asarray(found.groups.prompts.positions)[0, :, 0].tolist() == [1, 11]
    assert np.asarray(found.groups.rollout.tokens)[:, 0].tolist() == [2, 3, 12, 13]
    assert found.groups.rollout.latents[:, 0, 0].tolist() == [2, 3, 12, 13]


def test_rounds_are_bounded_and_data_may_end() -> None:
    equal = np.zeros((2, 2))
    found = refill(groups(0), equal, 3, MESH, lambda number: (groups(number), equal))
    assert (found.rounds, found.replaced) == (3, 0)
    assert np.asarray(found.groups.prompts.tokens)[:, 0].tolist() == [0, 1]
    assert refill(groups(0), equal, 9, MESH, lambda number: None).rounds == 1
    told = refill(groups(0), equal + [0, 1], 9, MESH, lambda number: 1 / 0)
    assert told.rounds == 1
