"""The real Qwen vocabulary: ids equal to a plain byte-pair oracle, and to transformers."""

from __future__ import annotations

import base64
import importlib.util
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import fourd4d
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models.qwen2_5_vl import CLASSES, tokenizer_from_tiktoken
from fourd4d.processing import tiktoken_ranks
from fourd4d.processing.media import Image, Video
from fourd4d.processing.processor import Processor
from fourd4d.processing.tokenizer import HFTokenizer, load_tokenizer

from helpers.tokenizers import HARD_TEXT  # isort: skip

regex = pytest.importorskip("regex")
_PATTERN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"""
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_FIRST_SPECIAL = 151643
_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
            "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654,
            "<|image_pad|>": 151655, "<|video_pad|>": 151656, "<|file_sep|>": 151664,
            "<|latent_pad|>": 151665, "<|latent_start|>": 151666, "<|latent_end|>": 151667}


@pytest.fixture(scope="module")
def file() -> Path:
    found = importlib.util.find_spec("dashscope")  # Found, not imported: it needs much else.
    if found is None or found.origin is None:
        pytest.skip("the dashscope wheel is not installed")
    return Path(found.origin).parent / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="module")
def table(file: Path) -> dict[bytes, int]:
    lines = file.read_bytes().split(b"\n")
    return {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines if line)}


@pytest.fixture(scope="module")
def qwen(file) -> HFTokenizer:
    return tokenizer_from_tiktoken(file)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Hard text, code, and random characters of many scripts.

    Unassigned characters are left out: libraries of different Unicode ages class them differently.
    """
    code = sorted(Path(fourd4d.__file__).parent.rglob("*.py"))
    texts = HARD_TEXT + [path.read_text(encoding="utf-8") for path in code[:25]]
    rng = random.Random(0)
    scripts = [range(32, 127), range(0xA0, 0x250), range(0x370, 0x600), range(0x900, 0xE00),
               range(0x3040, 0x3100), range(0x4E00, 0x9FFF), range(0x1F300, 0x1FAFF), range(1, 32),
               range(0x2000, 0x2070), range(0x300, 0x36F)]
    for _ in range(400):
        script = rng.choice(scripts)
        mixed = [chr(rng.choice(script if rng.random() < 0.7 else scripts[0])) for _ in range(40)]
        mixed = [char for char in mixed if unicodedata.category(char) != "Cn"]
        texts.append("".join(rng.choice(mixed) * rng.choice((1, 1, 1, 2, 5)) for _ in range(40)))
    return texts


def oracle(text: str, table: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding as it is defined: again and again, join the leftmost lowest pair."""
    ids = []
    for part in regex.split(r"(<\|[a-z_]+\|>)", text):
        if part in _SPECIAL:
            ids.append(_SPECIAL[part])
            continue
        for piece in regex.findall(_PATTERN, unicodedata.normalize("NFC", part)):
            parts = [bytes([byte]) for byte in piece.encode()]
            while True:
                ranked = [table.get(a + b, 1 << 30) for a, b in zip(parts, parts[1:], strict=False)]
                if not ranked or min(ranked) == 1 << 30:
                    break
                at = ranked.index(min(ranked))
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            ids += [table[part] for part in parts]
    return ids


def test_every_token_of_the_table_keeps_its_id(table, qwen):
    backend = qwen.backend
    assert len(table) == _FIRST_SPECIAL
    assert qwen.vocab_size == 151668
    vocab = backend.get_vocab()
    characters = tiktoken_ranks._byte_characters()
    for token, rank in table.items():
        assert vocab["".join(characters[byte] for byte in token)] == rank


def test_special_tokens_have_the_published_ids(qwen):
    for name, index in _SPECIAL.items():
        assert qwen.id(name) == index
        assert qwen.encode(f"a{name}b")[1] == index


def test_ids_equal_the_oracle(table, qwen, texts):
    for text in texts:
        assert qwen.encode(text) == oracle(text, table), text


def test_round_trip(qwen, texts):
    """Exact on composed text; Qwen's tokenizer composes the rest (NFC)."""
    for text in texts:
        assert qwen.decode(qwen.encode(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.slow
def test_equal_to_transformers(qwen, texts, tmp_path):
    transformers = pytest.importorskip("transformers")
    Processor(qwen, ProtocolSpec()).export(tmp_path, CLASSES)
    official = transformers.AutoTokenizer.from_pretrained(tmp_path)
    slow = transformers.AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    assert len(official) == qwen.vocab_size
    assert load_tokenizer(tmp_path).vocab_size == qwen.vocab_size
    for text in texts:
        theirs = official(text, return_offsets_mapping=True)
        assert qwen.encode(text) == theirs["input_ids"]
        spans = [(a, b) for _, a, b in qwen.encode_with_offsets(text)]
        assert spans == theirs["offset_mapping"]
        assert qwen.encode(text) == slow(text)["input_ids"], text


def test_a_prompt_in_the_real_vocabulary(table, qwen):
    processor = Processor(qwen, ProtocolSpec(max_pixels=56 * 56))
    media = [Video(np.zeros((3, 56, 56, 3), np.uint8), np.arange(3.0)),
             Image(np.zeros((56, 56, 3), np.uint8))]
    example = processor.example("Which way?\n\nA. Left\nB. Right", media,
                                "<think>See <output_image>.</think>\n<answer>B. Right</answer>",
                                [np.zeros((56, 56, 3), np.uint8)])
    tokens = example.tokens.tolist()
    assert tokens[:3] == [151644, 8948, 198]
    assert tokens.count(151656) == 8 and tokens.count(151655) == 4
    at = tokens.index(151666)
    assert tokens[at : at + 6] == [151666, 151665, 151665, 151665, 151665, 151667]
    assert tokens[-1] == 151645
    text = qwen.decode(tokens)
    assert oracle(text, table) == tokens


def test_bad_tables(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        tiktoken_ranks.read_ranks(tmp_path / "x")
    (tmp_path / "x").write_text("YQ== 0\nnot a line\n")
    with pytest.raises(InputError, match="x:2"):
        tiktoken_ranks.read_ranks(tmp_path / "x")
    (tmp_path / "x").write_text("YQ== 0\nYg== 1\nYWI= 2\n\n")
    assert tiktoken_ranks.read_ranks(tmp_path / "x") == {b"a": 0, b"b": 1, b"ab": 2}
    with pytest.raises(InputError, match="not a pair"):
        tiktoken_ranks.tokenizer_from_ranks({b"a": 0, b"b": 1, b"aba": 2}, [], [], r"\s+")
