"""Items, their seeds and shards, and the log."""

import json

import pytest

from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.core.sample import Sample
from fourd4d.data.source import ListSource
from fourd4d.eval.items import (
    Item,
    ItemLog,
    item_seed,
    read_items,
    read_log,
    run_seed,
    shard,
    spread,
)

HEADER = {"evaluation": {"seed": 0}, "model": "m"}
ITEMS = [Item(i, f"k{i}", kind, 4) for i, kind in enumerate("aaaabbc")]


def record(key, status="answered"):
    return {"key": key, "status": status}


def test_shards_part_the_items():
    parts = [shard(ITEMS, i, 3) for i in range(3)]
    assert sorted(sum(parts, []), key=lambda item: item.number) == ITEMS
    with pytest.raises(InputError, match="0 … shards - 1"):
        shard(ITEMS, 3, 3)


def test_shown_items_take_turns_between_types():
    assert [item.key for item in spread(ITEMS, 5)] == ["k0", "k4", "k6", "k1", "k5"]
    assert len(spread(ITEMS, 99)) == len(ITEMS)


def test_seeds_depend_on_key_and_seed_only():
    assert item_seed("k0", 0) == item_seed("k0", 0)
    seeds = {item_seed(f"k{i}", s) for i in range(100) for s in range(3)}
    assert len(seeds) == 300 and all(0 <= s < 2**31 for s in seeds)


def test_neighbouring_seeds_share_no_run():
    asked = range(-2, 20)
    assert [run_seed(seed, 0) for seed in asked] == list(asked)  # One run is what it always was.
    drawn = [item_seed("k0", run_seed(seed, run)) for seed in asked for run in range(20)]
    assert len(set(drawn)) == len(drawn)


def test_items_need_options_and_unique_ids():
    free = Sample(id="x", question="What?", video="v.mp4")
    with pytest.raises(InputError, match="samples:0: item 'x' has no options"):
        read_items(ListSource([free], "."))
    first, free, second = read_items(ListSource([Sample.fake(1), free, Sample.fake(1)], "."))
    assert not first.problem and "has no options" in free.problem and free.options == 0
    assert "stands at samples:0 too" in second.problem and second.key == "row 3"
    assert len(read_items(ListSource([Sample.fake(i) for i in range(5)], "."), limit=3)) == 3


def test_a_log_resumes_and_mends_a_half_written_line(tmp_path):
    path = tmp_path / "log.jsonl"
    with ItemLog(path, HEADER) as log:
        log.add([record("a"), record("b")])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "c", "sta')
    with ItemLog(path, HEADER) as log:
        assert sorted(log.records) == ["a", "b"]
        log.add([record("c")])
    assert path.read_bytes() == whole + b'{"key": "c", "status": "answered"}\n'
    assert sorted(read_log(path)[1]) == ["a", "b", "c"]


def test_a_full_disk_is_told_and_costs_no_record_before_it(tmp_path, file_limit):
    path = tmp_path / "log.jsonl"
    with pytest.raises(DiskFullError, match=r"log\.jsonl: no space left on the disk"):
        with ItemLog(path, HEADER) as log:
            log.add([record("a"), record("b")])
            file_limit(path.stat().st_size + 9)
            log.add([record("c")])
    file_limit(None)
    with ItemLog(path, HEADER) as log:
        assert sorted(log.records) == ["a", "b"]


def test_a_log_cut_inside_its_header_starts_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"evaluation": {"se')
    with ItemLog(path, HEADER) as log:
        assert not log.records
    assert json.loads(path.read_text()) == HEADER


def test_a_log_of_another_evaluation_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    ItemLog(path, HEADER).close()
    with pytest.raises(InputError, match=r"another evaluation \(model was 'm', is 'n'\)"):
        ItemLog(path, {**HEADER, "model": "n"})


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(InputError, match="log.jsonl:1: it is not a line of an evaluation log"):
        ItemLog(path, HEADER)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_one_writer_at_a_time(tmp_path):
    with ItemLog(tmp_path / "log.jsonl", HEADER):
        with pytest.raises(InputError, match="another process writes an evaluation log there"):
            ItemLog(tmp_path / "log.jsonl", HEADER)
    ItemLog(tmp_path / "log.jsonl", HEADER).close()


def test_failed_items_are_forgotten_on_request_only(tmp_path):
    path = tmp_path / "log.jsonl"
    with ItemLog(path, HEADER) as log:
        log.add([record("a", "failed"), record("b")])
    with ItemLog(path, HEADER) as log:
        assert sorted(log.records) == ["a", "b"]
    with ItemLog(path, HEADER, retry_failed=True) as log:
        assert sorted(log.records) == ["b"]
    assert [r["key"] for r in read_log(path)[1].values()] == ["b"]
