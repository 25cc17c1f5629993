"""What questions about one video share, and that it changes no answer."""

import collections
import dataclasses

import numpy as np
import pytest
from helpers.bundles import bundle_of
from PIL import Image

from fourd4d.core import jsonl
from fourd4d.core.kept import Kept
from fourd4d.core.sample import Sample
from fourd4d.data.source import JsonlSource
from fourd4d.eval import prompts, runner, vision_store
from fourd4d.eval.items import Item, ItemLog, by_video, read_items, shard
from fourd4d.eval.runner import run
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.eval.vision_store import VisionStore
from fourd4d.processing.patches import frames_to_slots

VIDEOS, QUESTIONS = 2, 10
SPEC = EvalSpec(max_tokens=12, max_latents=4, rows=12, temperature=1.0, length_step=128,
                slot_step=1)


@pytest.fixture(scope="module")
def subject():
    bundle = bundle_of()
    return Subject(bundle.graphdef, (bundle.tree,), bundle.processor)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The questions of two videos in turn, so that neighbours in the file are of different ones."""
    root, rng, rows = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for video in range(VIDEOS):
        (root / f"clip{video}").mkdir()
        for frame in range(4):
            pixels = rng.integers(0, 256, (16, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"clip{video}" / f"{frame}.png")
    for number in range(VIDEOS * QUESTIONS):
        clip = f"clip{number % VIDEOS}"
        sample = Sample.fake(0)
        rows.append(jsonl.rl_row(dataclasses.replace(
            sample, id=f"q{number}", question=f"Which way does thing {number} go?",
            video_id=clip, frames=tuple(f"{clip}/{i}.png" for i in range(4)))))
    jsonl.write(root / "items.jsonl", rows)
    return JsonlSource(root / "items.jsonl")


def counted(monkeypatch, *names, of=runner):
    """How often these functions of a module are called."""
    calls = collections.Counter()

    def counting(name, real):
        def call(*args, **options):
            calls[name] += 1
            return real(*args, **options)
        return call

    for name in names:
        monkeypatch.setattr(of, name, counting(name, getattr(of, name)))
    return calls


def answers(subject, source, spec=SPEC, store=None):
    """Tokens and latents of each item, and the records."""
    items, said, log = read_items(source), {}, ItemLog(None, {})

    def observe(keys, asked, rollout):
        for row, key in enumerate(keys):
            said[key] = [np.asarray(rollout.tokens[row] * rollout.mask[row]),
                         np.asarray(rollout.latent_index[row])]
        return [{} for _ in keys]

    list(run(subject, source, items, spec, log, observe=observe, store=store))
    return said, log.records


def test_ten_questions_a_video_are_answered_as_one_by_one(subject, source, monkeypatch):
    calls = counted(monkeypatch, "encode", "read_head", "generate")
    together, records = answers(subject, source)
    # Questions of two lengths of number, hence of two lengths of tail at most.
    assert calls["encode"] == VIDEOS and VIDEOS <= calls["read_head"] <= 2 * VIDEOS
    assert calls["generate"] == calls["read_head"]
    calls.clear()
    alone, one_by_one = answers(subject, source, dataclasses.replace(
        SPEC, rows=1, workers=1, lookahead=1, cache_bytes=0))
    assert calls["encode"] == calls["generate"] == VIDEOS * QUESTIONS and not calls["read_head"]
    assert len(together) == VIDEOS * QUESTIONS and records == one_by_one
    for key, (tokens, latents) in together.items():
        np.testing.assert_array_equal(tokens, alone[key][0])
        np.testing.assert_array_equal(latents, alone[key][1])
    assert len({tuple(tokens) for tokens, _ in together.values()}) == len(together)


def test_slots_that_make_room_for_the_next_change_no_answer(subject, source, monkeypatch):
    whole, records = answers(subject, source)
    calls = counted(monkeypatch, "rollout", "read_head", "generate")
    refilled, same = answers(subject, source, dataclasses.replace(SPEC, slots=5))
    assert calls["rollout"] > 0 and not calls["read_head"] + calls["generate"]
    assert same == records
    for key, (tokens, latents) in refilled.items():
        np.testing.assert_array_equal(tokens, whole[key][0])
        np.testing.assert_array_equal(latents, whole[key][1])


def test_a_guilty_question_fails_alone_among_those_of_its_video(subject, source, monkeypatch):
    whole = answers(subject, source)[1]
    real, guilty = runner.collate, "q6"

    def raising(examples, shape, *rest, names, **options):
        if f"item {guilty!r}" in names and shape.rows == QUESTIONS:
            raise KeyError("planted")
        return real(examples, shape, *rest, names=names, **options)

    monkeypatch.setattr(runner, "collate", raising)
    records = answers(subject, source)[1]
    assert records.pop(guilty)["reason"] == "decoding: KeyError: 'planted'"
    del whole[guilty]
    assert records == whole


def test_without_room_heads_have_fewer_questions(subject, source, monkeypatch):
    whole, rows, real = answers(subject, source)[1], set(), runner.generate

    def small(graphdef, states, batch, *rest):
        rows.add(len(batch.tokens))
        if len(batch.tokens) > 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return real(graphdef, states, batch, *rest)

    monkeypatch.setattr(runner, "generate", small)
    assert answers(subject, source)[1] == whole
    assert rows == {10, 5, 3}


def test_another_run_encodes_nothing_anew(subject, source, monkeypatch):
    store = VisionStore()
    answers(subject, source, store=store)
    encoded = counted(monkeypatch, "encode")
    read = counted(monkeypatch, "row_media", of=prompts)
    answers(subject, source, dataclasses.replace(SPEC, seed=1), store)
    assert not encoded and read


def test_frames_go_by_content(monkeypatch):
    processor = bundle_of().processor
    rng, cut = np.random.default_rng(0), []
    monkeypatch.setattr(vision_store, "frames_to_slots", lambda *args, **options: (
        cut.append(0), frames_to_slots(*args, **options))[1])
    frames = rng.integers(0, 256, (4, 16, 24, 3), np.uint8)
    store = VisionStore()
    slots, grid = store.cut(frames, processor.protocol, kind="video")
    same, _ = store.cut(frames.copy(), processor.protocol, kind="video")
    assert same is slots and len(cut) == 1 and store.key(slots)
    frames[0, 0, 0] += 1  # The same array, other pixels.
    other, _ = store.cut(frames, processor.protocol, kind="video")
    assert len(cut) == 2 and store.key(other) != store.key(slots)
    want, want_grid = frames_to_slots(frames, processor.protocol)
    assert grid == want_grid
    np.testing.assert_array_equal(other.patches, want.patches)
    with pytest.raises(ValueError, match="read-only"):
        other.patches[0] = 0


def test_kept_values_are_bounded():
    kept = Kept(10, len)
    made = []

    def value(text):
        return kept.get(text[0], lambda: made.append(text) or text)

    assert [value(t) for t in ("aaaa", "bbbb", "aaaa", "cccc")] == ["aaaa", "bbbb", "aaaa", "cccc"]
    assert made == ["aaaa", "bbbb", "cccc"] and kept.find("b") is None and kept.find("a")
    assert value("d" * 11) and kept.find("d") is None and kept.find("c")
    with pytest.raises(KeyError):
        kept.get("e", lambda: {}["x"])
    assert value("eeee") == "eeee" and kept.made == 5


def test_questions_of_a_video_stay_together():
    items = [Item(n, f"q{n}", "", 4, video=v) for n, v in enumerate("abcabcaa")]
    assert [[i.number for i in group] for group in by_video(items)] == [[0, 3, 6, 7], [1, 4],
                                                                        [2, 5]]
    parts = [[i.number for i in shard(items, n, 2)] for n in range(2)]
    assert parts == [[0, 3, 6, 7], [1, 2, 4, 5]]
