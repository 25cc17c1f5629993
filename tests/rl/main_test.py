"""4DRL through its real entry point: learning to resume, to log and to refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.data import processor
from helpers.rl_config import SCORED, data, reward_by_length, tiny  # noqa: F401  (a fixture)
from ml_collections import ConfigDict

from configs import rl_3b, rl_7b, rl_32b, rl_72b, rl_qwen3, rl_tiny
from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.losses import PolicySpec
from fourd4d.parallel import make_mesh
from fourd4d.pretrained import open as opening
from fourd4d.rl.__main__ import train
from fourd4d.rl.grpo import RLSpec
from fourd4d.rl.trainer import Setting, copied, own_rows
from fourd4d.sampling import SamplingSpec, generate, row_keys

LOGGED = {
    "reward", "reward/answer", "reward/format", "truncated", "blocks", "response_length", "kl_ref",
    "clipped_low", "clipped_high", "entropy", "logp_diff_max", "logp_diff_mean", "equal_groups",
    "rollout_tokens_per_second", "response_tokens_per_second", "loss", "grad_norm",
}

DRAWN: list[Any] = []


def remembered_draws(*args: Any, **kwargs: Any) -> Any:
    """``generate``, its key kept."""
    DRAWN.append(args[3])
    return generate(*args, **kwargs)


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def rewarded(workdir: Path) -> list[dict[str, Any]]:
    """What was logged of each step."""
    return [line for line in lines(workdir) if "reward" in line]


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: Any) -> Any:
    """(workdir, outcome, ids of the samples in the order they were scored, weights at first)."""
    workdir, weights = tmp_path_factory.mktemp("straight"), []
    start_from = opening.start_from

    def remembered(*args: Any) -> Any:
        bundle = start_from(*args)
        weights.append(jax.device_get(bundle.tree))  # The step donates the originals.
        return bundle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourd4d.rl.trainer.score", reward_by_length)
        patch.setattr(opening, "start_from", remembered)
        patch.setattr("fourd4d.rl.__main__.copied", lambda params: (
            weights.append(copied(params)) or weights[-1]))
        patch.setattr("fourd4d.rl.trainer.generate", remembered_draws)
        SCORED.clear()
        DRAWN.clear()
        outcome = train(tiny(data, workdir))
    return workdir, outcome, list(SCORED), weights


def test_two_then_four_is_four(data: Path, straight: Any, tmp_path: Path, monkeypatch: Any
                               ) -> None:
    monkeypatch.setattr("fourd4d.rl.trainer.score", reward_by_length)
    train(tiny(data, tmp_path, steps=2))
    outcome = train(tiny(data, tmp_path))
    assert outcome.step == 4 and int(outcome.state.step) == 16
    jax.tree.map(np.testing.assert_array_equal, outcome.state, straight[1].state)
    timed = {"rollout_tokens_per_second", "response_tokens_per_second", "seconds_per_step"}
    pairs = list(zip(lines(tmp_path), lines(straight[0]), strict=True))
    for resumed, whole in pairs:
        assert {k: v for k, v in resumed.items() if k not in timed} == {
            k: v for k, v in whole.items() if k not in timed}
    for changes, name in (({"seed": 3}, "start"),
                          ({"init": str(tmp_path / "checkpoints"), "preset": ""}, "start")):
        with pytest.raises(InputError, match=name):
            train(tiny(data, tmp_path, steps=6, **changes))


@pytest.mark.slow  # Of the engine itself tests/sampling/engine_test.py tells the same.
def test_fewer_slots_than_responses_draw_the_same(straight: Any, data: Path, tmp_path: Path,
                                                  monkeypatch: Any) -> None:
    """Four slots on two devices for eight responses: the first step is that of all at once."""
    monkeypatch.setattr("fourd4d.rl.trainer.score", reward_by_length)
    train(tiny(data, tmp_path, steps=1, **{"rl.slots": 4}))
    mine, whole = (rewarded(folder)[0] for folder in (tmp_path, straight[0]))
    for name in ("reward", "response_length", "blocks", "truncated", "equal_groups"):
        assert mine[name] == whole[name], name
    assert mine["loss"] == pytest.approx(whole["loss"], abs=1e-4)
    with pytest.raises(InputError, match="RLSpec.slots: 3 do not divide over 2 devices"):
        train(tiny(data, tmp_path / "odd", steps=1, **{"rl.slots": 3}))


@pytest.mark.slow
def test_equal_groups_are_replaced_and_runs_go_on_exactly(data: Path, tmp_path: Path,
                                                           monkeypatch: Any) -> None:
    """Three clips in four are always answered alike: up to three rounds look for others."""
    def reward(sample: Any, text: str, rewards: Any) -> dict[str, float]:
        found = reward_by_length(sample, text, rewards)
        return found if int(sample.id[4:].split("_")[0]) % 4 == 0 else dict.fromkeys(found, 0.0)

    monkeypatch.setattr("fourd4d.rl.trainer.score", reward)
    outcomes = [train(tiny(data, tmp_path / "straight", steps=3, **{"rl.rounds": 3}))]
    train(tiny(data, tmp_path / "resumed", steps=1, **{"rl.rounds": 3}))
    outcomes.append(train(tiny(data, tmp_path / "resumed", steps=3, **{"rl.rounds": 3})))
    jax.tree.map(np.testing.assert_array_equal, *(outcome.state for outcome in outcomes))
    rows = rewarded(tmp_path / "straight")
    assert all(1 <= row["rounds"] <= 3 for row in rows)
    assert sum(row["replaced_groups"] for row in rows) > 0
    once = tiny(data, tmp_path / "once", steps=1)
    train(once)
    alone = rewarded(tmp_path / "once")[0]
    assert alone["equal_groups"] > rows[0]["equal_groups"]
    assert "rounds" not in alone


def test_every_step_is_logged(straight: Any) -> None:
    rows = rewarded(straight[0])
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert LOGGED <= row.keys(), sorted(LOGGED - row.keys())
        assert row["logp_diff_max"] < 1e-4
    assert any(row["grad_norm"] > 0 for row in rows)
    shown = [line for line in lines(straight[0]) if "response" in line]
    assert len(shown) == 4 and shown[0]["sample"].startswith("clip")


@pytest.mark.slow
def test_the_family_with_times_as_text_learns(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """What was drawn from refilled slots, after a video's positions, is recomputed the same."""
    monkeypatch.setattr("fourd4d.rl.trainer.score", reward_by_length)
    changes = {"preset": "tiny3", "steps": 2, "rl.slots": 4, "rl.pack": True, "rl.epochs": 1,
               "rl.minibatches": 1}
    assert train(tiny(data, tmp_path, **changes)).step == 2
    rows = rewarded(tmp_path)
    assert len(rows) == 2 and max(row["logp_diff_max"] for row in rows) < 1e-4
    assert any(row["grad_norm"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny3"])
def test_adapters_learn_alone(data: Path, tmp_path: Path, preset: str, monkeypatch: Any) -> None:
    """They start as nothing, the other weights stay, and the next run goes on with them."""
    monkeypatch.setattr("fourd4d.rl.trainer.score", reward_by_length)
    changes = {"rl.epochs": 1, "rl.minibatches": 1, "trainable": (r".*/lora_[ab]",)}

    def run(name: str, adapters: dict[str, int], **more: Any) -> Any:
        config = tiny(data, tmp_path / name, **changes, **more)
        with config.unlocked():
            config.model.lora = ConfigDict(adapters)
        return train(config)

    outcome = run("first", {"rank": 2}, preset=preset, steps=2)
    moved = nnx.to_flat_state(outcome.state.params)
    assert {path[-1] for path, _ in moved} == {"lora_a", "lora_b"}
    assert all(np.asarray(leaf.get_value()).any() for _, leaf in moved)
    first = rewarded(tmp_path / "first")[0]
    assert first["kl_ref"] == pytest.approx(0, abs=1e-6) and first["grad_norm"] > 0
    known = dict(nnx.to_flat_state(
        opening.fresh(preset, make_mesh("data=1"), 0, lora={"rank": 2}).tree))
    for path, leaf in nnx.to_flat_state(outcome.state.frozen):
        np.testing.assert_array_equal(leaf.get_value(), known[path].get_value(), str(path))
    begun = run("second", {}, init=str(tmp_path / "first/checkpoints"), preset="", steps=1)
    assert rewarded(tmp_path / "second")[0]["kl_ref"] == pytest.approx(0, abs=1e-6)
    assert len(nnx.to_flat_state(begun.state.params)) == len(moved)


def test_vision_stays_and_the_rest_moves(straight: Any) -> None:
    state, (first, reference) = straight[1].state, straight[3]
    frozen, vision = jax.tree.leaves(state.frozen), jax.tree.leaves(first["vision"])
    assert len(frozen) == len(vision)
    jax.tree.map(np.testing.assert_array_equal, frozen, vision)
    moved = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(reference), strict=True)]
    assert np.median(moved) > 1e-5


