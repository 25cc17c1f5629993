"""Pairs stay together: in batches, over processes, resumed, and where a row cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import data as helpers

from fourd4d import data
from fourd4d.core.errors import InputError
from fourd4d.data.pairs import PairSource
from fourd4d.data.rows import Shard

PAIRS, PROMPTS = 8, 4


def sample(number: int, pair: str = "") -> Any:
    made = helpers.sample(number, frames=3, marks=1)
    return dataclasses.replace(made, provenance={"pair": pair} if pair else {})


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    """Members of a pair far from each other, rows of no pair between them, half a pair."""
    samples = [sample(i, f"p{i}") for i in range(PAIRS)] + [sample(30), sample(31, "half")]
    samples += [sample(10 + i, f"p{i}") for i in range(PAIRS)]
    return data.open_source(helpers.write_dataset(tmp_path_factory.mktemp("data"), samples))


@pytest.fixture(scope="module")
def processor() -> Any:
    return helpers.processor()


def batches(source: Any, processor: Any, **more: Any) -> Any:
    return iter(data.prompt_pipeline(source, processor, PROMPTS, pairs=True, **more))


def names(batch: Any) -> list[str]:
    return [prompt.sample.pair for prompt in batch]


def assert_paired(batch: Any) -> None:
    found = names(batch)
    assert len(found) == PROMPTS and found[::2] == found[1::2]
    first, second = (batch[i].sample.id for i in (0, 1))
    assert first != second and len(set(found)) == PROMPTS // 2


def test_every_batch_holds_whole_pairs_and_every_pair_comes_once(source: Any, processor: Any
                                                                 ) -> None:
    epochs = list(batches(source, processor, epochs=2))
    assert len(epochs) == 2 * PAIRS * 2 // PROMPTS
    for batch in epochs:
        assert_paired(batch)
    for part in (epochs[:4], epochs[4:]):
        assert sorted(name for batch in part for name in names(batch)[::2]) == [
            f"p{i}" for i in range(PAIRS)]
    assert [names(batch) for batch in epochs[:4]] != [names(batch) for batch in epochs[4:]]


def test_processes_share_pairs_not_halves(source: Any, processor: Any) -> None:
    parts = [list(batches(source, processor, shard=Shard(i, 2))) for i in range(2)]
    assert len(parts[0]) == len(parts[1]) == 2
    for part in parts:
        for batch in part:
            assert_paired(batch)
    assert sorted(n for part in parts for batch in part for n in names(batch)[::2]) == [
        f"p{i}" for i in range(PAIRS)]


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_a_resumed_run_goes_on_with_the_next_pair(source: Any, processor: Any, shard: Shard
                                                  ) -> None:
    whole = batches(source, processor, epochs=None, shard=shard)
    straight = [names(next(whole)) for _ in range(6)]
    whole.close()
    begun = batches(source, processor, epochs=None, shard=shard)
    again = [names(next(begun)) for _ in range(3)]
    state = begun.get_state()
    begun.close()
    resumed = batches(source, processor, epochs=None, shard=shard)
    resumed.set_state(state)
    again += [names(next(resumed)) for _ in range(3)]
    resumed.close()
    assert again == straight


def test_a_row_that_cannot_be_used_takes_its_counterpart_along(source: Any, processor: Any,
                                                               tmp_path: Path) -> None:
    samples = [sample(i, f"p{i % 10}") for i in (*range(5), *range(10, 15))]
    path = helpers.write_dataset(tmp_path, samples)
    (tmp_path / samples[7].frames[1]).unlink()  # Of p2.
    left = list(batches(data.open_source(path), processor,
                        limit=data.FailureLimit(rows=1, share=0.0)))
    for batch in left:
        assert_paired(batch)
    assert sorted(name for batch in left for name in names(batch)[::2]) == ["p0", "p1", "p3", "p4"]


def test_data_without_pairs_and_odd_prompts_are_refused(source: Any, processor: Any,
                                                        tmp_path: Path) -> None:
    plain = data.open_source(helpers.write_dataset(tmp_path, [sample(i) for i in range(4)]))
    with pytest.raises(InputError, match="no two rows of the data are a pair"):
        PairSource(plain)
    with pytest.raises(InputError, match="3 prompts for a process, in pairs"):
        data.prompt_pipeline(source, processor, 3, pairs=True)
    third = helpers.write_dataset(tmp_path, [sample(i, "p") for i in range(3)], "third.jsonl")
    with pytest.raises(InputError, match=r"third\.jsonl:3: a third row of the pair 'p'"):
        PairSource(data.open_source(third))
    assert PairSource(source).where(0) == " and ".join(
        f"{source.path}:{line}" for line in (1, PAIRS + 3))
