"""The stream of rows: seeds, workers, resumed positions, rows that cannot be used."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from absl import logging
from helpers import data as helpers

from fourd4d import data
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.data import pipeline
from fourd4d.data.rows import Order, later_seed
from fourd4d.processing.processor import Processor

COUNT, ROWS = 12, 2
BAD = {1, 4, 5, 7, 8}


@pytest.fixture(scope="module")
def samples():
    return [helpers.sample(i, frames=2, marks=1) for i in range(COUNT)]


@pytest.fixture(scope="module")
def source(tmp_path_factory, samples):
    return data.open_source(helpers.write_dataset(tmp_path_factory.mktemp("rows"), samples))


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
    path.write_text("\n".join(lines) + "\n")
    return data.open_source(path, lenient=True)


@pytest.fixture(scope="module")
def processor():
    return helpers.processor()


@pytest.fixture(scope="module")
def shape(source, processor):
    return data.measure(source, processor, ROWS, round_to=8)


class Raising(Processor):
    """Raises ``error`` at the sample called ``number``."""

    def __init__(self, like: Processor, error: Exception, number: int = 3):
        super().__init__(like.tokenizer, like.protocol)
        self.error, self.number = error, number

    def example(self, text_input, *args, **kwargs):
        if f"Which way, {self.number}?" in text_input:
            raise self.error
        return super().example(text_input, *args, **kwargs)


def assert_equal(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def numbers(batches, processor) -> list[int]:
    found = []
    for batch in batches:
        for tokens, segments in zip(batch.tokens, batch.segment_ids, strict=True):
            for segment in range(1, segments.max() + 1):
                text = processor.tokenizer.decode(tokens[segments == segment].tolist())
                found.append(int(text.split("Number ")[1].split(":")[0]))
    return found


def wide(shape: BatchShape) -> BatchShape:
    return BatchShape(ROWS, 2 * shape.length + 9, 2 * shape.slots + 1, shape.windows,
                      2 * shape.overlays)


def orders(seed: int, epochs: int, count: int = 100) -> list[tuple[int, ...]]:
    rows: Any = Order(Numbered(count), seed, epochs).dataset()
    flat = [rows[i][1] for i in range(len(rows))]
    return [tuple(flat[e * count : (e + 1) * count]) for e in range(epochs)]


class Numbered:
    """A source of so many rows that nobody reads."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int):
        raise AssertionError("not read")


def test_no_two_pairs_of_seed_and_epoch_share_an_order():
    seeds = [0, 1, 2, 3, 7919, 2**31, 2**31 + 1, 2**32 - 1]
    drawn = {(seed, epoch): order for seed in seeds
             for epoch, order in enumerate(orders(seed, 4))}
    assert len(set(drawn.values())) == len(drawn) == 32
    assert all(sorted(order) == list(range(100)) for order in drawn.values())
    pairs = {(seed, later_seed(seed, epoch)) for seed in range(300) for epoch in range(1, 300)}
    assert len(pairs) == 300 * 299


def test_the_first_epoch_is_drawn_as_ever():
    """Published numbers rest on it."""
    assert orders(0, 1, 12) == [(0, 4, 10, 11, 8, 3, 1, 9, 5, 2, 6, 7)]
    assert orders(-1, 1, 12) == orders(2**32 - 1, 1, 12) != orders(0, 1, 12)


@pytest.mark.parametrize("pack", [False, True])
def test_a_run_goes_on_with_any_number_of_workers(source, processor, shape, pack):
    def stream(workers: int):
        return iter(data.dift_pipeline(
            source, processor, wide(shape) if pack else shape, epochs=3, pack=pack,
            reading=data.Reading(workers=workers, threads=1)))

    whole = list(stream(0))
    at, state = 0, stream(0).get_state()
    for workers, steps in ((1, 2), (2, 3), (4, 1), (0, 1), (2, 1)):
        steps = min(steps, len(whole) - at - 1)
        batches = stream(workers)
        batches.set_state(json.loads(json.dumps(state)))
        for batch in itertools.islice(batches, steps):
            assert_equal(batch, whole[at])
            at += 1
        state = batches.get_state()
        batches.close()
    rest = stream(0)
    rest.set_state(state)
    for batch in rest:
        assert_equal(batch, whole[at])
        at += 1
    assert at == len(whole)


