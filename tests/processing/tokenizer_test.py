"""Tokenizers: exact round trips, special tokens, offsets, the shipped model and its recipe."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies
import pytest
import tokenizers
from helpers.tokenizers import HARD_TEXT, small_bpe

import fourd4d.processing
from fourd4d.core.errors import InputError
from fourd4d.processing import chat_template, train_tokenizer
from fourd4d.processing.sentencepiece_export import to_tokenizer_json
from fourd4d.processing.tokenizer import (
    IMAGERY_TOKENS,
    SPECIAL_TOKENS,
    HFTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    tiny_tokenizer,
)

ASSETS = Path(fourd4d.processing.__file__).parent / "assets"


@pytest.fixture(scope="module", params=["sentencepiece", "tokenizers"])
def tokenizer(request) -> Tokenizer:
    return tiny_tokenizer() if request.param == "sentencepiece" else small_bpe()


@pytest.mark.parametrize("text", HARD_TEXT)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@hypothesis.given(hypothesis.strategies.text())
@hypothesis.settings(deadline=None, derandomize=True)
def test_any_text_round_trips(text):
    tiny = tiny_tokenizer()
    assert tiny.decode(tiny.encode(text)) == text


@pytest.mark.parametrize("text", HARD_TEXT)
def test_offsets_cover_the_text(tokenizer, text):
    spans = tokenizer.encode_with_offsets(text)
    assert [i for i, _, _ in spans] == tokenizer.encode(text)
    covered = set()
    for index, start, end in spans:
        assert 0 <= start < end <= len(text)
        covered |= set(range(start, end))
        decoded = tokenizer.decode([index])
        if "\ufffd" not in decoded:
            assert text[start:end] == decoded
    assert covered == set(range(len(text)))


def test_special_tokens_are_single_ids_anywhere(tokenizer):
    for name in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a{name}b {name}")
        assert ids.count(tokenizer.id(name)) == 2
        assert tokenizer.encode(name) == [tokenizer.id(name)]
    assert tokenizer.eos == tokenizer.id("<|im_end|>")
    assert tokenizer.pad == tokenizer.id("<|endoftext|>")
    assert len({tokenizer.id(n) for n in SPECIAL_TOKENS}) == len(SPECIAL_TOKENS)
    with pytest.raises(InputError, match="no token"):
        tokenizer.id("<|nothing|>")


def test_special_tokens_can_be_left_out_when_decoding(tokenizer):
    block = "<|latent_start|><|latent_pad|><|latent_end|>"
    ids = tokenizer.encode(f"<think>a {block}b</think><|im_end|>")
    assert tokenizer.decode(ids, skip_special=True) == "<think>a b</think>"


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("a\ud800")


def test_save_load_and_pickle(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    text = "The red cube, twice <|latent_pad|>."
    for copy in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert copy.encode(text) == tokenizer.encode(text)
        assert copy.vocab_size == tokenizer.vocab_size


def test_bytes_that_are_no_character_decode_to_a_replacement():
    tiny = tiny_tokenizer()
    assert tiny.decode(tiny.encode("é")[:1]) == "\ufffd"


def test_imagery_tokens_are_added_at_the_next_ids():
    bpe = small_bpe()
    first = bpe.id("<|video_pad|>") + 1
    assert [bpe.id(n) for n in IMAGERY_TOKENS] == [first, first + 1, first + 2]
    assert bpe.vocab_size == first + 3


def test_a_tokenizer_without_the_tokens_is_refused(tmp_path):
    backend = tokenizers.Tokenizer.from_str(small_bpe().backend.to_str())
    plain = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"lacks <\|endoftext\|>"):
        HFTokenizer(tmp_path)
    plain.add_special_tokens(
        [n for n in SPECIAL_TOKENS if n not in IMAGERY_TOKENS])
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="add_imagery=True"):
        HFTokenizer(tmp_path)
    assert HFTokenizer(tmp_path, add_imagery=True).id("<|latent_pad|>") == 9
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).vocab_size == small_bpe().vocab_size


def sentencepiece_without(names, path):
    """Writes the shipped model without some pieces; how many are left."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tiny_tokenizer().model)
    kept = [piece for piece in model.pieces if piece.piece not in names]
    del model.pieces[:]
    model.pieces.extend(kept)
    path.write_bytes(model.SerializeToString())
    return len(kept)


