"""Grain pipelines: order, shards, exact resume, packing, mixing."""

import itertools
import json
import pickle

import jax
import numpy as np
import pytest
from helpers import data as helpers

from fourd4d import data
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.data import pipeline
from fourd4d.data.collate import Size
from fourd4d.data.image_cache import ImageCache
from fourd4d.eval.items import read_items
from fourd4d.eval.prompts import prepare
from fourd4d.eval.spec import EvalSpec, Subject

COUNT = 7
ROWS = 2


@pytest.fixture(scope="module")
def samples():
    return [helpers.sample(i, frames=3 + i % 3, marks=1 + i % 2) for i in range(COUNT)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, samples):
    return helpers.write_dataset(tmp_path_factory.mktemp("data"), samples)


@pytest.fixture(scope="module")
def source(path):
    return data.open_source(path)


@pytest.fixture(scope="module")
def processor():
    return helpers.processor()


@pytest.fixture(scope="module")
def shape(source, processor):
    return data.measure(source, processor, ROWS, round_to=8)


def numbers(batch: Batch, processor) -> list[int]:
    """The samples of a batch, row by row, segment by segment."""
    found = []
    for tokens, segments in zip(batch.tokens, batch.segment_ids, strict=True):
        for segment in range(1, segments.max() + 1):
            text = processor.tokenizer.decode(tokens[segments == segment].tolist())
            found.append(int(text.split("Number ")[1].split(":")[0]))
    return found


def assert_equal(left: Batch, right: Batch) -> None:
    want = jax.tree.leaves(right)
    for (at, a), b in zip(jax.tree_util.tree_leaves_with_path(left), want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(at))


def drain(*args, **kwargs) -> list[Batch]:
    return list(data.dift_pipeline(*args, **kwargs))


def test_an_epoch_holds_every_row_once(source, processor, shape):
    batches = drain(source, processor, shape, remainder="pad")
    assert len(batches) == 4
    assert all(b.tokens.shape == (ROWS, shape.length) for b in batches)
    seen = [n for b in batches for n in numbers(b, processor)]
    assert sorted(seen) == list(range(COUNT)) != seen
    assert len(drain(source, processor, shape)) == COUNT // ROWS


def test_epochs_are_shuffled_apart_and_by_seed(source, processor, shape):
    def order(**kwargs):
        return [n for b in drain(source, processor, shape, **kwargs) for n in numbers(b, processor)]

    two = order(epochs=2)
    assert len(two) == 2 * COUNT and sorted(two) == sorted(2 * list(range(COUNT)))
    assert two[:COUNT] != two[COUNT:]
    assert order(epochs=2) == two
    assert order(epochs=2, seed=1) != two
    assert order(shuffle=False) == list(range(COUNT - 1))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_processes_share_an_epoch_without_overlap(source, processor, shape, count, remainder):
    parts = [drain(source, processor, shape, remainder=remainder, shard=data.Shard(i, count))
             for i in range(count)]
    assert len({len(part) for part in parts}) == 1
    seen = [n for part in parts for b in part for n in numbers(b, processor)]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (COUNT if remainder == "pad" else COUNT // (ROWS * count) * ROWS * count)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_resumed_iterators_give_the_same_batches(source, processor, shape, pack, threads):
    if pack:
        shape = BatchShape(ROWS, 2 * shape.length + 9, 2 * shape.slots + 1, shape.windows,
                           2 * shape.overlays)

    def stream():
        return iter(data.dift_pipeline(source, processor, shape, epochs=3, pack=pack,
                                       reading=data.Reading(threads=threads)))

    whole = list(stream())
    assert len(whole) >= 4
    for stop in (0, 3):
        iterator = stream()
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(iterator.get_state()))
        next(iterator)  # What the dead process drew after its checkpoint.
        fresh = stream()
        fresh.set_state(state)
        rest = list(fresh)
        assert len(rest) == len(whole) - stop
        for got, want in zip(rest, whole[stop:], strict=True):
            assert_equal(got, want)


def test_worker_processes_give_the_same_batches_and_resume(source, processor, shape):
    whole = drain(source, processor, shape, epochs=2)
    dataset = data.dift_pipeline(source, processor, shape, epochs=2,
                                 reading=data.Reading(workers=2, threads=1))
    iterator = iter(dataset)
    first = [next(iterator) for _ in range(3)]
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    resumed = iter(dataset)
    resumed.set_state(state)
    for got, want in zip(itertools.chain(first, resumed), whole, strict=True):
        assert_equal(got, want)
    resumed.close()