@pytest.mark.parametrize("old, groups", [
    ({"next_index": 7}, 7),
    ({"iterators_in_use_states": [{"next_index": 4}, {"next_index": 3}], "exhausted": [0, 0]}, 7),
])
def test_old_positions_go_on_in_the_order_that_they_began(source, processor, shape, old, groups):
    """They counted batches of each worker, and later epochs were drawn with seed + epoch."""
    batches = iter(data.dift_pipeline(source, processor, shape, epochs=3, seed=5))
    batches.set_state(old)
    rest = numbers(itertools.islice(batches, 3), processor)
    rows: Any = Order(source, 5 + 1).dataset()  # Epoch 1 of seed 5, as it was.
    assert rest == [rows[groups * ROWS - COUNT + i][1] for i in range(3 * ROWS)]
    again = iter(data.dift_pipeline(source, processor, shape, epochs=3, seed=5))
    again.set_state(batches.get_state())
    assert_equal(next(again), next(batches))


def test_positions_that_cannot_be_are_refused(source, processor, shape):
    batches = iter(data.dift_pipeline(source, processor, shape))
    for state in ({"rows": 99, "left_out": 0, "batches": 9}, {"next_index": 99}, {"at": 3}):
        with pytest.raises(InputError, match="position"):
            batches.set_state(state)
    packed = iter(data.dift_pipeline(source, processor, wide(shape), pack=True))
    with pytest.raises(InputError, match="packed by 2 workers"):
        packed.set_state({"iterators_in_use_states": [{}, {}]})


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_left_out_named_and_counted(broken, source, processor, shape, pack, workers,
                                                 monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))

    def stream():
        return iter(data.dift_pipeline(
            broken, processor, wide(shape) if pack else shape, epochs=2, pack=pack, bad_rows=0.5,
            reading=data.Reading(workers=workers, threads=1)))

    batches, whole, states = stream(), [], []
    for batch in batches:
        whole.append(batch)
        states.append(json.loads(json.dumps(batches.get_state())))
    drawn = [n for epoch in orders(0, 2, COUNT) for n in epoch]
    order = [n for n in drawn if n not in BAD]
    assert sorted(numbers(whole, processor)) == sorted(order)
    if not pack:  # The rows after them take their places.
        assert numbers(whole, processor) == order
        passed = len(drawn) - next(i for i, n in enumerate(drawn[::-1]) if n not in BAD)
        assert data.left_out(batches) == {"rows_left_out": passed - len(order)}
    assert sorted(int(w.split("dift.jsonl:")[1].split(":")[0]) - 1 for w in warnings) == sorted(BAD)
    for words in ("missing", "length to", "malformed JSON", "overlays"):
        assert any(words in w for w in warnings), words
    for at in (0, 2) if workers else range(len(whole) - 1):
        resumed = stream()
        resumed.set_state(states[at])
        assert_equal(next(resumed), whole[at + 1])
        if not workers:
            assert len(list(resumed)) == len(whole) - at - 2
        resumed.close()