def test_greedy_sampling_and_odd_parts_are_refused(data: Path, tmp_path: Path) -> None:
    for changes, name in (({"sampling.temperature": 0.0}, "temperature"),
                          ({"prompts": 3}, "minibatches")):
        with pytest.raises(InputError, match=name):
            train(tiny(data, tmp_path, **changes))


def test_a_truncated_distribution_is_refused() -> None:
    words = processor()
    sampling = SamplingSpec.of(words.tokenizer, words.protocol, max_tokens=4, top_p=0.9)
    with pytest.raises(InputError, match="top_p=1: log-probs must be those of the whole softmax"):
        Setting(graphdef=None, tx=optax.sgd(1.0), reference=None, spec=RLSpec(group=2),
                policy=PolicySpec(), sampling=sampling, processor=words,
                mesh=make_mesh("single"), shape=BatchShape(4, 8, 1, 1, 0))


def test_each_process_reads_its_own_prompts(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def reads(*_: Any, shard: Any, **__: Any) -> Any:
        raise InputError("read", f"share {shard.index} of {shard.count}")

    monkeypatch.setattr(jax, "process_index", lambda *_: 1)
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    monkeypatch.setattr("fourd4d.rl.__main__.prompt_pipeline", reads)
    with pytest.raises(InputError, match="share 1 of 2"):
        train(tiny(data, tmp_path))


def test_each_process_takes_its_own_rows() -> None:
    rows = {"tokens": np.arange(12).reshape(6, 2)}
    parts = [own_rows(rows, process, 3)["tokens"] for process in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), rows["tokens"])
    assert [len(part) for part in parts] == [2, 2, 2]


