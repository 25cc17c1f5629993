"""The notebook interface on a trainer's checkpoint: what it says is what evaluation logs."""

import functools
import io

import av
import jax
import numpy as np
import PIL.Image
import pytest
from helpers.bundles import save_as_a_trainer
from helpers.evaluation import benchmark

import fourd4d
from fourd4d import api
from fourd4d.core.errors import InputError
from fourd4d.data.media import row_media
from fourd4d.eval import EvalSpec, ItemLog, Subject, read_items
from fourd4d.eval.runner import run
from fourd4d.processing.media import Image, Video
from fourd4d.sampling import generate

TOKENS = 12


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return fourd4d.load(save_as_a_trainer(tmp_path_factory.mktemp("checkpoint")))


def test_it_says_what_evaluation_logs(thinker, tmp_path):
    source = benchmark(tmp_path, count=2)
    items = read_items(source)
    bundle = thinker.bundle
    subject = Subject(bundle.graphdef, (bundle.tree,), bundle.processor)
    log = ItemLog(None, {})
    list(run(subject, source, items, EvalSpec(max_tokens=TOKENS, rows=1), log))
    for item in items:
        row = source[item.number]
        (video,), _ = row_media(row, bundle.processor.protocol)
        said = thinker.answer(video, row.sample.question, row.sample.options, max_tokens=TOKENS)
        assert said.text == log.records[item.key]["response"]
        assert said.letter == log.records[item.key]["chosen"]
        assert said.truncated == log.records[item.key]["truncated"]


