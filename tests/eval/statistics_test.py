"""Statistics against numbers worked out by hand or from the literature."""

import numpy as np
import pytest

from fourd4d.eval import statistics
from fourd4d.eval.statistics import Tally, chance_adjusted, paired_bootstrap, wilson


def record(correct=False, lenient=False, status="answered", options=4, kind="a", **more):
    return {"correct": correct, "lenient_correct": lenient, "chosen": "A" if correct else None,
            "well_formed": correct, "truncated": False, "status": status, "blocks": 2,
            "tokens": 10, "options": options, "kind": kind, **more}


def test_wilson_interval_by_hand():
    # z = 1.96: centre (p + z²/2n) / (1 + z²/n), half-width z / (1 + z²/n) sqrt(pq/n + z²/4n²).
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4) and high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 10)[0] == 0.0 and wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0) and wilson(0, 0) == (0.0, 0.0)
    low, high = wilson(400, 1000)
    assert (low, high) == pytest.approx((0.3701, 0.4307), abs=1e-4)


def test_chance_adjustment_by_hand():
    assert chance_adjusted(0.25, 0.25) == 0.0
    assert chance_adjusted(1.0, 0.25) == 1.0
    assert chance_adjusted(0.4, 0.2) == pytest.approx(0.25)
    assert chance_adjusted(0.0, 0.25) == pytest.approx(-1 / 3)


def test_chance_comes_from_each_items_own_number_of_options():
    records = [record(options=4), record(options=2), record(options=5), record(options=4)]
    chance = statistics.tally(records).summary()["chance"]
    assert chance == pytest.approx((0.25 + 0.5 + 0.2 + 0.25) / 4)


def test_failed_items_stay_in_the_denominator_and_not_in_the_means():
    failed = record(status="failed", blocks=0, tokens=0)
    summary = statistics.tally([record(True, True), record(False, True), failed, failed]).summary()
    assert summary["items"] == 4 and summary["failed"] == 2
    assert summary["accuracy"] == 0.25 and summary["lenient_accuracy"] == 0.5
    assert summary["blocks_per_answer"] == 2.0 and summary["tokens_per_answer"] == 10.0


def test_tallies_of_shards_add_up_exactly():
    rng = np.random.default_rng(0)
    records = [record(bool(rng.integers(2)), kind="ab"[i % 2], options=4) for i in range(20)]
    parts = [statistics.tally(records[i::3]) for i in range(3)]
    assert sum(parts, Tally()) == statistics.tally(records)
    by_type = statistics.tally_by_type(records)
    assert by_type["a"] + by_type["b"] == statistics.tally(records)


def test_paired_bootstrap_of_equal_and_of_constantly_better_answers():
    a = np.array([0, 1, 0, 1, 1])
    same = paired_bootstrap(a, a, draws=200)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    better = paired_bootstrap(np.zeros(6), np.ones(6), draws=200)
    assert (better.mean, better.low, better.high) == (1, 1, 1)


def test_paired_bootstrap_has_the_normal_width_on_many_items():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, 4000), rng.integers(0, 2, 4000)
    found = paired_bootstrap(a, b, draws=2000)
    half = 1.96 * np.std(b - a) / np.sqrt(4000)
    assert found.mean == pytest.approx((b - a).mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def test_grouped_questions_widen_the_interval():
    gain = np.repeat(np.random.default_rng(2).integers(-1, 2, 50), 10)
    videos = np.repeat(np.arange(50), 10).tolist()
    alone = paired_bootstrap(np.zeros(500), gain, draws=1000)
    grouped = paired_bootstrap(np.zeros(500), gain, videos, draws=1000)
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)


def test_groups_of_unequal_size_weigh_by_their_items():
    # Half the groups have nine items that gain, half have one that does not: 0.9, not 0.5.
    gain = np.concatenate([np.ones(180), np.zeros(20)])
    groups = [*np.repeat(np.arange(20), 9), *range(20, 40)]
    found = paired_bootstrap(np.zeros(200), gain, groups, draws=500)
    assert found.mean == 0.9 and 0.75 < found.low < 0.87 and 0.92 < found.high < 0.99


@pytest.mark.parametrize("a, b, groups", [([], [], None), ([1], [1, 0], None), ([1], [1], [0, 1])])
def test_paired_bootstrap_refuses_what_is_not_paired(a, b, groups):
    with pytest.raises(ValueError):
        paired_bootstrap(a, b, groups)
