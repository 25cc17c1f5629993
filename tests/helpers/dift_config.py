"""A small DIFT run's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs import dift_tiny
from helpers.data import sample, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dift"), [sample(i, frames=2) for i in range(12)])


def tiny(data: Path, workdir: Path, **changes: Any) -> Any:
    config = dift_tiny.get_config()
    config.lock()
    config.update_from_flattened_dict({
        "workdir": str(workdir), "init": "", "preset": "tiny", "mesh": "data=2",
        "data.path": str(data), "batch": 4, "steps": 4, "save_every": 2, "log_every": 1,
        "eval_every": 2, "data.held_out": str(data), "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0, **changes,
    })
    return config
