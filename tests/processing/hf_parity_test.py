"""The official processor of Qwen2.5-VL beside ours: text, ids, pixels, grids, positions.

The official side is transformers' own code, opened from the files that ``Processor.export`` writes.
"""

from __future__ import annotations

from helpers.tokenizers import HARD_TEXT, small_bpe  # isort: skip
import dataclasses
import hashlib
import json
import types

import numpy as np
import PIL.Image
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models.qwen2_5_vl import CLASSES
from fourd4d.processing import chat_template
from fourd4d.processing.media import Image, Video
from fourd4d.processing.patches import token_offsets
from fourd4d.processing.processor import Processor, load_processor
from fourd4d.processing.tokenizer import IMAGERY_TOKENS, SPECIAL_TOKENS, HFTokenizer, tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")

FULL = ProtocolSpec(min_pixels=56 * 56, max_pixels=60 * 28 * 28)
TINY = ProtocolSpec(patch_size=4, window=16, min_pixels=256, max_pixels=2048)
QUESTION = "Which way does it go?\n\nA. Left\nB. Right"


@dataclasses.dataclass(frozen=True)
class Pair:
    ours: Processor
    official: object

    @property
    def protocol(self) -> ProtocolSpec:
        return self.ours.protocol


@pytest.fixture(scope="module", params=["full", "tiny"])
def pair(request, tmp_path_factory) -> Pair:
    directory = tmp_path_factory.mktemp(request.param)
    ours = Processor(small_bpe(), FULL if request.param == "full" else TINY)
    ours.export(directory, CLASSES)
    official = transformers.AutoProcessor.from_pretrained(directory)
    assert type(official).__name__ == "Qwen2_5_VLProcessor"
    assert type(official.image_processor).__name__ == "Qwen2VLImageProcessor"
    return Pair(ours, official)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth and noisy parts, so that the resize filter matters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([y * 255 / height, x * 255 / width, (x + y) % 256], -1)
    return np.clip(smooth + rng.normal(0, 40, (height, width, 3)), 0, 255).astype(np.uint8)


def clip(count: int, fps: float, height: int, width: int, seed: int = 0) -> Video:
    frames = np.stack([picture(height, width, seed + i) for i in range(count)])
    return Video(frames, np.arange(count) / fps)


def messages(protocol: ProtocolSpec, media) -> list[dict]:
    content = [{"type": medium.kind} for medium in media]
    text = chat_template.user_text(QUESTION, protocol)
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def run_official(pair: Pair, media, fps: list[float]):
    text = pair.official.apply_chat_template(
        messages(pair.protocol, media), tokenize=False, add_generation_prompt=True)
    images = [PIL.Image.fromarray(m.pixels) for m in media if m.kind == "image"]
    videos = [m.frames for m in media if m.kind == "video"]
    return text, pair.official(
        text=[text], images=images or None, videos=videos or None, fps=fps, return_tensors="np")