@pytest.mark.parametrize("error", [
    KeyError("key"), OSError(5, "Input/output error"), MemoryError(), RecursionError("deep"),
    StopIteration(), AssertionError("a\nb"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    InputError("elsewhere", "bad")], ids=lambda e: type(e).__name__)
def test_whatever_a_row_raises_the_others_come(source, processor, shape, error):
    raising = Raising(processor, error)
    for threads in (0, 1):
        batches = iter(data.dift_pipeline(source, raising, shape, shuffle=False,
                                          reading=data.Reading(threads=threads)))
        assert numbers(batches, processor) == [0, 1, 2, *range(4, COUNT - 1)]
        assert data.left_out(batches) == {"rows_left_out": 1}


def test_a_worker_hands_exceptions_on(source, processor, shape):
    raising = Raising(processor, ZeroDivisionError("no"))
    batches = iter(data.dift_pipeline(source, raising, shape, shuffle=False,
                                      reading=data.Reading(workers=2, threads=1)))
    assert numbers(batches, processor) == [0, 1, 2, *range(4, COUNT - 1)]
    batches.close()


def test_more_bad_rows_than_allowed_end_the_run(broken, source, processor, shape):
    with pytest.raises(InputError, match=r"first of 2 rows that cannot be used, of 12\)") as error:
        list(data.dift_pipeline(broken, processor, shape, shuffle=False))
    assert "dift.jsonl:2: " in str(error.value) and "missing" in str(error.value)
    assert "data.bad_rows (now 0.01)" in str(error.value)
    raising = Raising(processor, KeyError("x"))
    with pytest.raises(InputError, match=r"dift.jsonl:4: KeyError: 'x' \(the first of 1"):
        list(data.dift_pipeline(source, raising, shape, bad_rows=0.0))
    with pytest.raises(InputError, match="Use 0 or more, below 1"):
        data.dift_pipeline(source, processor, shape, bad_rows=1.0)


def test_every_process_yields_as_many_batches_whatever_is_left_out(broken, processor, shape):
    parts = [list(data.dift_pipeline(broken, processor, shape, bad_rows=0.9, remainder=remainder,
                                     shard=data.Shard(index, 2)))
             for remainder in ("drop", "pad") for index in range(2)]
    assert [len(part) for part in parts] == [3] * 4
    for one, two in (parts[:2], parts[2:]):
        assert sorted(numbers(one + two, processor)) == sorted(set(range(COUNT)) - BAD)


def test_rows_that_cannot_be_measured_are_left_out(broken, processor, shape):
    found = data.measure(broken, processor, ROWS, bad_rows=0.5)
    assert found.length > shape.length  # That of the long one: nothing is wrong with it by itself.
    with pytest.raises(InputError, match="dift.jsonl:2: .*missing.*the first of 2 rows"):
        data.measure(broken, processor, ROWS)

    def nothing(row: Any) -> Any:
        raise KeyError(row)

    with pytest.raises(InputError, match="not one row"):
        pipeline.sizes_of(broken, nothing, 1)


def test_prompts_that_exceed_the_shape_are_left_out(source, processor, shape):
    prompts = [p for group in data.prompt_pipeline(source, processor, 3, remainder="pad")
               for p in group]
    longest = max(p.example.length for p in prompts)
    fits = [p.sample.id for p in prompts if p.example.length < longest]
    small = dataclasses.replace(shape, length=longest - 1)
    got = [p.sample.id for group in data.prompt_pipeline(
        source, processor, 3, remainder="pad", shape=small, bad_rows=0.9) for p in group]
    assert got == fits != []


def test_a_malformed_file_is_refused_unless_lenient(broken):
    with pytest.raises(InputError, match=r"dift.jsonl:6: malformed JSON"):
        data.open_source(broken.path)
    assert len(broken) == COUNT
    with pytest.raises(InputError, match=r"dift.jsonl:6: malformed JSON"):
        broken[5]


def test_fingerprints_are_of_the_rows(tmp_path, source, samples):
    lines = source.path.read_text().splitlines()
    names = {}
    for name, changed in {
        "moved": lines, "blank": [*lines, "", " "], "lost": lines[1:], "swapped": lines[::-1],
        "edited": [lines[0].replace("so.", "no."), *lines[1:]],
    }.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(changed))
        names[name] = data.open_source(path).fingerprint()
    assert names["moved"] == names["blank"] == source.fingerprint()
    assert len(set(names.values())) == 4
    one = data.ListSource(samples, tmp_path, "one").fingerprint()
    assert one == data.ListSource(samples, tmp_path / "x", "two").fingerprint()
    assert one != data.ListSource(samples[1:], tmp_path).fingerprint()


def test_fingerprints_of_shards(tmp_path, samples):
    prints = []
    for name, chosen in (("a", samples), ("b", samples), ("c", samples[::-1])):
        helpers.write_records(tmp_path / name, chosen)
        prints.append(data.open_source(tmp_path / name).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_files_that_may_not_be_read_are_named(tmp_path, source, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(source.path), "open", refuse)
    with pytest.raises(InputError, match=r"dift.jsonl: cannot be read \(Permission denied\)"):
        data.open_source(source.path)


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


@pytest.mark.parametrize("stop, pack", [(2, "plain"), (99, "plain"), (2, "pack")])
def test_reading_processes_leave_no_shared_memory(source, tmp_path, stop, pack):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(path), str(source.path), str(stop), pack],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and done.stdout.strip() == str(min(stop, COUNT // ROWS))
    assert "leaked" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_batches_are_plain_arrays(source, processor, shape):
    batches = iter(data.dift_pipeline(source, processor, shape,
                                      reading=data.Reading(workers=1, threads=1)))
    batch: Batch = next(batches)
    assert type(batch.vision.patches) is np.ndarray
    batches.close()
