"""4DRL on pairs: what is scored together, whose latents are fed, and a run that resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from helpers.data import processor, sample, write_files
from helpers.rl_config import tiny

from fourd4d.core import jsonl
from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import reasoned
from fourd4d.parallel import make_mesh
from fourd4d.rewards import AnswerReward, PairReward, SwapGapReward
from fourd4d.rl.__main__ import train
from fourd4d.rl.grpo import RLSpec
from fourd4d.rl.trainer import Questions, Step
from fourd4d.sampling import SamplingSpec
from fourd4d.train import TrainState

GROUP, TOKENS, LATENTS = 2, 48, 4


def paired(number: int, pair: str, answer: str) -> Any:
    return dataclasses.replace(sample(number), answer=answer, provenance={"pair": pair},
                               response="", overlays=())


def written(root: Path, samples: list[Any]) -> Path:
    for one in samples:
        write_files(root, one)
    jsonl.write(root / "rl.jsonl", [jsonl.rl_row(one) for one in samples])
    return root / "rl.jsonl"


def bare(cls: type, **fields: Any) -> Any:
    """An instance with these fields alone."""
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def step(*rewards: Any) -> Any:
    """A step that draws nothing."""
    return bare(Step, setting=SimpleNamespace(
        spec=RLSpec(group=GROUP), rewards=rewards, shape=SimpleNamespace(rows=2),
        mesh=make_mesh("single", jax.local_devices()[:1]), processor=processor(),
        sampling=SamplingSpec.of(processor().tokenizer, processor().protocol, max_tokens=TOKENS,
                                 max_latents=LATENTS)))


QUESTIONS = bare(Questions, samples=(paired(0, "x", "A"), paired(1, "x", "B")),
                 batch=bare(Batch))


def rollout(letters: str, counts: tuple[int, ...] = (2, 4, 0, 2)) -> Rollout:
    """A response to each letter; ``counts`` latents each, which tell row and number."""
    words, rows = processor().tokenizer, len(letters)
    fields = {name: np.zeros((rows, TOKENS), kind) for name, kind in (
        ("tokens", np.int32), ("mask", bool), ("sampled", bool), ("log_probs", np.float32))}
    index = np.full((rows, TOKENS), -1, np.int32)
    latents = np.zeros((rows, LATENTS, 3), np.float32)
    for row, letter in enumerate(letters):
        said = [*words.encode(reasoned("So.", letter)), words.eos]
        fields["tokens"][row, : len(said)] = said
        fields["mask"][row, : len(said)] = fields["sampled"][row, : len(said)] = True
        index[row, 1 : 1 + counts[row]] = np.arange(counts[row])
        latents[row, : counts[row]] = 10 * row + np.arange(counts[row])[:, None] + 1
    return Rollout(**fields, latents=latents, latent_index=index, truncated=np.zeros(rows, bool))


def test_both_right_is_added_to_what_each_earns() -> None:
    made = step(AnswerReward(1.0), PairReward(0.5))
    rewards, means, _ = made.score(QUESTIONS, rollout("AABA"))
    # Answers: A right, A right; B right, A wrong. Pairs: the first try of both, not the second.
    np.testing.assert_allclose(rewards, [[1.5, 1.0], [1.5, 0.0]])
    assert means["reward/pair"].value() == 0.5 and means["reward/answer"].value() == 0.75
    assert means["reward"].value() == pytest.approx(1.0)


def test_the_gap_compares_with_swapped_texts() -> None:
    made = step(SwapGapReward(2.0))
    swapped = [reasoned("So.", letter) for letter in "BABB"]
    rewards, means, _ = made.score(QUESTIONS, rollout("AABA"), swapped)
    np.testing.assert_allclose(rewards, [[2.0, 0.0], [0.0, -2.0]])
    assert means["reward/swap_gap"].value() == 0.0


def test_each_is_fed_what_its_counterpart_imagined(monkeypatch: Any) -> None:
    made, seen = step(SwapGapReward()), []

    def again(state: Any, batch: Any, number: int, fed: Any) -> Any:
        assert number == 3  # The same draws.
        seen.append(jax.device_get(fed))
        return None, rollout("BBAA")

    monkeypatch.setattr(made, "sample", again)
    said = made.swapped(bare(TrainState), QUESTIONS, rollout("AABA"), 3)
    assert said == [reasoned("So.", letter) for letter in "BBAA"]
    ((table, changed),) = seen
    # Prompt 0 has rows 0, 1; prompt 1 has 2 (no latents) and 3 (two, fed over and over).
    assert changed.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(table[1, :, 0], [31, 32, 31, 32])
    np.testing.assert_array_equal(table[2, :, 0], [1, 2, 1, 2])
    np.testing.assert_array_equal(table[3, :, 0], [11, 12, 13, 14])


def test_a_reward_of_pairs_needs_pairs(tmp_path: Path) -> None:
    samples = [paired(i, f"p{i // 2}", "AB"[i % 2]) for i in range(4)]
    data = written(tmp_path, samples)
    with pytest.raises(InputError, match="config.data.pairs: False, with a reward of pairs"):
        train(tiny(data, tmp_path / "run", **{"rewards.pair": 1.0}))


@pytest.mark.slow
def test_a_run_on_pairs_resumes(tmp_path: Path) -> None:
    samples = [paired(i, f"p{i % 6}", "AB"[i // 6]) for i in range(12)] + [paired(20, "", "A")]
    data = written(tmp_path, samples)
    changes = {"data.pairs": True, "rewards.pair": 1.0, "rewards.swap_gap": 0.5}
    whole = train(tiny(data, tmp_path / "whole", **changes))
    train(tiny(data, tmp_path / "parts", steps=2, **changes))
    parts = train(tiny(data, tmp_path / "parts", **changes))
    jax.tree.map(np.testing.assert_array_equal, parts.state, whole.state)
    logged = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"reward/pair", "reward/swap_gap"} <= set(logged)
    with pytest.raises(InputError):  # The order is another without pairs.
        train(tiny(data, tmp_path / "parts", steps=6))
