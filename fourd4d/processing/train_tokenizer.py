r"""Trains the small SentencePiece tokenizer.

  python -m fourd4d.processing.train_tokenizer --text fourd4d/processing/assets/tiny.txt \
      --out tiny.model

``assets/tiny.txt`` is the text behind the shipped ``assets/tiny.model``: questions and responses
of synthesized samples, and a few words beside them. For other text give another file.

The model is a BPE: whole words that are common there become single pieces, digits stay apart,
anything else falls back to bytes. An option's letter is one id wherever it stands: its piece with
a space before it is marked unused, so ``option C`` and ``<answer>C`` share theirs. Text is taken
as it is (no normalisation, every space and line break kept), so any text comes back unchanged. The
same text gives the same model.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from fourd4d.core.errors import InputError
from fourd4d.processing.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer, write_file

TAGS: Final = ("<think>", "</think>", "<answer>", "</answer>")
# One piece each, after a space and elsewhere; the shipped vocabularies are made so.
SHARED_LETTERS: Final = "ABCDEFGH"
SYMBOLS: Final = (*SPECIAL_TOKENS, *TAGS, "\n")


def train(lines: Iterable[str], vocab_size: int = 1024) -> bytes:
    """A SentencePiece model of at most ``vocab_size`` pieces.

    Raises:
      InputError: no text.
    """
    sentences = [line for line in lines if line.strip()]
    if not sentences:
        raise InputError("corpus", "no text", "Give at least one line")
    fixed = len(SYMBOLS) + 256 + 1
    characters = len({c for line in sentences for c in line} - set("\n"))
    if vocab_size < fixed + characters:
        raise InputError("vocab_size", f"{vocab_size} is too small",
                         f"The symbols and letters alone need {fixed + characters}")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=list(SYMBOLS),
        unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
    )
    return _share_letters(model.getvalue())


def _share_letters(model: bytes) -> bytes:
    schema: Any = sentencepiece_model_pb2  # Generated: type checkers see nothing in it.
    proto = schema.ModelProto.FromString(model)
    for piece in proto.pieces:
        if piece.piece in {"\u2581" + letter for letter in SHARED_LETTERS}:
            piece.type = schema.ModelProto.SentencePiece.UNUSED
    return proto.SerializeToString(deterministic=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text, one line each")
    parser.add_argument("--out", type=Path, required=True, help="the model file to write")
    parser.add_argument("--vocab-size", type=int, default=1024)
    options = parser.parse_args(argv)
    if not options.text.is_file():
        raise InputError(options.text, "no such file", "Give a text file")
    model = train(options.text.read_text(encoding="utf-8").splitlines(), options.vocab_size)
    tokenizer = SentencePieceTokenizer.from_bytes(model, str(options.out))
    write_file(options.out, model)
    print(f"{options.out}: {tokenizer.vocab_size} pieces")


if __name__ == "__main__":
    main()
