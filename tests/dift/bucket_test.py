"""A run whose data and working directory lie in a bucket, and an evaluation of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.bucket import bucket, copy_to  # noqa: F401  (a fixture)
from helpers.dift_config import data, tiny  # noqa: F401  (a fixture)
from helpers.evaluation import benchmark

from configs import eval_heldout
from fourd4d.core.errors import InputError
from fourd4d.core.storage import as_path
from fourd4d.dift.__main__ import train
from fourd4d.eval.__main__ import evaluate


def lines(workdir: Any) -> list[dict[str, Any]]:
    timed = ("seconds_per_step", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed}
            for line in (as_path(workdir) / "metrics.jsonl").read_text().splitlines()]


def there(data: Any, workdir: str, **changes: Any) -> Any:
    config = tiny(data, Path("unused"), **changes)
    config.workdir = workdir
    return config


def test_a_bucket_that_is_not_there_ends_the_run_before_it_begins(
        bucket: str, data: Path) -> None:
    with pytest.raises(InputError, match="gs://absent/run: nothing can be written there"):
        train(there(data, "gs://absent/run"))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_local_run_stopped_and_resumed(
        bucket: str, data: Path, tmp_path: Path) -> None:
    straight = train(tiny(data, tmp_path / "here"))
    copy_to(data.parent, f"{bucket}/data")
    train(there(f"{bucket}/data/{data.name}", f"{bucket}/run", steps=2))
    outcome = train(there(f"{bucket}/data/{data.name}", f"{bucket}/run"))
    assert outcome.step == 4
    for a, b in zip(jax.tree.leaves(straight.state), jax.tree.leaves(outcome.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert lines(f"{bucket}/run") == lines(tmp_path / "here")
    assert not list(tmp_path.glob("gs:*")) and not Path("gs:").exists()

    root = tmp_path / "items"
    root.mkdir()
    benchmark(root, count=4)
    copy_to(root, f"{bucket}/items")
    results = []
    for checkpoint, folder, out in (
            (f"{tmp_path}/here/checkpoints", str(root), f"{tmp_path}/out"),
            (f"{bucket}/run/checkpoints", f"{bucket}/items", f"{bucket}/out")):
        config = eval_heldout.get_config()
        config.update(checkpoint=checkpoint, data=f"{folder}/items.jsonl", root=folder, out=out,
                      mesh="data=1")
        config.eval.update(max_tokens=12, rows=4, temperature=1.0)
        evaluate(config)
        results.append(json.loads((as_path(out) / "result.json").read_text()))
        assert (as_path(out) / "page.html").read_text().startswith("<!doctype html>")
    for part in ("overall", "by_type", "weights", "data", "mean_of_types"):
        assert results[0][part] == results[1][part]
