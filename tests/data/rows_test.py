"""The stream of rows: positions, orders of epochs, workers, rows that cannot be used."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import grain
import jax
import numpy as np
import pytest
from helpers import data as helpers

from fourd4d import data
from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.data import media, pipeline
from fourd4d.data.failures import FailureLimit
from fourd4d.data.rows import Order, epoch_seed
from fourd4d.data.source import JsonlSource

COUNT, ROWS = 12, 2
BAD = {1, 4, 5, 7, 8, 10}
MANY = FailureLimit(rows=len(BAD))


@pytest.fixture(scope="module")
def samples():
    return [helpers.sample(i, frames=2, marks=1) for i in range(COUNT)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, samples):
    return helpers.write_dataset(tmp_path_factory.mktemp("rows"), samples)


@pytest.fixture(scope="module")
def source(path):
    return data.open_source(path)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, samples):
    """As ``source``, with a fault of another kind in each row of ``BAD``."""
    root = tmp_path_factory.mktemp("broken")
    path = helpers.write_dataset(root, samples)
    lines = path.read_text().splitlines()
    (root / samples[1].frames[0]).unlink()
    (root / samples[4].overlays[0]).write_bytes(helpers.png(0)[:90])
    lines[5] = lines[5][:-9]
    lines[7] = lines[7].replace("Which way", "Which way " + "or that way " * 200)
    row = json.loads(lines[8])
    lines[8] = json.dumps(row | {"image_output": row["image_output"] * 2})
    lines[10] = lines[9]
    path.write_text("\n".join(lines) + "\n")
    return data.open_source(path, keep_bad=True)


@pytest.fixture(scope="module")
def processor():
    return helpers.processor()


@pytest.fixture(scope="module")
def shape(source, processor):
    return data.measure(source, processor, ROWS)


def wide(shape: BatchShape) -> BatchShape:
    return BatchShape(ROWS, 2 * shape.length + 9, 2 * shape.slots + 1, shape.windows,
                      2 * shape.overlays)


def batches(source, processor, shape, rows=ROWS, pack=False, workers=0, **options):
    options = {"epochs": 3, "seed": 5, "pack": pack} | options
    shape = dataclasses.replace(wide(shape) if pack else shape, rows=rows)
    return iter(data.dift_pipeline(source, processor, shape, reading=data.Reading(
        workers=workers, threads=1), **options))


def saved(stream):
    return json.loads(json.dumps(stream.get_state()))


def numbers(found, processor) -> list[int]:
    """The samples of batches, row by row, segment by segment."""
    seen = []
    for batch in found:
        for tokens, segments in zip(batch.tokens, batch.segment_ids, strict=True):
            for segment in range(1, segments.max() + 1):
                text = processor.tokenizer.decode(tokens[segments == segment].tolist())
                seen.append(int(text.split("Number ")[1].split(":")[0]))
    return seen


def assert_equal(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def orders(seed: int, epochs: int, count: int = COUNT) -> list[tuple[int, ...]]:
    rows = Order(Numbered(count), seed, epochs).dataset()
    flat: list[Any] = [rows[i] for i in range(epochs * count)]
    return [tuple(row for _, row in flat[e * count : (e + 1) * count]) for e in range(epochs)]


class Numbered:
    """A source of so many rows that nobody reads."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int):
        raise AssertionError("not read")


def test_a_position_counts_rows_whatever_the_batch(source, processor, shape):
    whole = numbers(batches(source, processor, shape), processor)
    assert whole == [n for epoch in orders(5, 3) for n in epoch]
    for first, then in ((4, 2), (4, 8), (2, 6)):
        one = batches(source, processor, shape, first)
        begun = numbers(itertools.islice(one, 3), processor)
        assert one.get_state()["rows"] == 3 * first == len(begun)
        other = batches(source, processor, shape, then)
        other.set_state(saved(one))
        rest = numbers(other, processor)
        assert begun + rest == whole[: len(begun) + len(rest)]
        assert len(whole) - len(begun) - len(rest) < then


def test_several_processes_go_on_with_their_own_batches_only(source, processor, shape):
    """Each holds rows that with other batches would be another's."""
    half = {"shard": data.Shard(1, 2)}
    one = batches(source, processor, shape, **half)
    next(one)
    state = saved(one)
    with pytest.raises(InputError, match="2 processes saved it with 2 rows each, now 3"):
        batches(source, processor, shape, 3, **half).set_state(state)
    same = batches(source, processor, shape, **half)
    same.set_state(state)
    assert_equal(next(same), next(one))


