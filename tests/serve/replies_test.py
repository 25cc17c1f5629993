"""Text is handed out once it is certain; shapes hold what they say."""

import dataclasses
import itertools

import numpy as np
import pytest
from helpers.bundles import CONFIG
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fourd4d.core.batch import BatchShape
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.collate import Size, check_size
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.processing.media import Image, Video
from fourd4d.serve.errors import ApiError
from fourd4d.serve.replies import Seen, TextStream, latents_json
from fourd4d.serve.requests import read_latents
from fourd4d.serve.shapes import family, fitting
from fourd4d.serve.spec import ServeSpec

WORDS = tiny_tokenizer()
HARD = ["a 日本語 b", "🎉👩‍👩‍👧‍👦 ﬁ", "\ufffd\ufffd x", "  two  spaces ", "end\n\n", "é e\u0301"]


def parts_of(tokens, cuts):
    places = sorted({min(cut, len(tokens)) for cut in cuts} | {0, len(tokens)})
    return [np.asarray(tokens[a:b], np.int32) for a, b in zip(places, places[1:], strict=False)]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, WORDS.vocab_size - 1), max_size=30), st.lists(st.integers(0, 30)))
def test_parts_join_to_the_whole_text(tokens, cuts):
    stream, whole = TextStream(WORDS), WORDS.decode(tokens)
    said = [stream.more(part) for part in parts_of(tokens, cuts)] + [stream.rest(whole)]
    assert "".join(said) == whole == stream.text and not stream.stopped


@pytest.mark.parametrize("text", HARD)
def test_no_half_character_is_handed_out(text):
    tokens, stream = WORDS.encode(text), TextStream(WORDS)
    for token in tokens:
        new = stream.more(np.asarray([token], np.int32))
        assert text.startswith(stream.text), (new, stream.text)
    assert stream.text + stream.rest(WORDS.decode(tokens)) == text or stream.text == text


@settings(deadline=None, max_examples=150)
@example("\naa", ["a", "\naa"], [2])
@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1,
                                              max_size=3), st.lists(st.integers(0, 30)))
def test_nothing_from_a_stop_text_on_is_handed_out(text, stop, cuts):
    tokens = WORDS.encode(text)
    stream = TextStream(WORDS, stop)
    for part in parts_of(tokens, cuts):
        stream.more(part)
        assert not any(one in stream.text for one in stop)
    stream.rest(WORDS.decode(tokens))
    places = [(text.index(one) + len(one), text.index(one)) for one in stop if one in text]
    assert stream.stopped == bool(places)
    assert stream.text == text[: min(places, default=(0, len(text)))[1]]


def test_latents_come_back_as_they_were_sent():
    latents = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    np.testing.assert_array_equal(read_latents(latents_json(latents), "x"),
                                  latents.astype(np.float16).astype(np.float32))


def test_a_slot_is_drawn_as_its_first_frame():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 8, 8, 3), np.uint8)
    processor = Processor(WORDS, CONFIG.protocol())
    seen = Seen.of([Image(frames[4]), Video(frames, np.arange(5) / 4)], processor)
    assert [int(picture[0, 0, 0]) for picture in seen.pictures] == [4, 0, 2, 4]
    assert seen.times == (None, 0.0, 0.5, 1.0) and seen.media == (0, 1, 1, 1)


PROTOCOLS = {
    "tiny": CONFIG.protocol(min_pixels=256, max_pixels=1024, max_frames=8),
    "published": ProtocolSpec(),
    "large pictures": dataclasses.replace(ProtocolSpec(), image_max_pixels=12_845_056),
    "whole videos": dataclasses.replace(ProtocolSpec(patch_size=16, window=128), times="text",
                                        budget="video", max_pixels=24 * 1024 * 1024),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_few_shapes_hold_what_the_flags_promise(name):
    spec = ServeSpec(max_text=512)
    protocol = PROTOCOLS[name]
    shapes = family(protocol, spec)
    assert len(shapes.lengths) + len(shapes.pictures) < 48  # Each of them costs a compilation.
    for small, large in itertools.pairwise(shapes.lengths):
        assert small < large <= 1.5 * small
    for small, large in itertools.pairwise(shapes.pictures):
        assert small[0] < large[0] or small[1] <= 0.75 * large[1]
    assert shapes.lengths[-1] <= 2 * spec.max_prompt
    assert shapes.pictures[-1][0] * protocol.temporal_patch >= protocol.max_frames
    if name == "whole videos":
        return
    processor = Processor(WORDS, protocol)
    side = int(protocol.max_pixels**0.5) + 40
    for frames, (height, width) in ((2, (side, side)), (protocol.max_frames, (side, side)),
                                    (protocol.max_frames, (side // 2, side * 2))):
        video = Video(np.zeros((frames, height, width, 3), np.uint8), np.arange(frames) / 2)
        example = processor.prompt("up " * 100, [video])
        shape, (slots, windows) = fitting(example, shapes), example.slots.mask.shape[:2]
        check_size(Size.of(example), shape)
        assert shape.length <= max(64, 1.5 * example.length)
        assert shape.slots * shape.windows <= 2.5 * slots * windows
        assert (shape.slots, shape.windows) in shapes.pictures


def test_what_fits_no_shape_is_refused_with_its_size():
    protocol = PROTOCOLS["tiny"]
    shapes = family(protocol, ServeSpec(max_text=64))
    processor = Processor(WORDS, protocol)
    assert fitting(processor.prompt("?", ()), shapes) == BatchShape(1, 64, 0, 1, 0)
    roomy = family(protocol, ServeSpec(max_text=512))
    short, long = (fitting(processor.prompt(text, ()), roomy).length
                   for text in ("?", "up " * 100))
    assert short == 64 and long == 160
    for media in ([Video(np.zeros((10, 32, 32, 3), np.uint8), np.arange(10))],
                  [Image(np.zeros((4, 400, 3), np.uint8))]):
        with pytest.raises(ApiError, match="the server was started for") as refused:
            fitting(processor.prompt("?", media), shapes)
        assert refused.value.status == 400 and refused.value.code == "context_length_exceeded"
