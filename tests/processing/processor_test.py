"""Prompts and examples: template text, spans, weights, positions, indices into the vision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing import chat_template
from fourd4d.processing.media import Image, Video
from fourd4d.processing.mrope import VisionSpan, is_uniform, mrope_ids, slot_times
from fourd4d.processing.patches import token_offsets
from fourd4d.processing.processor import Processor, load_processor
from fourd4d.processing.tokenizer import tiny_tokenizer

TINY = ProtocolSpec(patch_size=4, window=16, min_pixels=64, max_pixels=4096, latent_size=3)
TOKENIZER = tiny_tokenizer()
QUESTION = "Which way does it move?\n\nA. Left\nB. Right"
RESPONSE = "<think>At 0 <output_image> and at 1 <output_image>.</think>\n<answer>B. Right</answer>"


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def video(count: int = 4, height: int = 40, width: int = 24, fps: float = 2.0) -> Video:
    return Video(np.stack([pixels(height, width, i) for i in range(count)]), np.arange(count) / fps)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(TOKENIZER, TINY)


@pytest.fixture(scope="module")
def media() -> list[Video | Image]:
    return [video(5), Image(pixels(16, 16))]


@pytest.fixture(scope="module")
def example(processor, media):
    return processor.example(QUESTION, media, RESPONSE, [pixels(40, 24), pixels(16, 16)])


def test_prompt_text(processor, media):
    assert processor.prompt_text("Q?", media) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|vision_end|>Q?\n" + chat_template.SUFFIX + "<|im_end|>\n"
        "<|im_start|>assistant\n")


def test_suffixes():
    released = chat_template.user_text("Q?", dataclasses.replace(TINY, suffix="released"))
    assert released == (
        "Q?\nFirst, think about the reasoning process with mental imagery of the relevant object "
        "or region, then provide the user with the answer. Put the reasoning in "
        "<think>...</think> and only the final answer in <answer>...</answer>, e.g. <think> "
        "reasoning process (with mental imagery as needed) </think><answer> answer here </answer>.")
    assert chat_template.user_text("Q?", dataclasses.replace(TINY, suffix="none")) == "Q?"
    assert chat_template.SUFFIX.count(".") == 1
    no_system = Processor(TOKENIZER, dataclasses.replace(TINY, system=""))
    assert no_system.prompt_text("Q?", []).startswith("<|im_start|>user\nQ?")


def test_tokens_are_the_text_with_pads_repeated(processor, media, example):
    text = processor.prompt_text(QUESTION, media)
    text = text.replace("<|video_pad|>", "<|video_pad|>" * 45)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * 4)
    block = "<|latent_start|>" + "<|latent_pad|>" * 3 + "<|latent_end|>"
    text += RESPONSE.replace("<output_image>", block) + "<|im_end|>"
    assert TOKENIZER.decode(example.tokens) == text
    assert example.tokens.tolist() == TOKENIZER.encode(text)


def test_a_prompt_is_the_head_of_its_example(processor, media, example):
    prompt = processor.prompt(QUESTION, media)
    n = prompt.length
    for name in ("tokens", "vision_slot", "vision_offset", "latent_index"):
        np.testing.assert_array_equal(getattr(prompt, name), getattr(example, name)[:n])
    np.testing.assert_array_equal(prompt.positions, example.positions[:, :n])
    assert not prompt.text_weights.any() and (prompt.latent_index == -1).all()
    assert prompt.overlay_slot.shape == (0,) and prompt.pool.shape[:2] == (0, 3)


def test_weights_are_on_assistant_tokens_but_pads(processor, media, example):
    n = processor.prompt(QUESTION, media).length
    weighted = example.text_weights == 1
    assert not weighted[:n].any()
    pad = example.tokens == TOKENIZER.id("<|latent_pad|>")
    np.testing.assert_array_equal(weighted[n:], ~pad[n:])
    assert example.tokens[-1] == TOKENIZER.eos and weighted[-1]
    for name in ("<|latent_start|>", "<|latent_end|>"):
        assert weighted[example.tokens == TOKENIZER.id(name)].tolist() == [True, True]


def test_latents_are_numbered_in_reading_order(example):
    pad = example.tokens == TOKENIZER.id("<|latent_pad|>")
    assert example.latent_index[pad].tolist() == list(range(6))
    assert (example.latent_index[~pad] == -1).all()
    assert example.overlay_slot.tolist() == [4, 5]
    assert example.slots.mask.shape[0] == 6
    np.testing.assert_allclose(example.pool.sum(-1), 1, atol=1e-6)


def test_a_reader_sees_all_but_frames_and_speaks_after_the_first_image(media, example):
    reading = Processor(TOKENIZER, dataclasses.replace(TINY, reader="blind"))
    made = reading.example(QUESTION, media, RESPONSE, [pixels(40, 24), pixels(16, 16)])
    np.testing.assert_array_equal(made.tokens, example.tokens)
    pads = {TOKENIZER.id("<|video_pad|>"), TOKENIZER.id("<|image_pad|>")}
    np.testing.assert_array_equal(made.reader_sees, ~np.isin(made.tokens, list(pads)))
    said = TOKENIZER.decode(made.tokens[made.reader_speaks])
    assert said == "<|latent_end|> and at 1 <|latent_start|><|latent_end|>" + RESPONSE.split(
        "<output_image>")[2] + "<|im_end|>"
    prompt = reading.prompt(QUESTION, media)
    assert not prompt.reader_speaks.any() and not prompt.reader_sees.all()
    bare = reading.example(QUESTION, media, RESPONSE, imagery=False)
    assert not bare.reader_speaks.any()
    assert example.reader_sees is None and example.reader_speaks is None


def test_vision_tokens_take_the_merged_tokens_in_raster_order(example):
    fed = example.vision_slot >= 0
    np.testing.assert_array_equal(fed, example.vision_offset >= 0)
    assert fed.sum() == 45 + 4
    assert example.vision_slot[fed].tolist() == [0] * 15 + [1] * 15 + [2] * 15 + [3] * 4
    offsets = np.concatenate([np.tile(token_offsets(10, 6, TINY), 3), token_offsets(4, 4, TINY)])
    np.testing.assert_array_equal(example.vision_offset[fed], offsets)
    slots = example.slots
    for slot, offset in zip(example.vision_slot[fed], example.vision_offset[fed], strict=True):
        assert slots.mask[slot].reshape(-1, 4)[offset].all()


def test_positions_of_video_image_and_text(example):
    """5 frames at 2 a second, 2 ids a second: slots at 0, 2, 4; then image; then text."""
    fed = np.flatnonzero(example.vision_slot >= 0)
    first = fed[0]
    assert (example.positions[:, :first] == np.arange(first)).all()
    clip = example.positions[:, fed[:45]] - first
    np.testing.assert_array_equal(clip[0].reshape(3, 15), np.array([[0], [2], [4]]) + np.zeros(15))
    np.testing.assert_array_equal(clip[1].reshape(3, 5, 3)[0], np.arange(5)[:, None] + np.zeros(3))
    np.testing.assert_array_equal(clip[2].reshape(3, 5, 3)[0], np.zeros((5, 1)) + np.arange(3))
    between = example.positions[:, fed[44] + 1]
    assert between.tolist() == [first + 5] * 3
    picture = example.positions[:, fed[45:]] - example.positions[0, fed[45]]
    assert picture.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    tail = example.positions[:, fed[-1] + 1 :]
    assert (np.diff(tail, axis=1) == 1).all()
    assert tail[0, 0] == example.positions[:, fed[-1]].max() + 1


def test_text_only_examples_have_no_trace_of_imagery(processor, media):
    plain = processor.example(QUESTION, media, RESPONSE, imagery=False)
    with_overlays = processor.example(QUESTION, media, RESPONSE, [pixels(8, 8)] * 2, imagery=False)
    text = TOKENIZER.decode(plain.tokens)
    assert text.endswith("<think>At 0 and at 1.</think>\n<answer>B. Right</answer><|im_end|>")
    assert plain.slots.mask.shape[0] == 4 and plain.overlay_slot.size == 0
    np.testing.assert_array_equal(plain.tokens, with_overlays.tokens)
    assert with_overlays.slots.mask.shape[0] == 4


def test_text_alone(processor):
    alone = processor.example("Count.", [], "one two")
    assert alone.slots.patches.shape == (0, 0, 16, 96)
    np.testing.assert_array_equal(alone.positions, np.tile(np.arange(alone.length), (3, 1)))
    assert (alone.vision_slot == -1).all()


def test_dtypes_and_shapes(example):
    l = example.length
    assert example.positions.shape == (3, l) and example.pool.shape == (2, 3, 6 * 4)
    for name in ("tokens", "positions", "vision_slot", "vision_offset", "latent_index"):
        assert getattr(example, name).dtype == np.int32
    assert example.text_weights.dtype == example.pool.dtype == np.float32
    assert example.slots.patches.dtype == np.float32 and example.slots.mask.dtype == np.bool_


def test_bad_input(processor, media):
    with pytest.raises(InputError, match="2 <output_image>, 1 overlays"):
        processor.example(QUESTION, media, RESPONSE, [pixels(8, 8)])
    for token in ("<|video_pad|>", "<|im_end|>", "<|latent_pad|>"):
        with pytest.raises(InputError, match="control token"):
            processor.prompt(f"Q {token}", media)
        with pytest.raises(InputError, match="control token"):
            processor.example("Q", media, f"a {token}")


def test_a_tokenizer_of_another_kind_goes_only_once_the_new_one_is_written(
        tmp_path, processor, file_limit):
    (tmp_path / "tokenizer.json").write_text("a former one")
    file_limit(100)
    with pytest.raises(InputError, match="no space left"):
        processor.save(tmp_path)
    file_limit(None)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    processor.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["protocol.json", "tokenizer.model"]


def test_saved_and_loaded(tmp_path, media, example):
    protocol = dataclasses.replace(TINY, pooling="strips", fps=0.5)
    Processor(TOKENIZER, protocol).save(tmp_path)
    again = load_processor(tmp_path)
    assert again.protocol == protocol
    other = again.example(QUESTION, media, RESPONSE, [pixels(40, 24), pixels(16, 16)])
    np.testing.assert_array_equal(other.tokens, example.tokens)
    (tmp_path / "protocol.json").write_text('{"patch": 1}')
    with pytest.raises(InputError, match="unknown fields"):
        load_processor(tmp_path)
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(InputError, match="malformed"):
        load_processor(tmp_path)
    (tmp_path / "protocol.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config"):
        load_processor(tmp_path)


@pytest.mark.parametrize("times, expected", [
    ([0, 0.5, 1.0, 1.5], [0, 2]), ([7, 7.5, 8.0, 8.5], [0, 2]), ([0, 1, 2, 3, 4], [0, 4, 8]),
    ([0, 0.1, 0.3, 2.0, 2.01], [0, 0, 4]), ([0], [0]), ([3.3], [0]), ([0, 9], [0]),
    ([0.1, 0.2, 1.1, 5.0, 5.1, 6.0], [0, 2, 10]),
    ([1.8, 2.0, 2.3, 4.0], [0, 1]),  # 2.3 - 1.8 is a little less than half a second.
])
def test_times_to_ids(times, expected):
    protocol = ProtocolSpec()
    assert slot_times(np.array(times, np.float64), protocol).tolist() == expected


def test_uniform_means_one_rate():
    assert is_uniform(np.arange(50) / 29.97 + 100.0)
    assert is_uniform(np.array([0.0, 3.0]))
    assert not is_uniform(np.array([0, 0.033, 0.067, 0.1]))


def test_an_empty_run_moves_nothing():
    span = VisionSpan(np.zeros(1, np.int32), 1, 1)
    np.testing.assert_array_equal(mrope_ids([0, span, 0, 2]), [[0, 1, 2]] * 3)
    assert mrope_ids([]).shape == (3, 0)
