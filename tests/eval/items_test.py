"""Items, their seeds and shards, and the log."""

import dataclasses
import json

import pytest

from fourd4d.core import jsonl
from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.core.sample import Sample
from fourd4d.data.source import JsonlSource, ListSource
from fourd4d.eval import report
from fourd4d.eval.items import Item, ItemLog, item_seed, read_items, read_log, shard, spread

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


def test_items_need_options_and_unique_ids():
    free = Sample(id="x", question="What?", video="v.mp4")
    with pytest.raises(InputError, match="samples:0: item 'x' has no options"):
        read_items(ListSource([free], "."))
    first, second = read_items(ListSource([Sample.fake(1), Sample.fake(1)], "."))
    assert not first.problem and second.key != first.key and second.number == 1
    assert second.problem.startswith("samples:1: ") and "stands at samples:0 too" in second.problem
    assert len(read_items(ListSource([Sample.fake(i) for i in range(5)], "."), limit=3)) == 3


def test_a_row_that_cannot_be_asked_is_an_item_with_a_problem(tmp_path):
    good = jsonl.rl_row(dataclasses.replace(Sample.fake(), video="v.mp4"))
    rows = [{**good, "id": "good"}, {**good, "id": "gap", "C": " "}, {**good, "id": "good"},
            {**good, "id": "key", "Correct": "E", "type": "speed"}, "{", {**good, "id": "last"}, 7,
            {**good, "id": "token", "B": "<|latent_start|>"}]
    path = tmp_path / "q.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    source = JsonlSource(path, lenient=True)
    items = read_items(source)
    assert [(i.key, i.options, bool(i.problem)) for i in items] == [
        ("good", 4, False), ("gap", 3, True), ("good (row 3)", 4, True), ("key", 4, True),
        ("row 5", 0, True), ("last", 4, False), ("row 7", 0, True), ("token", 4, True)]
    assert items[3].kind == "speed" and items[1].problem.startswith(f"{path}:2: option C is ' '")
    assert report.digest(source, items) == report.digest(source, read_items(source))
    path.write_text(json.dumps({**good, "id": "key", "Correct": "E"}))
    with pytest.raises(InputError, match="q.jsonl:1: .*'E' is not an option's letter"):
        read_items(JsonlSource(path, lenient=True))


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
    with pytest.raises(InputError, match=r"another evaluation \(\['model'\] differ\)"):
        ItemLog(path, {**HEADER, "model": "n"})


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(InputError, match="log.jsonl:1: this is no line of an evaluation log"):
        ItemLog(path, HEADER)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_one_writer_at_a_time(tmp_path):
    with ItemLog(tmp_path / "log.jsonl", HEADER):
        with pytest.raises(InputError, match="another process writes this log"):
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