def test_it_reads_a_video_file(thinker, tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for t in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * t, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    options = ["Left", "Right"]
    said = thinker.answer(str(path), "Which way?", options, max_tokens=TOKENS, temperature=1.0)
    again = thinker.answer(path, "Which way?", options, max_tokens=TOKENS, temperature=1.0)
    other = thinker.answer(path, "Which way?", options, max_tokens=TOKENS, temperature=1.0, seed=1)
    assert said.text == again.text != other.text
    with pytest.raises(InputError, match=r"no\.mp4"):
        thinker.answer(tmp_path / "no.mp4", "Which way?")


def clip(frames, side=64):
    return Video(np.zeros((frames, side, side, 3), np.uint8), np.arange(frames) / 2)


@pytest.fixture
def programs(monkeypatch):
    """What would have to be compiled: each shape of arguments with its static arguments, once."""
    seen = set()

    def noted(graphdef, states, batch, rng, spec, count, *rest):
        shapes = tuple(x.shape for x in jax.tree.leaves((batch, rng, rest)))
        seen.add((shapes, spec, count))
        raise RuntimeError("planted")

    monkeypatch.setattr(api, "generate", noted)
    return seen


def test_few_programs_are_compiled(thinker, programs, tmp_path):
    def ask(*media, **options):
        with pytest.raises(InputError, match="planted"):
            thinker.answer(list(media), "Which way?", ["Left", "Right"], **options)

    def still(side):
        return Image(np.zeros((side, side, 3), np.uint8))

    for frames in range(1, 41):
        ask(clip(frames))
    assert len(programs) <= 10
    programs.clear()
    for budget in range(1, 1025):
        ask(still(8), max_tokens=budget)
    assert len(programs) <= 9
    programs.clear()
    for side in range(3, 300, 3):
        ask(still(side))
    for count in range(1, 25):
        ask(*[still(32)] * count)
    for words in range(0, 2000, 50):
        with pytest.raises(InputError, match="planted"):
            thinker.answer(still(8), "up " * words + "Which way?")
    assert len(programs) <= 18
    programs.clear()
    png = io.BytesIO()
    PIL.Image.new("RGB", (40, 24)).save(png, "PNG")
    for count in range(25):
        with pytest.raises(InputError, match="planted"):
            thinker.say("What is seen?", [png.getvalue()] * count, max_tokens=40 + count)
    assert len(programs) <= 8
    programs.clear()
    source = benchmark(tmp_path, count=12)
    for count in range(2, 13):  # Each is tried again in halves, which are few sizes too.
        thinker.tries([source[i].sample for i in range(count)], 2, root=tmp_path)
    assert len(programs) <= 8


def test_another_budget_compiles_nothing_and_is_exact(thinker):
    whole = thinker.answer(clip(4), "Which way?", max_tokens=64)
    before = generate._cache_size()
    words = thinker.bundle.processor.tokenizer
    for budget in (5, 6, 7):
        said = thinker.answer(clip(4), "Which way?", max_tokens=budget)
        assert len(words.encode(said.text)) == budget and said.truncated
        assert whole.text.startswith(said.text)
    assert generate._cache_size() == before


def test_what_cannot_be_answered_is_one_clear_error(thinker, monkeypatch):
    with pytest.raises(InputError, match="it reaches position .* the model knows"):
        thinker.answer(clip(2), "Which way?", max_tokens=10**6)
    with pytest.raises(InputError, match="max_tokens: bad value 0"):
        thinker.answer(clip(2), "Which way?", max_tokens=0)
    monkeypatch.setattr("fourd4d.parallel.memory.free_bytes", lambda devices: 1)
    with pytest.raises(InputError, match=r"prompt of \d+ tokens: MemoryNeeded: .* are free"):
        thinker.answer(clip(2), "Which way?", max_tokens=2)

    def odd(*_):
        raise KeyError("planted")

    monkeypatch.setattr(thinker, "_read", odd)
    with pytest.raises(InputError, match="media: KeyError: 'planted'"):
        thinker.answer("clip.mp4", "Which way?")


def test_tries_of_one_bad_question_cost_the_others_nothing(thinker, tmp_path, monkeypatch):
    source = benchmark(tmp_path, count=4, missing=(1,))
    samples = [source[i].sample for i in range(4)]
    monkeypatch.setattr(api, "parse_answer", lambda text, options: text)
    ask = functools.partial(thinker.tries, root=tmp_path, max_tokens=4)
    whole = ask([samples[0], *samples[2:]], 2)
    assert ask(samples, 2) == [whole[0], [None, None], *whole[1:]]
    real = api.generate

    def full(*args):
        if len(args[2].tokens) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(*args)

    monkeypatch.setattr(api, "generate", full)
    assert ask(samples, 2) == [whole[0], [None, None], *whole[1:]]


def test_options_are_texts_numbers_or_a_mapping(thinker, monkeypatch):
    said = iter(["<think>x</think><answer>B. 2</answer>", "<think>x</think><answer>2.5</answer>",
                 "<think>x</think><answer>B</answer>", "<think>x</think><answer>Up</answer>"])
    monkeypatch.setattr(api, "texts", lambda *_: [next(said)])
    ask = functools.partial(thinker.answer, clip(2), "How many?", max_tokens=2)
    assert ask([1, 2, 3]).letter == "B"
    assert ask(np.array([1.5, 2.5])).letter == "B"
    assert ask({"B": "Right", "A": "Left"}).letter == "B"
    assert ask({"one": "Left", "two": "Up"}).letter == "two"


def test_a_mapping_s_keys_are_shown_and_answered(thinker, monkeypatch):
    asked, said = [], iter(["b. Right", "C", "2", "D. 7"])
    prompt = type(thinker.bundle.processor).prompt
    monkeypatch.setattr(type(thinker.bundle.processor), "prompt",
                        lambda self, text, media: asked.append(text) or prompt(self, text, media))
    monkeypatch.setattr(api, "texts",
                        lambda *_: [f"<think>x</think><answer>{next(said)}</answer>"])
    ask = functools.partial(thinker.answer, clip(2), "Which?", max_tokens=2)
    found = [ask(options).letter for options in (
        {"a": "Left", "b": "Right"}, {"C": "Up", "A": "Left"}, {1: "Left", 2: "Right"},
        (n for n in (4, np.float32(5.5), np.int64(6), 7)))]
    assert found == ["b", "C", "2", "D"]
    assert asked == ["Which?\n\na. Left\nb. Right", "Which?\n\nA. Left\nC. Up",
                     "Which?\n\n1. Left\n2. Right", "Which?\n\nA. 4\nB. 5.5\nC. 6\nD. 7"]


@pytest.mark.parametrize("options", [[None, "Left"], ["Left", ""], "ABCD", ["x"] * 11, [True, "a"],
                                     [["a"], ["b"]], {"A": None}, {"Left", "Up"},
                                     [float("nan"), 1], {1: "a", "1": "b"}])
def test_options_that_are_no_texts_are_refused_before_anything_is_decoded(
        thinker, monkeypatch, options):
    monkeypatch.setattr(thinker, "_sample", None)
    with pytest.raises(InputError, match="options: "):
        thinker.answer(clip(2), "Which way?", options)