def test_packed_rows_hold_the_same_examples(source, processor, shape):
    wide = BatchShape(ROWS, 2 * shape.length + 9, 2 * shape.slots + 1, shape.windows,
                      2 * shape.overlays)
    packed = drain(source, processor, wide, pack=True)
    assert len(packed) < 4
    seen = [n for b in packed for n in numbers(b, processor)]
    assert sorted(seen) == list(range(COUNT))
    assert max(b.segment_ids.max() for b in packed) >= 2

    single = {numbers(b, processor)[0]: b for b in drain(source, processor, BatchShape(
        1, shape.length, shape.slots, shape.windows, shape.overlays))}
    for batch in packed:
        for row in range(ROWS):
            for segment in range(1, batch.segment_ids[row].max() + 1):
                at = batch.segment_ids[row] == segment
                text = processor.tokenizer.decode(batch.tokens[row, at].tolist())
                alone = single[int(text.split("Number ")[1].split(":")[0])]
                own = alone.segment_ids[0] == 1
                np.testing.assert_array_equal(batch.tokens[row, at], alone.tokens[0, own])
                np.testing.assert_array_equal(batch.positions[:, row, at],
                                              alone.positions[:, 0, own])
                np.testing.assert_array_equal(vision_fed(batch, row, at), vision_fed(alone, 0, own))


def vision_fed(batch: Batch, row: int, at: np.ndarray) -> np.ndarray:
    patches = batch.vision.patches[row]
    merged = patches.reshape(-1, helpers.PROTOCOL.merge**2 * patches.shape[-1])
    index = batch.vision_index[row, at]
    return merged[index[index >= 0]]


def test_packing_needs_an_endless_stream_on_several_processes(source, processor, shape):
    with pytest.raises(InputError, match="epochs=None"):
        data.dift_pipeline(source, processor, shape, pack=True, shard=data.Shard(0, 2))
    endless = iter(data.dift_pipeline(source, processor, shape, pack=True, epochs=None,
                                      shard=data.Shard(1, 2)))
    assert len([next(endless) for _ in range(12)]) == 12


def test_text_only_twin_has_the_same_rows_without_imagery(source, processor, shape):
    plain = drain(source, processor, shape, imagery=False)
    imagined = drain(source, processor, shape)
    assert (np.stack([b.latent_index for b in plain]) == -1).all()
    assert (np.stack([b.overlays.slot for b in plain]) == -1).all()
    for a, b in zip(plain, imagined, strict=True):
        assert numbers(a, processor) == numbers(b, processor)
        assert (b.latent_index >= 0).any()


def test_mixing_follows_the_weights(tmp_path, processor, shape, source):
    other = data.open_source(helpers.write_dataset(
        tmp_path, [helpers.sample(100 + i, frames=3, marks=1) for i in range(3)]))
    batches = drain([(source, 3.0), (other, 1.0)], processor, shape, epochs=4)
    seen = [n for b in batches for n in numbers(b, processor)]
    assert len(seen) == 4 * (COUNT + 3)
    share = np.mean([n >= 100 for n in seen])
    assert abs(share - 0.25) < 0.03
    parts = [drain([(source, 1.0), (other, 1.0)], processor, shape, epochs=4,
                   shard=data.Shard(i, 2)) for i in range(2)]
    for part in parts:  # Every process sees the mixture, not one source each.
        share = np.mean([n >= 100 for b in part for n in numbers(b, processor)])
        assert abs(share - 0.5) < 0.2


def test_prompts_carry_their_samples(source, processor):
    groups = list(data.prompt_pipeline(source, processor, 3, shuffle=False, remainder="pad"))
    assert [len(group) for group in groups] == [3, 3, 1]
    flat = [prompt for group in groups for prompt in group]
    for number, prompt in enumerate(flat):
        assert prompt.sample.id == f"clip{number}_dynamic_direction"
        text = processor.tokenizer.decode(prompt.example.tokens.tolist())
        assert f"Which way, {number}?" in text and "A. Left" in text
        assert "Number" not in text and not prompt.example.text_weights.any()
    iterator = iter(data.prompt_pipeline(source, processor, 3, epochs=2))
    next(iterator)
    state = iterator.get_state()
    want = [p.sample.id for p in next(iterator)]
    iterator.set_state(state)
    assert [p.sample.id for p in next(iterator)] == want