def test_a_sentencepiece_model_gets_the_tokens_at_the_next_ids(tmp_path):
    size = sentencepiece_without(IMAGERY_TOKENS, tmp_path / "tokenizer.model")
    with pytest.raises(InputError, match=r"lacks <\|latent_pad\|>.*add_imagery=True"):
        load_tokenizer(tmp_path)
    added = load_tokenizer(tmp_path, add_imagery=True)
    assert [added.id(n) for n in IMAGERY_TOKENS] == list(added.added) == [size, size + 1, size + 2]
    assert added.vocab_size == size + 3
    text = "Look: <|latent_start|><|latent_pad|><|latent_end|> left."
    assert added.decode(added.encode(text)) == text
    assert [i for i in added.encode(text) if i >= size] == [size + 1, size, size + 2]
    plain = text.replace("<|latent_start|><|latent_pad|><|latent_end|>", "")
    tiny = tiny_tokenizer()
    assert [added.decode([i]) for i in added.encode(plain)] == [
        tiny.decode([i]) for i in tiny.encode(plain)]
    added.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode(text) == added.encode(text) and again.added == ()
    sentencepiece_without(("<|im_end|>",), tmp_path / "tokenizer.model")
    with pytest.raises(InputError, match=r"lacks <\|im_end\|>.*train_tokenizer"):
        load_tokenizer(tmp_path, add_imagery=True)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no SentencePiece model"):
        load_tokenizer(tmp_path, add_imagery=True)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path / "bad.json")


def test_the_shipped_model_fits_its_text():
    """Small, with tags, line breaks and option letters as single pieces wherever they stand."""
    tiny = tiny_tokenizer()
    assert tiny.vocab_size <= 1024
    for tag in (*train_tokenizer.TAGS, "\n"):
        assert len(tiny.encode(tag)) == 1
    for letter in "ABCDEFGH":
        index = tiny.encode(letter)
        assert len(index) == 1
        assert tiny.encode(f"option {letter}")[-1] == index[0]
        assert tiny.encode(f"<answer>{letter}.")[1] == index[0]
    for words in (chat_template.SUFFIX, "Which way does the red cube move?", "A. Left-Up"):
        pieces = words.replace(".", " .").replace("?", " ?").replace("-", " - ").split()
        assert len(tiny.encode(words)) <= len(pieces) + 10
    assert [tiny.decode([i]) for i in tiny.encode("12.5")] == list("12.5")


def test_the_recipe_gives_the_shipped_model(tmp_path):
    train_tokenizer.main(["--text", str(ASSETS / "tiny.txt"), "--out", str(tmp_path / "t.model")])
    again, tiny = SentencePieceTokenizer(tmp_path / "t.model"), tiny_tokenizer()
    assert again.vocab_size == tiny.vocab_size
    assert all(again.decode([i]) == tiny.decode([i]) for i in range(tiny.vocab_size))
    text = (ASSETS / "tiny.txt").read_text(encoding="utf-8")
    assert again.encode(text) == tiny.encode(text)


def test_bad_training_text(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        train_tokenizer.main(["--text", str(tmp_path / "x"), "--out", str(tmp_path / "y")])
    with pytest.raises(InputError, match="no text"):
        train_tokenizer.train(["", "  "])
    with pytest.raises(InputError, match="too small"):
        train_tokenizer.train(["some text"], vocab_size=200)


def test_processing_does_not_start_jax():
    script = ("import sys, pkgutil, importlib, fourd4d.processing as p\n"
              "for m in pkgutil.iter_modules(p.__path__):\n"
              "    importlib.import_module(p.__name__ + '.' + m.name)\n"
              "assert not {'jax', 'torch', 'tensorflow'} & set(sys.modules), 'started'")
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_shipped_model_as_tokenizer_json(tmp_path):
    """Other tools get the same ids for the text that the model was trained on."""
    tiny = tiny_tokenizer()
    other = to_tokenizer_json(tiny.model)
    assert other.vocab_size == tiny.vocab_size
    assert [other.id(n) for n in SPECIAL_TOKENS] == [tiny.id(n) for n in SPECIAL_TOKENS]
    text = (ASSETS / "tiny.txt").read_text(encoding="utf-8")
    block = "<|latent_start|><|latent_pad|><|latent_end|>"
    for line in [*text.splitlines(), *HARD_TEXT, text, f"<|im_start|>user\nIt {block} moves.\n"]:
        if "▁" in line:
            continue
        assert other.encode(line) == tiny.encode(line), line
        assert other.decode(other.encode(line)) == line
