"""A small 4DRL run's config and reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs import rl_tiny
from helpers.data import sample, write_dataset

SCORED: list[str] = []
"""Ids of the samples that ``reward_by_length`` scored."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    return write_dataset(tmp_path_factory.mktemp("rl"), [sample(i, frames=2) for i in range(12)])


def tiny(data: Path, workdir: Path, **changes: Any) -> Any:
    config = rl_tiny.get_config()
    config.lock()
    config.update_from_flattened_dict({
        "workdir": str(workdir), "init": "", "preset": "tiny", "mesh": "data=2",
        "data.path": str(data), "prompts": 4, "rl.group": 2, "rl.slots": 0, "rl.minibatches": 2,
        "rl.epochs": 2,
        "sampling.max_tokens": 12, "sampling.max_latents": 4, "steps": 4, "save_every": 2,
        "show_every": 1, "optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 0,
        "policy.mask_truncated": False, **changes,
    })
    return config


def reward_by_length(sample: Any, text: str, rewards: Any) -> dict[str, float]:
    """Random models are never right; something has to differ inside a group."""
    SCORED.append(sample.id)
    value = len(text) % 5 / 5
    return {**{reward.name: value for reward in rewards}, "reward": value}
