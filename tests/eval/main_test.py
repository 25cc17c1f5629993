"""``python -m fourd4d.eval`` from a checkpoint directory to result and page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.bundles import save_as_a_trainer
from helpers.evaluation import benchmark
from helpers.workers import coordinated

from configs import eval_heldout
from fourd4d.core.errors import InputError
from fourd4d.eval.__main__ import evaluate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_as_a_trainer(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    benchmark(root, count=6, missing=(4,))
    return root


def config_for(checkpoint, data, out, **changes):
    config = eval_heldout.get_config()
    config.checkpoint, config.out = str(checkpoint), str(out)
    config.data, config.root = str(data / "items.jsonl"), str(data)
    config.mesh = "data=1"
    config.eval.update(max_tokens=12, rows=4, temperature=1.0)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def whole(checkpoint, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return evaluate(config_for(checkpoint, data, out)), out


@pytest.mark.parametrize("preset", ["tiny", pytest.param("tiny3", marks=pytest.mark.slow)])
def test_result_and_page(preset, whole, data, tmp_path):
    result, out = whole
    if preset != "tiny":
        model, out = save_as_a_trainer(tmp_path / "model", preset), tmp_path / "out"
        result = evaluate(config_for(model, data, out))
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["overall"]["items"] == 6 and result["overall"]["failed"] == 1
    assert result["overall"]["chance"] == 0.25 and set(result["by_type"]) == {"direction", "speed"}
    assert result["versions"]["fourd4d"] and result["config"]["eval"]["max_tokens"] == 12
    page = (out / "page.html").read_text()
    assert page.count('<article class="item"') == 5 and "Items that could not be run" in page


def test_shards_give_the_result_of_one_run(whole, checkpoint, data, tmp_path):
    first = config_for(checkpoint, data, tmp_path, shards=2, shard=1)
    assert evaluate(first) is None and not (tmp_path / "result.json").exists()
    merged = evaluate(config_for(checkpoint, data, tmp_path, shards=2, shard=0))
    for part in ("overall", "by_type", "failed", "mean_of_types", "data", "weights"):
        assert merged[part] == whole[0][part]


def test_another_checkpoint_does_not_continue_the_log(whole, checkpoint, data, tmp_path):
    _, out = whole
    other = config_for(checkpoint, data, out)
    other.eval.seed = 1
    with pytest.raises(InputError, match="another evaluation"):
        evaluate(other)


@pytest.mark.parametrize("field", ["checkpoint", "data"])
def test_missing_arguments_are_named(checkpoint, data, tmp_path, field):
    config = config_for(checkpoint, data, tmp_path)
    config[field] = ""
    with pytest.raises(InputError, match=f"config.{field}"):
        evaluate(config)


def test_unknown_settings_are_named(checkpoint, data, tmp_path):
    config = config_for(checkpoint, data, tmp_path)
    with config.eval.unlocked():
        config.eval.max_token = 3
    with pytest.raises(InputError, match=r"unknown fields \['max_token'\]"):
        evaluate(config)


@pytest.mark.slow
def test_two_processes_share_the_items(checkpoint, data, whole, tmp_path):
    command = [
        sys.executable, "-m", "fourd4d.eval", f"--config={ROOT / 'configs' / 'eval_heldout.py'}",
        f"--config.checkpoint={checkpoint}", f"--config.data={data / 'items.jsonl'}",
        f"--config.root={data}", "--config.mesh=data=1", f"--config.out={tmp_path}",
        "--config.eval.rows=4", "--config.eval.max_tokens=12", "--config.eval.temperature=1.0",
    ]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for own in coordinated(2)]
    for worker in workers:
        printed, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, printed
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["overall"] == whole[0]["overall"] and result["data"] == whole[0]["data"]
    assert len(list(tmp_path.glob("items-*-of-00002.jsonl"))) == 2


def test_weights_tell_checkpoints_apart():
    from fourd4d.eval.report import weights_digest

    params = {"a": np.ones((3, 40), np.float32), "b": np.float32(2), "c": np.zeros((0, 4))}
    same = jax.tree.map(np.copy, params)
    assert weights_digest(params) == weights_digest(same)
    same["a"][0, 3] += 1e-6
    assert weights_digest(params) != weights_digest(same)
