"""The evaluation loop, with actors in place of models."""

import ast
import dataclasses
import errno
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation import PROCESSOR, PROTOCOL, RIGHT, SPEC, actor, benchmark

import fourd4d
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.media import row_media
from fourd4d.data.source import JsonlSource, open_source
from fourd4d.eval import heatmaps, prompts, report, runner
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import ItemLog, read_items, shard
from fourd4d.eval.runner import evaluate, run
from fourd4d.eval.spec import EvalSpec
from fourd4d.processing import Processor
from fourd4d.sampling import interventions

HEADER = {"evaluation": SPEC.answers_json()}


@pytest.fixture(scope="module")
def right():
    return actor(RIGHT)


def answers(subject, source, items, spec=SPEC, log=None, **options):
    log = log or ItemLog(None, {})
    list(run(subject, source, items, spec, log, **options))
    return log.records


def test_records_tell_what_was_said(tmp_path, right):
    source = benchmark(tmp_path)
    items = read_items(source)
    records = answers(right, source, items)
    assert sorted(records) == sorted(item.key for item in items)
    assert [records[i.key]["correct"] for i in items] == [False, True, False, False] * 2
    first = records[items[1].key]
    assert first["response"] == RIGHT and first["chosen"] == first["lenient"] == "B"
    assert first["well_formed"] and not first["truncated"] and first["blocks"] == 2
    summary = report.summarise(items, records)
    assert summary["overall"]["accuracy"] == 0.25 and summary["overall"]["items"] == 8
    assert summary["by_type"]["speed"]["accuracy"] == 0.5
    assert summary["mean_of_types"] == 0.25
    named = dict(evaluate(right, source, items, SPEC))
    assert named["accuracy"] == 0.25 and named["accuracy/direction"] == 0.0


def test_resumed_after_a_kill_equals_uninterrupted(tmp_path, right):
    source = benchmark(tmp_path)
    items = read_items(source)
    whole = answers(right, source, items)
    path = tmp_path / "log.jsonl"
    with ItemLog(path, HEADER) as log:
        started = run(right, source, items, SPEC, log)
        next(started)
        started.close()
        assert len(log.records) == SPEC.rows
    with path.open("ab") as file:
        file.write(b'{"key": "clip7_dyn')
    with ItemLog(path, HEADER) as log:
        assert answers(right, source, items, log=log) == whole
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + len(items)
    with ItemLog(path, HEADER) as log:
        assert list(run(right, source, items, SPEC, log)) == []


def test_items_that_cannot_be_run_are_listed_and_wrong(tmp_path, right):
    source = benchmark(tmp_path, missing=(1, 2))
    items = read_items(source)
    records = answers(right, source, items)
    summary = report.summarise(items, records)
    assert summary["overall"]["items"] == 8 and summary["overall"]["failed"] == 2
    assert summary["overall"]["accuracy"] == 1 / 8
    assert [f["key"] for f in summary["failed"]] == [items[1].key, items[2].key]
    assert "clip1/1.png" in summary["failed"][0]["reason"]


def test_frames_without_times_fail_unless_a_rate_is_stated(tmp_path, right):
    source = benchmark(tmp_path, count=2)
    items = read_items(source)

    class Timeless:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            row = source[index]
            return dataclasses.replace(row, sample=dataclasses.replace(row.sample, timestamps=()))

    failed = answers(right, Timeless(), items)
    assert len(failed) == len(items)
    assert all("without timestamps" in r["reason"] for r in failed.values())
    stated = answers(right, Timeless(), items, dataclasses.replace(SPEC, assumed_fps=2.0))
    assert stated == answers(right, source, items)


@pytest.mark.parametrize("response", ["", "<think>Based on all Four", "Could be. Doubtful."])
def test_a_model_that_never_answers_scores_zero(tmp_path, response):
    source = benchmark(tmp_path, count=4)
    items = read_items(source)
    overall = report.summarise(items, answers(actor(response), source, items))["overall"]
    assert overall["accuracy"] == overall["lenient_accuracy"] == overall["answered_share"] == 0
    assert overall["chance_adjusted"] < 0