def rope_index(pair: Pair, out) -> np.ndarray:
    """transformers' get_rope_index, which reads nothing of the model but these numbers."""
    token = pair.ours.tokenizer.id
    config = types.SimpleNamespace(
        vision_config=types.SimpleNamespace(
            spatial_merge_size=pair.protocol.merge,
            tokens_per_second=int(pair.protocol.tokens_per_second)),
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"))

    def tensor(name):
        return torch.tensor(np.asarray(out[name])) if name in out else None

    ids, _ = modeling.Qwen2_5_VLForConditionalGeneration.get_rope_index(
        types.SimpleNamespace(config=config), tensor("input_ids"), tensor("image_grid_thw"),
        tensor("video_grid_thw"), out.get("second_per_grid_ts"))
    return ids[:, 0].numpy()


def official_order(example, media, kind: str, protocol: ProtocolSpec) -> np.ndarray:
    """Our patches of all media of one kind, in the order of the official processor."""
    from fourd4d.processing.patches import frames_to_slots

    rows, slot = [], 0
    for medium in media:
        _, grid = frames_to_slots(medium.frames, protocol)
        if medium.kind == kind:
            patches = example.slots.patches[slot : slot + grid.slots]
            patches = patches.reshape(grid.slots, -1, protocol.merge**2, protocol.patch_dim)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            rows.append(patches[:, offsets].reshape(-1, protocol.patch_dim))
        slot += grid.slots
    return np.concatenate(rows)


def grids(media, kind: str, protocol: ProtocolSpec) -> list[list[int]]:
    from fourd4d.processing.patches import frames_to_slots

    found = [frames_to_slots(m.frames, protocol)[1] for m in media if m.kind == kind]
    return [[g.slots, g.rows, g.columns] for g in found]


CASES = {
    "text": ([], []),
    "image": ([Image(picture(117, 203))], []),
    "images": ([Image(picture(64, 64)), Image(picture(301, 57)), Image(picture(40, 500))], []),
    "small image": ([Image(picture(29, 31))], []),
    "video": ([clip(4, 2.0, 90, 70)], [2.0]),
    "odd video": ([clip(7, 1.0, 65, 111)], [1.0]),
    "one frame": ([clip(1, 1.0, 60, 60)], [1.0]),
    "two videos": ([clip(6, 0.5, 60, 80), clip(5, 30.0, 80, 60)], [0.5, 30.0]),
    "mixed": ([Image(picture(77, 91)), clip(5, 3.0, 48, 64), Image(picture(30, 99)),
               clip(2, 10.0, 64, 48)], [3.0, 10.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_text_ids_pixels_grids_positions(pair, case):
    media, fps = CASES[case]
    text, out = run_official(pair, media, fps)
    example = pair.ours.prompt(QUESTION, media)
    assert pair.ours.prompt_text(QUESTION, media) == text
    assert example.tokens.tolist() == out["input_ids"][0].tolist()
    for kind, values, grid in (("image", "pixel_values", "image_grid_thw"),
                               ("video", "pixel_values_videos", "video_grid_thw")):
        if grids(media, kind, pair.protocol):
            assert grids(media, kind, pair.protocol) == np.asarray(out[grid]).tolist()
            ours = official_order(example, media, kind, pair.protocol)
            np.testing.assert_array_equal(ours, out[values])
    np.testing.assert_array_equal(example.positions, rope_index(pair, out))


@pytest.mark.parametrize("fps", [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 7.0, 12.5, 23.976, 24.0, 25.0,
                                 29.97, 30000 / 1001, 30.0])
@pytest.mark.parametrize("rate", [2, 4, 25])
def test_positions_at_any_rate(pair, fps, rate):
    protocol = dataclasses.replace(pair.protocol, tokens_per_second=float(rate))
    other = Pair(Processor(pair.ours.tokenizer, protocol), pair.official)
    for count in (1, 2, 3, 50, 121):
        for start in (0.0, 3.7):
            frames = np.zeros((count, 28, 28, 3), np.uint8)
            video = Video(frames, start + np.arange(count) / fps)
            _, out = run_official(other, [video], [fps])
            example = other.ours.prompt(QUESTION, [video])
            np.testing.assert_array_equal(example.positions, rope_index(other, out))


def test_the_chat_template_is_the_official_one():
    digest = hashlib.sha256(chat_template.CHAT_TEMPLATE.encode()).hexdigest()
    assert digest == "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb"


def test_a_sentencepiece_processor_is_exported_too(tmp_path):
    ours = Processor(tiny_tokenizer(), TINY)
    ours.export(tmp_path, CLASSES)
    pair = Pair(ours, transformers.AutoProcessor.from_pretrained(tmp_path))
    media, fps = CASES["mixed"]
    _, out = run_official(pair, media, fps)
    example = ours.prompt(QUESTION, media)
    assert example.tokens.tolist() == out["input_ids"][0].tolist()
    response = "<think>It moves <|latent_start|><|latent_end|>left.</think>\n<answer>B</answer>"
    ids = pair.official.tokenizer(response)["input_ids"]
    assert ids == ours.tokenizer.encode(response)
    assert pair.official.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == response
    assert type(load_processor(tmp_path).tokenizer) is type(ours.tokenizer)
    # transformers 5 splits text as the family does under the family's class, whatever the files.
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_another_system_turn(pair):
    protocol = dataclasses.replace(pair.protocol, system="Look closely.")
    ours = Processor(pair.ours.tokenizer, protocol).prompt_text(QUESTION, [clip(2, 1.0, 28, 28)])
    turns = [{"role": "system", "content": "Look closely."},
             *messages(protocol, [clip(2, 1.0, 28, 28)])]
    official = pair.official.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ours == official


@pytest.mark.parametrize("system", ["", "Look closely.", "Say {{ 'what' }} you {% see %}."])
def test_the_exported_template_has_the_protocols_system_turn(pair, tmp_path, system):
    protocol = dataclasses.replace(pair.protocol, system=system)
    ours = Processor(pair.ours.tokenizer, protocol)
    ours.export(tmp_path, CLASSES)
    official = transformers.AutoProcessor.from_pretrained(tmp_path)
    media = [clip(2, 1.0, 28, 28), Image(picture(30, 40))]
    text = official.apply_chat_template(
        messages(protocol, media), tokenize=False, add_generation_prompt=True)
    assert ours.prompt_text(QUESTION, media) == text


@pytest.mark.parametrize("text", HARD_TEXT)
def test_tokens_and_offsets(pair, text):
    official = pair.official.tokenizer(text, return_offsets_mapping=True)
    assert pair.ours.tokenizer.encode(text) == official["input_ids"]
    spans = [(a, b) for _, a, b in pair.ours.tokenizer.encode_with_offsets(text)]
    assert spans == official["offset_mapping"]
    assert pair.ours.tokenizer.decode(official["input_ids"]) == pair.official.tokenizer.decode(
        official["input_ids"], clean_up_tokenization_spaces=False)


def test_the_slow_tokenizer_opens_too(pair, tmp_path):
    pair.ours.export(tmp_path, CLASSES)
    slow = transformers.AutoProcessor.from_pretrained(tmp_path, use_fast=False)
    assert type(slow.tokenizer).__name__ == "Qwen2Tokenizer"
    text = "<|im_start|>user\nthe thing<|latent_start|><|latent_pad|><|latent_end|> in there"
    assert slow.tokenizer(text)["input_ids"] == pair.ours.tokenizer.encode(text)


def test_the_added_tokens_go_where_transformers_puts_them(tmp_path):
    backend = small_bpe().backend
    vocab = backend.get_vocab(with_added_tokens=False)
    import tokenizers

    bare = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    bare.add_special_tokens([n for n in SPECIAL_TOKENS if n not in IMAGERY_TOKENS])
    bare.save(str(tmp_path / "tokenizer.json"))
    official = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for name in IMAGERY_TOKENS:
        official.add_tokens(name, special_tokens=True)
    ours = HFTokenizer(tmp_path, add_imagery=True)
    assert [ours.id(n) for n in SPECIAL_TOKENS] == official.convert_tokens_to_ids(
        list(SPECIAL_TOKENS))
    assert ours.vocab_size == len(official)


def test_a_directory_that_transformers_wrote_opens_here(pair, tmp_path):
    pair.official.save_pretrained(tmp_path)
    again = load_processor(tmp_path)
    protocol = dataclasses.replace(again.protocol, window=pair.protocol.window)
    assert protocol == pair.protocol
    again = Processor(again.tokenizer, protocol)
    media, _ = CASES["mixed"]
    ours, theirs = pair.ours.prompt(QUESTION, media), again.prompt(QUESTION, media)
    for field in dataclasses.fields(ours):
        if field.name != "slots":
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    np.testing.assert_array_equal(ours.slots.patches, theirs.slots.patches)


def test_what_transformers_saves_again_keeps_the_protocol(tmp_path):
    """Its files have names for patches and pixels; ours for the rest travel with them."""
    plain = dataclasses.replace(TINY, image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.25))
    protocol = dataclasses.replace(plain, suffix="released", latent_size=9, pooling="grid", fps=0.5,
                                   max_frames=7, system="Look closely.")
    Processor(small_bpe(), protocol).export(tmp_path / "ours", CLASSES)
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "protocol.json").exists()
    model = ProtocolSpec(window=TINY.window, patch_size=TINY.patch_size)
    assert load_processor(tmp_path / "saved", model).protocol == protocol
    path = tmp_path / "saved" / "preprocessor_config.json"
    value = json.loads(path.read_text())
    for own, words in ((7, "'fourd4d' is 7, not an object"), ({"sufix": "none"}, "unknown fields")):
        path.write_text(json.dumps(value | {"fourd4d": own}))
        with pytest.raises(InputError, match=words):
            load_processor(tmp_path / "saved", model)
    del value["fourd4d"]  # A stranger's directory: what it leaves open is the default.
    path.write_text(json.dumps(value))
    assert load_processor(tmp_path / "saved", model).protocol == plain
