"""Streams: positions in rows, orders of epochs, and rows that cannot be read."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from helpers import data as helpers

from fourd4d import data
from fourd4d.core.errors import InputError
from fourd4d.data import media, pipeline, stream
from fourd4d.data.source import JsonlSource

COUNT, ROWS = 24, 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return helpers.write_dataset(tmp_path_factory.mktemp("rows"),
                                 [helpers.sample(i, frames=2) for i in range(COUNT)])


@pytest.fixture(scope="module")
def processor():
    return helpers.processor()


@pytest.fixture(scope="module")
def shape(path, processor):
    return data.measure(data.open_source(path), processor, ROWS)


def batches(path, processor, shape, rows=ROWS, **options):
    options = {"epochs": 3, "seed": 5} | options
    return iter(data.dift_pipeline(data.open_source(path), processor,
                                   dataclasses.replace(shape, rows=rows), **options))


def texts(batch):
    """Each row that holds something, as bytes."""
    return [row.tobytes() for row in np.asarray(batch.tokens) if row.any()]


def rows_of(found):
    return list(itertools.chain.from_iterable(texts(batch) for batch in found))


def test_a_position_counts_rows_whatever_the_batch(path, processor, shape):
    whole = rows_of(batches(path, processor, shape))
    assert len(whole) == 3 * COUNT
    for first, then in ((4, 2), (4, 8), (2, 6)):
        one = batches(path, processor, shape, first)
        begun = rows_of(itertools.islice(one, 3))
        assert one.get_state() == {"rows": 3 * first, "failed": 0}
        other = batches(path, processor, shape, then)
        other.set_state(json.loads(json.dumps(one.get_state())))
        rest = rows_of(other)
        assert begun + rest == whole[: len(begun) + len(rest)]
        assert len(whole) - len(begun) - len(rest) < then


@pytest.mark.parametrize("before, after", [(0, 2), (1, 2), (2, 1), (2, 0)])
def test_any_number_of_workers_goes_on(path, processor, shape, before, after):
    whole = rows_of(batches(path, processor, shape))
    one = batches(path, processor, shape, reading=data.Reading(workers=before))
    begun = rows_of(itertools.islice(one, 3))
    state = one.get_state()
    one.close()
    other = batches(path, processor, shape, reading=data.Reading(workers=after))
    other.set_state(state)
    assert begun + rows_of(other) == whole
    other.close()


def test_packed_positions_name_the_workers_that_saved_them(path, processor, shape):
    packed = {"pack": True, "epochs": None}
    one = batches(path, processor, shape, reading=data.Reading(workers=1), **packed)
    next(one)
    state = one.get_state()
    one.close()
    with pytest.raises(InputError, match="config.reading.workers: 1 saved .* now 0"):
        batches(path, processor, shape, **packed).set_state(state)
    with pytest.raises(InputError, match="config.data.pack"):
        batches(path, processor, shape).set_state(state)


def test_a_position_of_earlier_versions_is_taken(path, processor, shape):
    one = batches(path, processor, shape)
    one.set_state({"next_index": 2})
    assert rows_of(one) == rows_of(batches(path, processor, shape))[2 * ROWS:]


def test_no_seed_replays_an_epoch_of_another(path, processor, shape):
    def epoch(seed, number):
        found = rows_of(batches(path, processor, shape, seed=seed, epochs=number + 1))
        return tuple(found[number * COUNT :])

    orders = {(seed, number): epoch(seed, number) for seed in range(4) for number in range(3)}
    assert all(sorted(order) == sorted(orders[0, 0]) for order in orders.values())
    assert len(set(orders.values())) == len(orders)
    assert len({pipeline.epoch_seed(s, e) for s in range(300) for e in range(30)}) == 9000


class Strange(Exception):
    """An error that nobody thought of."""


STAGES = {
    "row": (JsonlSource, "__getitem__", lambda self, index: index == 7),
    "media": (media, "row_media", lambda row, *_, **__: ":8" in row.where),
    "example": (type(helpers.processor()), "example",
                lambda self, text, *_, **__: text.startswith("Odd")),
    "size": (pipeline, "check_size", lambda size, shape, where: ":8" in where),
}


@pytest.mark.parametrize("error", [Strange, MemoryError, KeyError, OSError])
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
    shape = data.measure(data.open_source(odd), processor, ROWS)
    whole = rows_of(batches(odd, processor, shape))
    counts = {text: whole.count(text) for text in whole}
    owner, name, concerns = STAGES[stage]
    real = getattr(owner, name)

    def planted(*args, **options):
        if concerns(*args, **options):
            raise error("planted")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, planted)
    one = batches(odd, processor, shape)
    found = rows_of(one)
    (lost,) = set(whole) - set(found)
    assert found == [text for text in whole if text != lost] and one.failed == counts[lost] == 3
    assert caplog.text.count("planted") == 3
    state = one.get_state()
    assert state == {"rows": 3 * COUNT, "failed": 3}
    packed = batches(odd, processor, shape, pack=True, epochs=1)
    assert sum(len(np.unique(row[row > 0])) for batch in packed
               for row in np.asarray(batch.segment_ids)) == COUNT - 1


def test_a_run_in_which_too_many_rows_fail_ends(path, processor, shape, monkeypatch):
    def broken(row, *args, **options):
        if int(row.where.rpartition(":")[2]) % 3 == 0:
            raise InputError(row.where, "planted", "Remedy")
        return real(row, *args, **options)

    real = media.row_media
    monkeypatch.setattr(media, "row_media", broken)
    with pytest.raises(InputError, match=r"11 of \d+ rows failed, this one last: planted. Remedy"):
        rows_of(batches(path, processor, shape, epochs=None))
    monkeypatch.setattr(media, "row_media", lambda row, *_, **__: 1 / 0)
    with pytest.raises(InputError, match="4 of 4 rows failed.*ZeroDivisionError"):
        next(batches(path, processor, shape))
    assert stream.FEW_FAILED == 10