def test_seeds_do_not_depend_on_batches_or_order(tmp_path):
    source = benchmark(tmp_path, count=5)
    items = read_items(source)
    talker = actor(None)
    spec = dataclasses.replace(SPEC, temperature=1.0, max_tokens=12)
    one = answers(talker, source, items, spec)
    other = answers(talker, source, items[::-1],
                    dataclasses.replace(spec, rows=2, workers=3, lookahead=1))
    assert one == other
    assert len({r["response"] for r in one.values()}) == len(items)
    reseeded = answers(talker, source, items, dataclasses.replace(spec, seed=1))
    assert all(reseeded[k]["response"] != one[k]["response"] for k in one)


def test_shards_merge_exactly(tmp_path, right):
    source = benchmark(tmp_path, missing=(3,))
    items = read_items(source)
    merged = {}
    for index in range(3):
        merged |= answers(right, source, shard(items, index, 3))
    whole = answers(right, source, items)
    assert report.summarise(items, merged) == report.summarise(items, whole)
    del merged[items[4].key]
    with pytest.raises(InputError, match="1 of 8 items have no record"):
        report.summarise(items, merged)


def test_sharded_over_devices_equals_one_device(tmp_path, right, devices):
    from fourd4d.parallel import make_mesh

    source = benchmark(tmp_path, count=5)
    items = read_items(source)
    mesh = make_mesh("data=4", devices)
    spread = dataclasses.replace(right, mesh=mesh)
    spec = dataclasses.replace(SPEC, rows=4)
    assert answers(spread, source, items, spec) == answers(right, source, items)


def test_stored_maps_are_the_cosines_with_the_videos_own_features(tmp_path, right):
    source = benchmark(tmp_path, count=2)
    items = read_items(source)
    store = MapStore(tmp_path / "maps")
    answers(right, source, items, maps=store, keep={items[1].key})
    assert store.load(items[0].key) == []
    maps = store.load(items[1].key)
    assert [m.shape for m in maps] == [(2, 2, 2, 2, 4)] * 2

    # By hand: frames are resized to 16 x 32, patches are of 4; a merged token sees 8 x 8 pixels of
    # two frames, and the actor's features are its mean colours.
    (video,), _ = row_media(source[1], PROTOCOL)
    example = PROCESSOR.prompt(Sample.fake().text_input, [video])
    patches = example.slots.patches.reshape(*example.slots.patches.shape[:3], 3, 2, 4, 4)
    colours = np.zeros((2, 2, 4, 3))
    for f, w, m in zip(*np.nonzero(example.slots.mask), strict=True):
        row, column = example.slots.coords[f, w, m] // 2
        colours[f, row, column] += patches[f, w, m].mean((1, 2, 3)) / 4
    features = np.concatenate([colours, 1 - colours], -1)
    start = int(example.positions.max()) + 1
    prefix = len(PROCESSOR.tokenizer.encode("<think>It moves "))
    latent = np.array([start + prefix, 1, 0, 0, 0, 0.0])  # The hidden state at the start token.
    cosine = features @ latent / np.linalg.norm(features, axis=-1) / np.linalg.norm(latent)
    np.testing.assert_allclose(maps[0][0, 0], cosine, atol=2e-3)
    middle = features.mean((0, 1, 2))
    features, latent = features - middle, latent - middle
    cosine = features @ latent / np.linalg.norm(features, axis=-1) / np.linalg.norm(latent)
    np.testing.assert_allclose(maps[0][1, 0], cosine, atol=2e-3)


def test_maps_leave_out_what_deepstack_adds(tmp_path, right, monkeypatch):
    source = benchmark(tmp_path, count=1)
    items, keys = read_items(source), {read_items(source)[0].key}
    plain, store = MapStore(tmp_path / "plain"), runner._store_maps
    answers(right, source, items, maps=plain, keep=keys)
    monkeypatch.setattr(runner, "_store_maps", lambda subject, features, *rest: store(
        subject, np.concatenate([features, 1 + features], -1), *rest))
    wide = MapStore(tmp_path / "wide")
    answers(right, source, items, maps=wide, keep=keys)
    stored = plain.load(items[0].key)
    assert len(stored) == 2 and all(np.ptp(m) > 0 for m in stored)
    for a, b in zip(stored, wide.load(items[0].key), strict=True):
        np.testing.assert_array_equal(a, b)


