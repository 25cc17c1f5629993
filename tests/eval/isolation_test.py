"""Whatever one item raises, wherever: it fails alone, named, and the others are as without it."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.evaluation import RIGHT, SPEC, actor, benchmark

from fourd4d.core.errors import DiskFullError, InputError, one_line
from fourd4d.core.journal import Journal
from fourd4d.eval import prompts, report, runner
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import ItemLog, read_items, read_log
from fourd4d.eval.runner import run
from fourd4d.eval.spec import EvalSpec
from fourd4d.parallel.memory import MemoryNeeded, check_room, is_out_of_memory, needed_bytes
from fourd4d.processing.processor import Processor

GUILTY = 4
MARK = "guilty"


class Panic(BaseException):
    """As Rust libraries raise: no ``Exception``."""


class OddError(Exception):
    """A library's own, which cannot even say what is wrong."""

    def __str__(self):
        raise ValueError


ERRORS = [MemoryError(), RecursionError("too deep"), KeyError("x"), OSError(5, "I/O error"),
          OddError(), Panic("index out of bounds"),
          InputError("file", "bad"),
          jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]


@pytest.fixture(scope="module")
def right():
    return actor(RIGHT)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A benchmark whose item GUILTY has a question of its own."""
    source = benchmark(tmp_path_factory.mktemp("data"), count=7)

    class Marked:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            row = source[index]
            if index == GUILTY:  # As long as the others: the actor speaks from a place on.
                sample = row.sample
                question = sample.question.replace("cube", "ball")
                return dataclasses.replace(
                    row, sample=dataclasses.replace(sample, question=question, kind=MARK))
            return row

    return Marked()


def answers(subject, source, items, path=None, spec=SPEC, maps=None):
    with ItemLog(path, {"evaluation": spec.answers_json()}) as log:
        keep = {item.key for item in items} if maps else ()
        list(run(subject, source, items, spec, log, maps=maps, keep=keep))
        return dict(log.records)


@pytest.fixture(scope="module")
def whole(right, source):
    return answers(right, source, read_items(source))


def guilty_at(stage, error, monkeypatch, source, key):
    """Has one item raise ``error`` at one stage; gives the source to read."""

    def raising(real, is_guilty):
        def call(*args, **options):
            if is_guilty(*args, **options):
                raise error
            return real(*args, **options)

        return call

    def within(name, is_guilty, module=runner):
        monkeypatch.setattr(module, name, raising(getattr(module, name), is_guilty))

    ball = Processor.prompt(actor(RIGHT).processor, "Which way does the red ball move?", ())
    cube = Processor.prompt(actor(RIGHT).processor, "Which way does the red cube move?", ())
    (place,) = np.flatnonzero(ball.tokens != cube.tokens)[:1]
    word = int(ball.tokens[place])

    def asked(batch):
        return bool((np.asarray(batch.tokens) == word).any())

    if stage == "row":
        class Raising:
            reads = 0

            def __len__(self):
                return len(source)

            def __getitem__(self, index):
                self.reads += index == GUILTY
                if index == GUILTY and self.reads > 1:
                    raise error
                return source[index]

        return Raising()
    if stage == "media":
        within("row_media", lambda row, *_, **__: row.sample.kind == MARK, prompts)
    elif stage == "prompt":
        monkeypatch.setattr(Processor, "prompt", raising(
            Processor.prompt, lambda self, question, media: "ball" in question))
    elif stage == "collate":
        within("collate", lambda *_, names, **__: f"item {key!r}" in names)
    elif stage == "generate":
        within("generate", lambda graphdef, states, batch, *_: asked(batch))
    elif stage == "heat maps":
        monkeypatch.setattr(MapStore, "save", raising(
            MapStore.save, lambda self, name, maps: name == key))
    elif stage == "decode":
        seen = []
        within("texts", lambda *_: seen.append(0) or len(seen) == GUILTY + 1)
    elif stage == "score":
        within("score", lambda sample, text: sample.kind == MARK)
    elif stage == "parse":
        seen = []
        within("parse_answer", lambda *_: seen.append(0) or len(seen) == GUILTY + 1)
    elif stage == "log":
        monkeypatch.setattr(Journal, "append", raising(Journal.append, lambda self, *rows: any(
            row.get("key") == key and row["status"] == "answered" for row in rows)))
    return source


NAMES = {"row": "reading", "collate": "decoding", "generate": "decoding", "decode": "text",
         "parse": "scoring", "score": "scoring", "log": "writing"}
STAGES = ["row", "media", "prompt", "collate", "generate", "heat maps", "decode", "parse", "score",
          "log"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("stage", STAGES)
def test_an_item_fails_alone(stage, error, right, source, whole, monkeypatch, tmp_path):
    key = read_items(source)[GUILTY].key
    read = guilty_at(stage, error, monkeypatch, source, key)
    items = read_items(read)
    log = tmp_path / "log.jsonl"
    records = answers(right, read, items, log, maps=MapStore(tmp_path / "maps"))
    failed = records.pop(key)
    assert failed["status"] == "failed" and not failed["correct"]
    assert failed["reason"] == f"{NAMES.get(stage, stage)}: {one_line(error)}"
    assert records == {k: v for k, v in whole.items() if k != key}
    assert read_log(log)[1] == {**records, key: failed}
    summary = report.summarise(items, {**records, key: failed})
    assert summary["overall"]["items"] == len(items) and summary["overall"]["failed"] == 1
    assert summary["failed"] == [{"key": key, "reason": failed["reason"]}]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"),
                                   DiskFullError("log", "no space left")],
                         ids=lambda e: type(e).__name__)
def test_what_is_no_items_fault_ends_the_run(stage, error, right, source, monkeypatch, tmp_path):
    read = guilty_at(stage, error, monkeypatch, source, read_items(source)[GUILTY].key)
    items = read_items(read)
    with pytest.raises((type(error), DiskFullError)):
        answers(right, read, items, tmp_path / "log.jsonl", maps=MapStore(tmp_path / "maps"))


def test_a_row_that_raises_at_once_is_counted(right, source, whole):
    class Raising:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            if index == GUILTY:
                raise KeyError("x")
            return source[index]

    items = read_items(Raising())
    records = answers(right, Raising(), items)
    failed = records.pop(f"row {GUILTY + 1}")
    assert failed["status"] == "failed" and failed["reason"] == "reading: KeyError: 'x'"
    assert records == {k: v for k, v in whole.items() if v["kind"] != MARK}
    assert report.digest(Raising(), items)


@pytest.mark.parametrize("error", [KeyError("y"), Panic()], ids=lambda e: type(e).__name__)
def test_a_failed_item_that_cannot_say_what_it_is_about_is_named(error, right, source, whole):
    class Asking:
        """Asks as the others do, and scores nothing."""

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            return source[index]

        def example(self, number, processor):
            if number == GUILTY:
                raise KeyError("x")
            return processor.prompt(source[number].sample.text_input, ())

        def about(self, number):
            if number == GUILTY:
                raise error
            return {"score": 0.0}

        def score(self, number, text):
            return {"score": 1.0, "correct": True}

    items = read_items(source)
    records = answers(right, Asking(), items)
    failed = records.pop(items[GUILTY].key)
    assert failed["status"] == "failed" and not failed["correct"]
    assert failed["reason"] == f"media: KeyError: 'x'; about: {one_line(error)}"
    assert len(records) == len(items) - 1 and all(r["correct"] for r in records.values())
    told = report.summarise(items, {**records, failed["key"]: failed})
    assert told["overall"]["items"] == len(items) and told["overall"]["failed"] == 1


def test_where_nothing_can_be_answered_the_run_ends(right, source, monkeypatch):
    def dead(*_, **__):
        raise RuntimeError("device lost")

    monkeypatch.setattr(runner, "generate", dead)
    with pytest.raises(RuntimeError, match="device lost"):
        answers(right, source, read_items(source))


def test_an_item_that_fails_again_is_retried_on_request_only(right, source, whole, monkeypatch,
                                                             tmp_path):
    items = read_items(source)
    key = items[GUILTY].key
    with monkeypatch.context() as patch:
        read = guilty_at("media", KeyError("x"), patch, source, key)
        answers(right, read, items, tmp_path / "log.jsonl")
    assert answers(right, source, items, tmp_path / "log.jsonl")[key]["status"] == "failed"
    with ItemLog(tmp_path / "log.jsonl", {"evaluation": SPEC.answers_json()}, True) as log:
        list(run(right, source, items, SPEC, log))
        assert log.records == whole


def test_batches_without_room_have_fewer_rows(right, source, whole, monkeypatch):
    rows = []
    real = runner.generate

    def small(graphdef, states, batch, *rest):
        rows.append(len(batch.tokens))
        if len(batch.tokens) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return real(graphdef, states, batch, *rest)

    monkeypatch.setattr(runner, "generate", small)
    assert answers(right, source, read_items(source)) == whole
    assert set(rows) == {3, 2, 1}


def test_what_has_no_room_is_not_run(right, source, whole, monkeypatch):
    """Known from the compiled program: all rows but one are too many."""
    items = read_items(source)
    asked = []

    def needed(function, *args):
        rows = len(jax.tree.leaves(args[2])[0])
        asked.append((rows, needed_bytes(function, *args)))
        return 10 if rows == 1 else 1000

    monkeypatch.setattr("fourd4d.parallel.memory.needed_bytes", needed)
    monkeypatch.setattr("fourd4d.parallel.memory.free_bytes", lambda devices: 100)
    assert answers(right, source, items) == whole
    assert asked and all(0 < found < 1e9 for _, found in asked)
    monkeypatch.setattr("fourd4d.parallel.memory.free_bytes", lambda devices: 10)
    failed = answers(right, source, items)
    assert {r["status"] for r in failed.values()} == {"failed"}
    for record in failed.values():
        assert record["reason"].startswith("decoding: ") and "are free" in record["reason"]


def test_room_is_known():
    check_room(10**6, jax.devices()[:1])
    with pytest.raises(MemoryNeeded, match=r"1e\+09 GB of memory are needed, .* are free"):
        check_room(10**18, jax.devices()[:1])
    assert is_out_of_memory(MemoryNeeded()) and not is_out_of_memory(KeyError("x"))


LONG = "subtitle " * 200


def lengthened(source, index):
    class Long:
        def __len__(self):
            return len(source)

        def __getitem__(self, number):
            row = source[number]
            if number != index:
                return row
            return dataclasses.replace(row, sample=dataclasses.replace(
                row.sample, question=LONG + row.sample.question))

    return Long()


@pytest.mark.parametrize("spec, positions, told", [
    (dataclasses.replace(SPEC, max_length=300), 0, "more than 300"),
    (SPEC, 600, "the model knows 600")])
def test_too_long_a_question_fails_before_anything_is_run(spec, positions, told, right, source,
                                                          whole):
    read = lengthened(source, GUILTY)
    items = read_items(read)
    subject = dataclasses.replace(right, max_positions=positions)
    records = answers(subject, read, items, spec=spec)
    failed = records.pop(items[GUILTY].key)
    assert failed["status"] == "failed" 
    assert told in failed["reason"]
    assert records == {k: v for k, v in whole.items() if k != failed["key"]}


def test_long_prompts_go_few_at_a_time(right, source, whole, monkeypatch):
    shapes = []
    real = runner.collate

    def noted(examples, shape, *rest, **options):
        shapes.append((len(examples), shape.rows, shape.length))
        return real(examples, shape, *rest, **options)

    monkeypatch.setattr(runner, "collate", noted)
    read = lengthened(source, GUILTY)
    spec = dataclasses.replace(SPEC, batch_tokens=700)
    records = answers(right, read, read_items(read), spec=spec)
    assert {rows * length <= 700 for _, rows, length in shapes if rows > 1} == {True}
    assert sorted(rows for _, rows, length in shapes if length > 700) == [1]
    assert {rows for _, rows, length in shapes if length < 700} == {3}
    key = read_items(read)[GUILTY].key
    assert records.pop(key)["status"] == "answered"
    assert records == {k: v for k, v in whole.items() if k != key}


def test_limits_leave_old_logs_valid():
    assert set(EvalSpec().answers_json()) == {
        "max_tokens", "max_latents", "temperature", "top_p", "imagery", "seed", "assumed_fps"}
