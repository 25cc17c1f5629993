"""A ``.tiktoken`` file of byte-pair ranks as a ``tokenizer.json``.

Some vocabularies are published in this form too, where a model hub is out of reach.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from fourd4d.core.errors import InputError
from fourd4d.processing.tokenizer import HFTokenizer


def read_ranks(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """Token bytes and their ranks: one base64 token and one number a line.

    Raises:
      InputError: no such file, or a malformed line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "Give a .tiktoken file")
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise InputError(f"{path}:{number}", "no base64 token with its rank",
                             "Fetch the file again") from error
    return ranks


def split_by_ranks(piece: bytes, ranks: Mapping[bytes, int], below: int | None = None
                   ) -> list[bytes]:
    """Byte-pair encoding of one piece: join the adjacent pair of lowest rank while there is one.

    Args:
      below: leave pairs of this rank and higher ranks apart.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
        known = [(rank, i) for rank, i in pairs if rank is not None]
        if not known:
            break
        rank, i = min(known)
        if below is not None and rank >= below:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _byte_characters() -> list[str]:
    """The printable character by which byte-level vocabularies write each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


def tokenizer_from_ranks(
    ranks: Mapping[bytes, int],
    special: Sequence[str],
    added: Sequence[str],
    pattern: str,
) -> HFTokenizer:
    """The tokenizer of a rank table, with the imagery tokens after the published ones.

    Args:
      special, added: tokens after the table, as the official ``tokenizer.json`` has them.
      pattern: splits text into pieces that are encoded apart.

    Raises:
      InputError: a token of the table cannot be joined from two others.
    """
    characters = _byte_characters()

    def write(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        halves = split_by_ranks(token, ranks, below=rank)
        if len(halves) != 2:
            raise InputError("ranks", f"token {token!r} is not a pair of earlier tokens",
                             "Give a whole table")
        merges.append((write(halves[0]), write(halves[1])))
    vocab = {write(token): rank for token, rank in ranks.items()}
    backend: Any = tokenizers.Tokenizer(models.BPE(vocab, merges))  # Its stubs lack setters.
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(
        [tokenizers.AddedToken(n, normalized=False, special=True) for n in special])
    backend.add_tokens([tokenizers.AddedToken(n, normalized=False, special=False) for n in added])
    return HFTokenizer.from_json(backend.to_str(), "ranks", add_imagery=True)