def test_interventions_reach_the_latents(tmp_path, right):
    source = benchmark(tmp_path, count=2)
    items = read_items(source)
    store = MapStore(tmp_path / "maps")
    answers(right, source, items, maps=store, keep={items[0].key})
    own = store.load(items[0].key)
    assert own and all(np.any(m[0] != 0) for m in own)
    answers(right, source, items, maps=store, keep={items[0].key},
            intervene=interventions.zero)
    zero = store.load(items[0].key)
    assert len(zero) == len(own) and all(np.all(m[0] == 0) for m in zero)


def test_window_order_is_undone():
    video = np.zeros((2, 40, 56, 3), np.uint8)
    from fourd4d.core.protocol import ProtocolSpec
    from fourd4d.processing.media import Video
    from fourd4d.processing.processor import Processor

    protocol = ProtocolSpec(patch_size=4, window=16, min_pixels=256, max_pixels=40 * 56)
    example = Processor(PROCESSOR.tokenizer, protocol).prompt("Q", [Video(video, np.arange(2.0))])
    rows, columns = heatmaps.slot_grid(example, 0, 2)
    assert (rows, columns) == (5, 7)
    first = example.slots.coords[0].reshape(-1, 4, 2)[:, 0] // 2  # Of each merged token.
    features = first[None].astype(np.float32)
    raster = heatmaps.raster_features(features, example, 0, 2)
    expected = np.stack(np.meshgrid(np.arange(5), np.arange(7), indexing="ij"), -1)
    np.testing.assert_array_equal(raster, expected)


def test_options_are_text_and_nothing_more(tmp_path, right):
    mark = tmp_path / "ran"
    evil = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    source = benchmark(tmp_path, count=2)

    class Evil:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            row = source[index]
            options = ("Left", evil, "[1, 2]", "Down")
            return dataclasses.replace(row, sample=dataclasses.replace(row.sample, options=options))

    records = answers(right, Evil(), read_items(Evil()))
    assert len(records) == 2 and not mark.exists()


def test_no_module_evaluates_text_or_unpickles():
    banned = {"eval", "exec", "literal_eval"}
    for path in Path(fourd4d.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned, f"{path}:{node.lineno} calls {node.func.id}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "cloudpickle"}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("field", ["rows", "length_step", "workers"])
def test_bad_settings_are_named(field):
    with pytest.raises(InputError, match=f"EvalSpec.{field}"):
        EvalSpec(**{field: 0})


class Strange(Exception):
    """An error that nobody thought of."""


STAGES = {  # What is called at a stage, and whether a call is about the item ``key``.
    "reading": (JsonlSource, "__getitem__", lambda key, source, index: index == 4),
    "media": (prompts, "row_media", lambda key, row, *_, **__: row.sample.id == key),
    "prompt": (Processor, "prompt", lambda key, self, text, media: "odd one" in text),
    "decoding": (runner, "collate",
                 lambda key, *_, names, **__: f"item {key!r}" in names),
    "text": (runner, "texts", lambda key, *_: next(COUNT) == 2),
    "scoring": (runner, "score", lambda key, sample, text: sample.id == key),
    "heat maps": (runner, "_store_maps", lambda key, subject, features, one,
                  *_: one.item.key == key),
}
COUNT = itertools.count()


@pytest.mark.parametrize("error", [Strange, MemoryError, KeyError, OSError, RecursionError])
@pytest.mark.parametrize("stage", STAGES)
def test_what_one_item_raises_fails_that_item_alone(tmp_path, right, monkeypatch, stage, error):
    source = benchmark(tmp_path)
    lines = source.path.read_text().splitlines()
    lines[4] = lines[4].replace("Which way", "The odd one: which way")
    source.path.write_text("\n".join(lines))
    source = JsonlSource(source.path)
    items = read_items(source)
    kept = {"maps": MapStore(tmp_path / "maps"), "keep": {item.key for item in items}}
    whole = answers(right, source, items, **kept)
    owner, name, concerns = STAGES[stage]
    real = getattr(owner, name)
    monkeypatch.setattr(sys.modules[__name__], "COUNT", itertools.count())

    def planted(*args, **options):
        if concerns(items[4].key, *args, **options):
            raise error("planted")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, planted)
    found = answers(right, source, items, **kept)
    (failed,) = [record for record in found.values() if record["status"] == "failed"]
    assert failed["reason"].startswith(f"{stage}: ") and "planted" in failed["reason"]
    assert report.summarise(items, found)["overall"]["items"] == 8
    del found[failed["key"]], whole[failed["key"]]
    assert found == whole