@pytest.mark.parametrize("pack", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_any_number_of_workers(source, processor, shape, pack):
    whole = list(batches(source, processor, shape, pack=pack))
    at, state = 0, saved(batches(source, processor, shape, pack=pack))
    for workers, steps in ((2, 2), (0, 1), (1, 1)):
        stream = batches(source, processor, shape, pack=pack, workers=workers)
        stream.set_state(state)
        for batch in itertools.islice(stream, steps):
            assert_equal(batch, whole[at])
            assert type(batch.vision.patches) is np.ndarray  # Not of shared memory.
            at += 1
        state = saved(stream)
        stream.close()
    rest = batches(source, processor, shape, pack=pack)
    rest.set_state(state)
    for got, want in zip(rest, whole[at:], strict=True):
        assert_equal(got, want)


# What versions before positions in rows saved after 8 batches of this data with seed 5 (with some
# workers, packed or not), and the rows they would have read next.
EARLIER = {
    "plain": ({"next_index": 8}, [[8, 9], [10, 5], [1, 4], [6, 3], [4, 11]]),
    "two workers": (
        {"next_index_in_cycle": 0, "next_index_in_datasets": 2, "iterators_in_use_indices": [0, 1],
         "iterators_in_use_states": [{"next_index": 4}, {"next_index": 4}], "exhausted": [0, 0],
         "future_states": {}}, [[8, 9], [10, 5], [1, 4], [6, 3], [4, 11]]),
    "packed": ({"parent": {"next_index": 32}, "waiting": [True] * 8},
               [[1, 5, 8, 0], [5, 3, 10, 7], [9, 1, 11, 2], [4, 8, 6, 0], [1, 6, 4, 7]]),
    "packed by a worker": (
        {"next_index_in_cycle": 0, "next_index_in_datasets": 1, "iterators_in_use_indices": [0],
         "iterators_in_use_states": [{"parent": {"next_index": 32}, "waiting": [True] * 8}],
         "exhausted": [0], "future_states": {}},
        [[1, 5, 8, 0], [5, 3, 10, 7], [9, 1, 11, 2], [4, 8, 6, 0], [1, 6, 4, 7]]),
    # These two drew epochs as now.
    "rows": ({"rows": 16, "failed": 0}, [[8, 5], [4, 10], [11, 0], [6, 3], [9, 6]]),
    "packed rows": (
        {"workers": 0, "failed": 2, "packed": {"parent": {"next_index": 32},
                                               "waiting": [True] * 8}},
        [[10, 1, 8, 4], [9, 8, 2, 6], [11, 10, 0, 7], [3, 4, 1, 5], [9, 2, 0, 10]]),
}


@pytest.mark.parametrize("name", EARLIER)
def test_positions_of_earlier_versions_go_on_in_the_order_they_began(name, source, processor,
                                                                     shape):
    state, want = EARLIER[name]
    options = {"pack": name.startswith("packed"), "epochs": None}
    stream = batches(source, processor, shape, **options)
    stream.set_state(state)
    got = [numbers([next(stream)], processor) for _ in range(3)]
    again = batches(source, processor, shape, **options)
    again.set_state(saved(stream))
    got += [numbers([next(again)], processor) for _ in range(2)]
    assert got == want
    assert again.failed == state.get("failed", 0)


def test_positions_that_cannot_be_are_refused(source, processor, shape):
    stream = batches(source, processor, shape)
    for state in ({"rows": 99, "failed": 0}, {"next_index": 99}, {"at": 3},
                  saved(batches(source, processor, shape, pack=True))):
        with pytest.raises(InputError, match="position"):
            stream.set_state(state)
    packed = batches(source, processor, shape, pack=True)
    for state in (saved(stream), {"next_index": 2}, {"rows": 4, "failed": 0}):
        with pytest.raises(InputError, match="config.data.pack"):
            packed.set_state(state)
    two = {"iterators_in_use_states": [{"parent": {"next_index": 4}, "waiting": []}] * 2}
    for state in (two, {"workers": 2, "failed": 0, "packed": two}):
        with pytest.raises(InputError, match="config.reading.workers: 2 of them packed rows"):
            packed.set_state(state)


def test_no_seed_replays_an_epoch_of_another():
    seeds = [0, 1, 2, 3, 7919, 2**31 - 1]
    drawn = {(seed, epoch): order for seed in seeds
             for epoch, order in enumerate(orders(seed, 4, 100))}
    assert len(set(drawn.values())) == len(drawn) == 24
    assert all(sorted(order) == list(range(100)) for order in drawn.values())
    assert len({epoch_seed(s, e) for s in range(300) for e in range(30)}) == 9000
    first: Any = grain.MapDataset.range(100).shuffle(seed=3)
    assert drawn[3, 0] == tuple(first[i] for i in range(100))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_left_out_named_and_counted(broken, processor, shape, pack, workers, caplog):
    def stream():
        return batches(broken, processor, shape, pack=pack, workers=workers, epochs=2, limit=MANY)

    one, whole, states = stream(), [], []
    for batch in one:
        whole.append(batch)
        states.append(saved(one))
    drawn = [n for epoch in orders(5, 2) for n in epoch]
    good = [n for n in drawn if n not in BAD]
    if pack:
        assert sorted(numbers(whole, processor)) == sorted(good)
    else:  # The rows after them take their places.
        assert numbers(whole, processor) == good
        assert all((batch.tokens.any(axis=1)).all() for batch in whole)
        passed = len(drawn) - next(i for i, n in enumerate(drawn[::-1]) if n not in BAD)
        assert one.failed == passed - len(good)
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert sorted(int(w.split("dift.jsonl:")[1].split(":")[0]) - 1 for w in warnings) == sorted(BAD)
    for words in ("missing", "length to", "malformed JSON", "overlays", "stands at line 10 too"):
        assert any(words in w for w in warnings), words
    for at in (0,) if workers else range(len(whole) - 1):
        resumed = stream()
        resumed.set_state(states[at])
        assert_equal(next(resumed), whole[at + 1])
        if not workers:
            assert len(list(resumed)) == len(whole) - at - 2
            assert resumed.failed == one.failed
        resumed.close()


def test_every_process_yields_as_many_batches_whatever_is_left_out(broken, processor, shape):
    for remainder in ("drop", "pad"):
        parts = [list(batches(broken, processor, shape, epochs=1, limit=MANY, remainder=remainder,
                              shard=data.Shard(index, 2))) for index in range(2)]
        assert [len(part) for part in parts] == [3, 3]
        assert sorted(numbers(parts[0] + parts[1], processor)) == sorted(set(range(COUNT)) - BAD)


class Strange(Exception):
    """An error that nobody thought of."""


class Panic(BaseException):
    """As Rust libraries raise, which is not an ``Exception``."""


STAGES = {
    "row": (JsonlSource, "__getitem__", lambda self, index: index == 7),
    "media": (media, "row_media", lambda row, *_, **__: ":8" in row.where),
    "example": (type(helpers.processor()), "example",
                lambda self, text, *_, **__: text.startswith("Odd")),
    "size": (pipeline, "check_size", lambda size, shape, where: ":8" in where),
}


@pytest.mark.parametrize("error", [Strange, MemoryError, KeyError, OSError, StopIteration,
                                   AssertionError, Panic])
@pytest.mark.parametrize("stage", STAGES)
def test_one_bad_row_is_left_out_and_the_rest_is_exact(path, processor, shape, tmp_path,
                                                       monkeypatch, stage, error, caplog):
    lines = path.read_text().splitlines()
    value = json.loads(lines[7])
    value["text_input"] = "Odd" + value["text_input"][3:]
    lines[7] = json.dumps(value)
    odd = tmp_path / path.name
    odd.write_text("\n".join(lines))
    for folder in path.parent.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / folder.name)
    source = data.open_source(odd)
    owner, name, concerns = STAGES[stage]
    real = getattr(owner, name)

    def planted(*args, **options):
        if concerns(*args, **options):
            raise error("planted")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, planted)
    one = batches(source, processor, shape)
    want = [n for epoch in orders(5, 3) for n in epoch if n != 7]
    assert numbers(one, processor) == want[: len(want) // ROWS * ROWS]
    assert caplog.text.count("planted") == 1 and one.failed == 3
    packed = batches(source, processor, shape, pack=True, epochs=1)
    assert sorted(numbers(packed, processor)) == sorted(set(range(COUNT)) - {7})


def test_more_bad_rows_than_allowed_end_the_run(broken, source, processor, shape, monkeypatch):
    with pytest.raises(InputError, match=r"dift.jsonl:11: 6 rows of 12 failed, this one last: .*"
                       r"max_failed_rows \(now 5\) or config.data.max_failed_share") as error:
        list(batches(broken, processor, shape, shuffle=False, limit=FailureLimit(5)))
    assert "stands at line 10 too" in str(error.value)
    # The share is of an epoch, so that a run does not end for its length.
    assert list(batches(broken, processor, shape, limit=FailureLimit(0, 0.5), epochs=3))
    for limit in (FailureLimit(0, 0.0), FailureLimit(0, 0.07)):
        with pytest.raises(InputError, match="dift.jsonl:.* failed"):
            list(batches(broken, processor, shape, limit=limit))
    assert list(batches(source, processor, shape, limit=FailureLimit(0, 0.0)))
    for bad, field in (((-1, 0.0), "max_failed_rows"), ((1, 1.0), "max_failed_share")):
        with pytest.raises(InputError, match=field):
            FailureLimit(*bad)
    monkeypatch.setattr(media, "row_media", lambda row, *_, **__: 1 / 0)  # As a wrong root.
    with pytest.raises(InputError, match="all 5 rows so far failed.*ZeroDivisionError"):
        next(batches(source, processor, shape, limit=FailureLimit(4, 0.9)))
    for epochs in (1, None):  # More may fail than there are.
        with pytest.raises(InputError, match="all 12 rows so far failed"):
            next(batches(source, processor, shape, limit=FailureLimit(99), epochs=epochs))


def test_rows_that_cannot_be_measured_are_left_out(broken, processor, shape, caplog):
    found = data.measure(broken, processor, ROWS)
    assert found.length > shape.length  # That of the long one: nothing is wrong with it by itself.
    assert "4 of 12 rows looked at cannot be used" in caplog.text
    with pytest.raises(InputError, match="dift.jsonl:2: 1 rows of 12 failed.*missing"):
        data.measure(broken, processor, ROWS, limit=FailureLimit(0, 0.0))


def test_prompts_that_exceed_the_shape_are_left_out(source, processor, shape):
    prompts = [p for group in data.prompt_pipeline(source, processor, 3) for p in group]
    longest = max(p.example.length for p in prompts)
    fits = [p.sample.id for p in prompts if p.example.length < longest]
    small = dataclasses.replace(shape, length=longest - 1)
    got = [p.sample.id for group in data.prompt_pipeline(
        source, processor, 3, remainder="pad", shape=small, limit=FailureLimit(COUNT))
        for p in group]
    assert got == fits != []


def test_a_malformed_file_is_refused_where_rows_may_not_be_lost(broken):
    with pytest.raises(InputError, match=r"dift.jsonl:6: malformed JSON"):
        data.open_source(broken.path)
    assert len(broken) == COUNT
    with pytest.raises(InputError, match=r"dift.jsonl:6: malformed JSON"):
        broken[5]


def test_fingerprints_are_of_the_rows(tmp_path, path, samples):
    lines = path.read_text().splitlines()
    names = {}
    for name, changed in {"moved": lines, "lost": lines[1:], "swapped": lines[::-1],
                          "edited": [lines[0].replace("so.", "no."), *lines[1:]]}.items():
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(changed) + "\n")
        names[name] = data.open_source(tmp_path / f"{name}.jsonl").fingerprint()
    assert names["moved"] == data.open_source(path).fingerprint()
    assert len(set(names.values())) == 4
    prints = []
    for name, chosen in (("a", samples), ("b", samples), ("c", samples[::-1])):
        helpers.write_records(tmp_path / name, chosen)
        prints.append(data.open_source(tmp_path / name).fingerprint())
    assert prints[0] == prints[1] != prints[2]


