"""Streaming packing: every example once, well filled, exact resume at every batch."""

import json

import numpy as np
import pytest
from helpers import batches

from fourd4d.core.batch import BatchShape
from fourd4d.data import FailureLimit, Reading, Shard
from fourd4d.data.packing import PackedBatches
from fourd4d.data.rows import Order, Rows

COUNT = 40
SHAPE = BatchShape(rows=3, length=100, slots=30, windows=1, overlays=12)


class Pairs:
    """(example, name) by number, in place of rows that would have to be read."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index], f"row {index}"


@pytest.fixture(scope="module")
def examples():
    lengths = np.random.default_rng(0).integers(12, 90, COUNT)
    made = [batches.make(i, length=int(n)) for i, n in enumerate(lengths)]
    for i, example in enumerate(made):
        example.tokens[:] = i + 1
    return Pairs(made)


def stream(examples, threads: int = 0, lookahead: int = 8):
    rows = Rows(Order(examples, shuffle=False), lambda pair: pair, 1, Shard(), Reading(
        threads=threads), FailureLimit(), SHAPE.rows)
    return iter(PackedBatches(rows, SHAPE, batches.PROTOCOL, lookahead))


def contents(batch) -> list[int]:
    found = []
    for tokens, segments in zip(batch.tokens, batch.segment_ids, strict=True):
        found += [int(tokens[segments == s][0]) - 1 for s in range(1, segments.max() + 1)]
    return found


def test_every_example_once_and_rows_well_filled(examples):
    batches = list(stream(examples))
    assert sorted(n for b in batches for n in contents(b)) == list(range(COUNT))
    fill = np.mean([(b.segment_ids > 0).mean() for b in batches[:-1]])
    alone = np.mean([example.length for example, _ in map(examples.__getitem__, range(COUNT))]
                    ) / SHAPE.length
    assert fill > 0.8 > alone + 0.2


def test_examples_wait_for_a_batch_or_two_at_most(examples):
    """Nothing is put off for ever: the order is disturbed by the lookahead only."""
    order = [n for b in stream(examples) for n in contents(b)]
    late = max(place - n for place, n in enumerate(order))
    assert 0 < late <= 20


@pytest.mark.parametrize("threads, lookahead", [(0, 8), (2, 3), (0, 1)])
def test_resumes_exactly_at_every_batch(examples, threads, lookahead):
    whole = [contents(b) for b in stream(examples, threads, lookahead)]
    states, iterator = [], stream(examples, threads, lookahead)
    for _ in whole:
        states.append(json.loads(json.dumps(iterator.get_state())))
        next(iterator)
    assert lookahead == 1 or any(  # Rows that wait, with others between them.
        state["waiting"] and state["rows"] - state["waiting"][0] > len(state["waiting"])
        for state in states)
    for stop, state in enumerate(states):
        fresh = stream(examples, threads, lookahead)
        fresh.set_state(state)
        assert [contents(b) for b in fresh] == whole[stop:]
        assert fresh.get_state()["waiting"] == []