def test_a_full_disk_is_nobodys_fault(tmp_path, right, monkeypatch):
    source = benchmark(tmp_path)
    items = read_items(source)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "_store_maps", full)
    with pytest.raises(OSError, match="No space"):
        answers(right, source, items, maps=MapStore(tmp_path), keep={items[0].key})


def test_long_prompts_come_fewer_together_and_too_long_ones_fail(tmp_path, right, monkeypatch):
    source = benchmark(tmp_path)
    lines = source.path.read_text().splitlines()
    for number, words in ((1, 300), (5, 3000)):
        lines[number] = lines[number].replace("Which way", "up " * words + "which way")
    source.path.write_text("\n".join(lines))
    source = JsonlSource(source.path)
    items = read_items(source)
    shapes = []
    real = runner.collate

    def watched(examples, shape, *args, **options):
        shapes.append((shape.rows, shape.length))
        return real(examples, shape, *args, **options)

    monkeypatch.setattr(runner, "collate", watched)
    spec = dataclasses.replace(SPEC, rows=4, batch_tokens=1024, max_length=1000)
    found = answers(right, source, items, spec)
    assert max(length for _, length in shapes) > 300
    assert all(rows * length <= 1024 for rows, length in shapes)
    (failed,) = [record for record in found.values() if record["status"] == "failed"]
    assert failed["key"] == items[5].key and "--config.eval.max_length" in failed["reason"]


def test_options_of_published_benchmarks_are_read_or_fail_alone(tmp_path):
    rows = [
        {}, {"C": "Left"}, {"C": ""}, {"Correct": "b"}, {"Correct": "B. Right"},
            {"Correct": "Right"},
        {"A": 1, "B": 2.5, "C": 3, "D": 4}, {"Correct": "E"}, {"Correct": None}, {"C": {"x": 1}},
        {"E": "In", "F": "Out", "G": "On", "H": "Off", "I": "By", "J": "At", "Correct": "J"},
        {"C": None, "D": None}, {"Question": 7}, {"id": "q0"},
        dict.fromkeys("ABCD"), {"A": "A.", "B": "B. Right", "C": "C. Up", "D": "D. Down"},
    ]
    base = dict(frame_paths=["a.png"], Question="Which way?", A="Left", B="Right", C="Up",
                D="Down", Correct="B")
    lines = [json.dumps({**base, "id": f"q{i}", **row}) for i, row in enumerate(rows)]
    lines += ["[1]", "{", '{"id": "deep", "x": ' + "[" * 50_000,
              '{"id": "q1e", "A": 1' + "0" * 400 + "}"]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    items = read_items(open_source(tmp_path / "q.jsonl", keep_bad=True))
    good = {item.number: item.options for item in items if not item.problem}
    assert good == {0: 4, 3: 4, 4: 4, 5: 4, 6: 4, 10: 10, 11: 2}
    assert len(items) == len(lines) == len({item.key for item in items})
    assert "two options are the same" in items[1].problem and "option C is ''" in items[2].problem
    assert f"{tmp_path / 'q.jsonl'}:15: " in items[14].problem
    assert "the key is 'B', but there are no options" in items[14].problem
    assert "option A without its letter is ''" in items[15].problem
    assert f"{tmp_path / 'q.jsonl'}:19: the JSON is nested too deeply" in items[18].problem
    with pytest.raises(InputError, match=r"q.jsonl:2: .*two options are the same"):
        open_source(tmp_path / "q.jsonl")