SCRIPT = """
import sys
from helpers import data as helpers
from fourd4d import data
if __name__ == "__main__":
    source, processor = data.open_source(sys.argv[1]), helpers.processor(min_pixels=96 * 96)
    shape = data.measure(source, processor, 2)
    batches = iter(data.dift_pipeline(source, processor, shape, pack=sys.argv[3] == "pack",
                                      reading=data.Reading(workers=2, threads=1)))
    for number, batch in enumerate(batches, 1):
        if number == int(sys.argv[2]):
            break
    print(number)
"""


@pytest.mark.parametrize("stop, pack", [(99, "plain"), (2, "pack")])
def test_reading_processes_leave_no_shared_memory(path, tmp_path, stop, pack):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(path), str(stop), pack],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and done.stdout.strip() == str(min(stop, COUNT // ROWS))
    assert "leaked" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_workers_with_much_at_hand_end_by_themselves(source, processor, shape):
    stream = batches(source, processor, shape, workers=2, epochs=None)
    next(stream)
    workers = [child for child in multiprocessing.active_children()
               if child.name.startswith("grain")]
    stream.close()
    assert [worker.exitcode for worker in workers] == [0, 0]  # Not killed after a wait.


@pytest.mark.parametrize("pack", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_worker_that_the_system_ends_is_told_and_the_position_holds(source, processor, shape,
                                                                      pack):
    options = {"workers": 2, "pack": pack, "epochs": None}
    stream = batches(source, processor, shape, **options)
    next(stream)
    (worker, *_) = (child for child in multiprocessing.active_children()
                    if child.name.startswith("grain"))
    os.kill(worker.pid or 0, signal.SIGKILL)
    drawn = 1
    with pytest.raises(InputError, match=r"reading: row \d+ was not read: a process that reads "
                       "ended .*config.reading.workers"):
        for _ in stream:
            drawn += 1
    again = batches(source, processor, shape, pack=pack, epochs=None)
    again.set_state(saved(stream))
    whole = batches(source, processor, shape, pack=pack, epochs=None)
    for _ in range(drawn):
        next(whole)
    assert_equal(next(again), next(whole))