def test_every_stage_reads_a_prompt_alike(tmp_path, processor):
    """Fine-tuning, reinforcement and evaluation: the same ids, times and pixels, thinned alike."""
    path = helpers.write_dataset(tmp_path, [helpers.sample(0, frames=13, marks=1)])
    source = data.open_source(path)
    tuned = pipeline.PrepareExample(processor)(source[0])
    drawn = pipeline.PreparePrompt(processor)(source[0]).example
    (item,) = read_items(source)
    asked = prepare(source, item, Subject(None, (), processor), EvalSpec()).example
    slots = len(drawn.slots.mask)
    assert slots == helpers.PROTOCOL.max_frames // helpers.PROTOCOL.temporal_patch
    for one in (tuned, asked):
        for name in ("tokens", "positions", "vision_slot", "vision_offset"):
            np.testing.assert_array_equal(getattr(one, name)[..., : drawn.length],
                                          getattr(drawn, name))
        for name in ("patches", "coords", "mask"):
            np.testing.assert_array_equal(getattr(one.slots, name)[:slots],
                                          getattr(drawn.slots, name))
    assert asked.length == drawn.length < tuned.length


def test_records_give_the_same_batches_as_files(tmp_path, samples, source, processor, shape):
    helpers.write_records(tmp_path, samples, shards=1)
    records = data.open_source(tmp_path)
    assert len(records) == COUNT
    for got, want in zip(drain(records, processor, shape), drain(source, processor, shape),
                         strict=True):
        assert_equal(got, want)


def test_errors_name_the_row(path, source, processor, shape):
    with pytest.raises(InputError) as error:
        drain(source, processor, BatchShape(ROWS, 20, 9, 9, 9))
    assert "dift.jsonl:" in str(error.value) and "length to" in str(error.value)
    with pytest.raises(InputError, match="no full batch"):
        data.dift_pipeline(source, processor, shape, shard=data.Shard(0, 99))


def test_rows_without_response_are_no_training_data(tmp_path, processor, shape):
    value = helpers.sample(0)
    helpers.write_files(tmp_path, value)
    rows = data.ListSource([type(value)(**{**vars(value), "response": "", "overlays": ()})] * 2,
                           tmp_path)
    with pytest.raises(InputError, match="no response"):
        drain(rows, processor, shape)
    (group,) = data.prompt_pipeline(rows, processor, 2)
    assert len(group) == 2


def test_measure_looks_at_what_it_is_told(source, processor):
    whole = data.measure(source, processor, 4)
    assert whole.rows == 4 and whole.slots == 3 + 2 and whole.overlays == 2
    assert data.measure(source, processor, 4, imagery=False).overlays == 0
    assert data.measure(source, processor, 4, examples=1).length <= whole.length


@pytest.mark.parametrize("imagery", [True, False])
@pytest.mark.parametrize("changes", [{}, dict(max_frames=3), dict(min_pixels=80 * 80, window=16)])
def test_sizes_are_known_without_decoding(samples, source, tmp_path, imagery, changes):
    processor = helpers.processor(**changes)
    helpers.write_records(tmp_path, samples, shards=1)
    prepare = pipeline.PrepareExample(processor, imagery)
    for rows in (source, data.open_source(tmp_path)):
        for i in range(3):
            example = prepare(rows[i])
            assert pipeline.row_size(rows[i], processor, imagery) == Size.of(example)


def test_cached_images_change_nothing(source, processor, shape):
    plain = drain(source, processor, shape, epochs=2, reading=data.Reading(threads=0, cache_mb=0))
    cached = drain(source, processor, shape, epochs=2, reading=data.Reading(threads=2))
    for got, want in zip(cached, plain, strict=True):
        assert_equal(got, want)


def test_the_cache_stays_within_its_limit():
    cache = ImageCache(100)
    made = []

    def image(name: str, size: int = 40) -> np.ndarray:
        return cache.get(name, lambda: made.append(name) or np.zeros(size, np.uint8))

    for name in "aabacabb":
        image(name)
    assert made == ["a", "b", "c", "b"]
    image("big", 101)
    image("big", 101)
    assert made[4:] == ["big", "big"]
    with pytest.raises(ValueError, match="read-only"):
        image("b")[0] = 1
    assert pickle.loads(pickle.dumps(cache)).limit == 100
