"""The notebook interface on a trainer's checkpoint: what it says is what evaluation logs."""

import functools

import av
import numpy as np
import pytest
from helpers.evaluation import benchmark
from ml_collections import ConfigDict

import fourd4d
from fourd4d import api
from fourd4d.checkpoint.orbax import CheckpointManager
from fourd4d.core.errors import InputError
from fourd4d.data.media import row_media
from fourd4d.eval import EvalSpec, ItemLog, Subject, read_items
from fourd4d.eval.runner import run
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.open import fresh, specs
from fourd4d.processing.media import Video
from fourd4d.sampling import generate
from fourd4d.train import OptimizerSpec, make_optimizer, state_from

TOKENS = 12


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoint")
    mesh = make_mesh("data=1")
    with use(mesh):
        bundle = fresh("tiny", mesh, 0)
        state = state_from(bundle.tree, make_optimizer(OptimizerSpec(schedule="constant")), mesh,
                           trainable=(".*",))
        with CheckpointManager(root, processor=bundle.processor.save) as manager:
            manager.save(1, state, None, specs(ConfigDict(dict(seed=0)), bundle.config,
                                               bundle.processor, (".*",)), force=True)
    return fourd4d.load(root)


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


def test_few_shapes_are_compiled(thinker):
    before = generate._cache_size()
    for frames in range(1, 33):
        thinker.answer(clip(frames), "Which way?", ["Left", "Right"], max_tokens=2)
    assert generate._cache_size() - before <= 8
    known = generate._cache_size()
    for frames in (5, 17, 31):
        thinker.answer(clip(frames), "Where does it go?", ["Left", "Right"], max_tokens=2)
    assert generate._cache_size() == known


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
