"""A SentencePiece BPE as a ``tokenizer.json``, so that other tools read what we export."""

from __future__ import annotations

from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers

from fourd4d.processing.tokenizer import SPECIAL_TOKENS, HFTokenizer
from fourd4d.processing.train_tokenizer import SHARED_LETTERS

_META = "\u2581"


def to_tokenizer_json(model: bytes, where: str = "model") -> HFTokenizer:
    """A ``SentencePieceTokenizer``'s model as a ``tokenizer.json``.

    The ids are the same for the same text, with two exceptions that no text of ours meets. A
    literal U+2581 becomes a space. And where SentencePiece leaves a lone space before the first
    letter of a word it does not know, the letter may join it.
    """
    schema: Any = sentencepiece_model_pb2  # Generated: type checkers see nothing in it.
    kinds = schema.ModelProto.SentencePiece
    entries = schema.ModelProto.FromString(model).pieces
    pieces = [entry.piece for entry in entries]
    symbols = [e.piece for e in entries
               if e.type == kinds.USER_DEFINED and e.piece not in SPECIAL_TOKENS]
    split_letters = any(e.type == kinds.UNUSED for e in entries)
    joined = [e.piece for e in entries if e.type in (kinds.NORMAL, kinds.UNUSED)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:]) for piece in joined for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend: Any = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token=pieces[0], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", _META)
    if split_letters:
        letter = rf"{_META}(?=[{SHARED_LETTERS}](?!\p{{L}}))"
        backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(letter), "isolated")
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_META, " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(
        [tokenizers.AddedToken(n, normalized=False, special=True) for n in SPECIAL_TOKENS])
    backend.add_tokens(
        [tokenizers.AddedToken(n, normalized=False, special=False) for n in symbols])
    return HFTokenizer.from_json(backend.to_str(), where)