def test_each_response_is_scored_with_its_sample(straight: Any) -> None:
    """Groups of two responses lie side by side, and every step has its own prompts."""
    names = np.array(straight[2]).reshape(4, 4, 2)
    assert (names[..., 0] == names[..., 1]).all()
    assert all(len(set(step)) == 4 for step in names[..., 0].tolist())
    assert len(set(names[:3, :, 0].ravel().tolist())) == 12


@pytest.mark.parametrize("module", [rl_tiny, rl_3b, rl_7b, rl_32b, rl_72b, rl_qwen3])
def test_configs_hold_the_papers_numbers(module: Any) -> None:
    config = module.get_config()
    assert config.rl.group == 8 and config.sampling.temperature == 1.0
    assert (config.rewards.answer, config.rewards.format) == (1.0, 0.2)
    if module is not rl_tiny:
        assert config.prompts == 64 and config.optimizer.learning_rate == 1e-6
        assert config.rl.old == "recomputed"


def test_a_step_draws_once_and_its_keys_differ_by_step_and_row(straight: Any) -> None:
    """Each step makes four updates from the one rollout that it draws."""
    assert len(DRAWN) == 4 and int(straight[1].state.step) == 16
    keys = np.concatenate([jax.random.key_data(row_keys(key, 8)) for key in DRAWN])
    assert len({tuple(key) for key in keys.tolist()}) == 32
