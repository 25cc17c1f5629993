"""Text to token ids and back: SentencePiece and Hugging Face tokenizers behind one interface.

Both recognise the strings of ``SPECIAL_TOKENS`` anywhere in a text as single ids, and both give
back exactly the text they were given.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, SupportsInt, runtime_checkable

import sentencepiece
import tokenizers
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from fourd4d.core.errors import InputError
from fourd4d.core.files import readable, replacing

END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
VISION_START: Final = "<|vision_start|>"
VISION_END: Final = "<|vision_end|>"
VISION_PAD: Final = "<|vision_pad|>"
IMAGE_PAD: Final = "<|image_pad|>"
VIDEO_PAD: Final = "<|video_pad|>"
LATENT_PAD: Final = "<|latent_pad|>"
LATENT_START: Final = "<|latent_start|>"
LATENT_END: Final = "<|latent_end|>"

BASE_TOKENS: Final = (
    END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, VISION_PAD, IMAGE_PAD, VIDEO_PAD,
)
IMAGERY_TOKENS: Final = (LATENT_PAD, LATENT_START, LATENT_END)
"""The added tokens, in the order in which ids are given to them."""
SPECIAL_TOKENS: Final = BASE_TOKENS + IMAGERY_TOKENS

_META = "\u2581"  # SentencePiece's stand-in for a space.
# Letters that are one piece with and without a space before; the shipped vocabulary has these.
SHARED_LETTERS: Final = "ABCDEFGH"
_REPLACEMENT = "\ufffd"


@runtime_checkable
class Tokenizer(Protocol):
    """What every other part of the package knows of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""
        ...

    @property
    def eos(self) -> int:
        """Id that ends a turn, ``<|im_end|>``."""
        ...

    @property
    def pad(self) -> int:
        """Id for unused places, ``<|endoftext|>``."""
        ...

    @property
    def added(self) -> tuple[int, ...]:
        """Ids of the imagery tokens that its file lacked, in order."""
        ...

    def id(self, name: str) -> int:
        """Id of a special token. Raises InputError when the vocabulary lacks it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; nothing is added at its ends."""
        ...

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) with ``text[start:end]`` the characters that the id stands for.

        The ids of one character that needs several share its span.
        """
        ...

    def decode(self, ids: Iterable[SupportsInt], skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that form no character become U+FFFD."""
        ...

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the vocabulary where ``load_tokenizer`` finds it; returns the file."""
        ...


def write_file(path: Path, data: bytes) -> None:
    """Writes under a temporary name, then renames; makes the directory."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("text", f"character {error.start} is half a surrogate pair",
                         "Decode the text with errors='replace'") from error


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback and the special tokens as user-defined symbols.

    Args:
      path: the file.
      add_imagery: append those of ``IMAGERY_TOKENS`` that the model lacks, at the next ids.

    Raises:
      InputError: no such file, no SentencePiece model, no byte fallback, special tokens missing.
    """

    def __init__(self, path: str | os.PathLike[str], add_imagery: bool = False):
        path = Path(path)
        if not path.is_file():
            raise InputError(path, "no such file", "Give a SentencePiece .model file")
        with readable(path):
            model = path.read_bytes()
        self._load(model, str(path), add_imagery)

    @classmethod
    def from_bytes(cls, model: bytes, where: str = "model") -> SentencePieceTokenizer:
        """A tokenizer from the bytes of a model file."""
        value = cls.__new__(cls)
        value._load(model, where)
        return value

    def _load(self, model: bytes, where: str, add_imagery: bool = False) -> None:
        model, lacking = _with_imagery(model, where) if add_imagery else (model, [])
        self._model, self._where = model, where
        try:
            self._sp = sentencepiece.SentencePieceProcessor()
            self._sp.LoadFromSerializedProto(model)
            size = self._sp.GetPieceSize()
        except RuntimeError as error:
            raise InputError(where, f"no SentencePiece model ({error})",
                             "Train one with fourd4d.processing.train_tokenizer") from error
        pieces: list[str] = [self._sp.IdToPiece(i) for i in range(size)]
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [name for name in SPECIAL_TOKENS if name not in ids]
        missing += ["byte fallback"] * any(f"<0x{b:02X}>" not in ids for b in range(256))
        if missing:
            raise InputError(
                where, f"the model lacks {', '.join(missing)}",
                "Pass add_imagery=True to add the imagery tokens"
                if set(missing) <= set(IMAGERY_TOKENS)
                else "Train it with fourd4d.processing.train_tokenizer")
        self._ids = ids
        self._added = tuple(ids[name] for name in lacking)
        self._special = {ids[name] for name in SPECIAL_TOKENS}
        self._byte_ids = [ids[f"<0x{b:02X}>"] for b in range(256)]
        self._bytes: list[bytes] = [p.replace(_META, " ").encode("utf-8") for p in pieces]
        for byte, index in enumerate(self._byte_ids):
            self._bytes[index] = bytes([byte])

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def eos(self) -> int:
        return self._ids[TURN_END]

    @property
    def pad(self) -> int:
        return self._ids[END_OF_TEXT]

    @property
    def added(self) -> tuple[int, ...]:
        return self._added

    @property
    def model(self) -> bytes:
        """The bytes of the model file."""
        return self._model

    def id(self, name: str) -> int:
        if name not in self._ids:
            raise InputError(self._where, f"no token {name!r}", f"Known: {list(SPECIAL_TOKENS)}")
        return self._ids[name]

    def encode(self, text: str) -> list[int]:
        _check_text(text)
        ids: list[int] = []
        # The model cannot tell a space from its own mark for spaces: that one goes in as bytes.
        for part in _split_keep(text, _META):
            if part == _META:
                ids += [self._byte_ids[b] for b in _META.encode("utf-8")]
            elif part:
                ids += self._sp.Encode(part)
        return ids

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        ids = self.encode(text)
        starts, at = [], 0
        for char in text:
            starts.append(at)
            at += len(char.encode("utf-8"))
        starts.append(at)
        owner = {}
        for number, (begin, end) in enumerate(zip(starts, starts[1:], strict=False)):
            owner.update(dict.fromkeys(range(begin, end), number))
        spans, at = [], 0
        for index in ids:
            end = at + len(self._bytes[index])
            spans.append((index, owner[at], owner[end - 1] + 1))
            at = end
        return spans

    def decode(self, ids: Iterable[SupportsInt], skip_special: bool = False) -> str:
        data = b"".join(self._bytes[int(i)] for i in ids
                        if not (skip_special and int(i) in self._special))
        return data.decode("utf-8", errors="replace")

    def save(self, directory: str | os.PathLike[str]) -> Path:
        path = Path(directory) / "tokenizer.model"
        write_file(path, self._model)
        return path

    def __reduce__(self):  # Data workers receive the tokenizer pickled.
        return _unpickle, (type(self), "from_bytes", self._model, self._where)


def _with_imagery(model: bytes, where: object) -> tuple[bytes, list[str]]:
    """The model with the imagery tokens it lacks as its last pieces, and these tokens."""
    schema: Any = sentencepiece_model_pb2  # Generated: type checkers see nothing in it.
    try:
        value = schema.ModelProto.FromString(model)
    except DecodeError as error:
        raise InputError(where, f"no SentencePiece model ({error})",
                         "Train one with fourd4d.processing.train_tokenizer") from error
    present = {entry.piece for entry in value.pieces}
    lacking = [name for name in IMAGERY_TOKENS if name not in present]
    for name in lacking:
        value.pieces.add(piece=name, score=0.0, type=schema.ModelProto.SentencePiece.USER_DEFINED)
    return value.SerializeToString(), lacking


def _split_keep(text: str, mark: str) -> list[str]:
    parts: list[str] = []
    for i, part in enumerate(text.split(mark)):
        parts += [mark] * (i > 0) + [part]
    return parts


class HFTokenizer:
    """A ``tokenizer.json`` of the tokenizers library.

    Args:
      path: the file, or a directory that holds it.
      add_imagery: append those of ``IMAGERY_TOKENS`` that the vocabulary lacks, as
        ``transformers.PreTrainedTokenizer.add_tokens`` does: at the next free ids.

    Raises:
      InputError: no such file, unreadable, special tokens missing.
    """

    def __init__(self, path: str | os.PathLike[str], add_imagery: bool = False):
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(path, "no such file", "Give a tokenizer.json")
        try:
            with readable(path):
                text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(path, f"no tokenizer.json ({error})",
                             "Give a file of the tokenizers library") from error
        self._load(text, str(path), add_imagery)

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json",
                  add_imagery: bool = False) -> HFTokenizer:
        """A tokenizer from the text of a ``tokenizer.json``."""
        value = cls.__new__(cls)
        value._load(text, where, add_imagery)
        return value

    def _load(self, text: str, where: str, add_imagery: bool) -> None:
        self._where = where
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # The library raises bare Exception.
            raise InputError(where, f"no tokenizer.json ({error})",
                             "Give a file of the tokenizers library") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        lacking = [n for n in IMAGERY_TOKENS if self._tokenizer.token_to_id(n) is None]
        if add_imagery:
            self._tokenizer.add_special_tokens(
                [tokenizers.AddedToken(n, normalized=False, special=True) for n in lacking])
        missing = [n for n in SPECIAL_TOKENS if self._tokenizer.token_to_id(n) is None]
        if missing:
            raise InputError(
                where, f"the vocabulary lacks {', '.join(missing)}",
                "Pass add_imagery=True to add the imagery tokens"
                if set(missing) <= set(IMAGERY_TOKENS) else "Give the tokenizer of the model")
        self._added = tuple(self.id(n) for n in lacking)
        self._special = {self._tokenizer.token_to_id(n) for n in SPECIAL_TOKENS}
        self._special |= {i for i, token in self._tokenizer.get_added_tokens_decoder().items()
                          if token.special}

    @property
    def added(self) -> tuple[int, ...]:
        return self._added

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The wrapped tokenizer."""
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def eos(self) -> int:
        return self.id(TURN_END)

    @property
    def pad(self) -> int:
        return self.id(END_OF_TEXT)

    def id(self, name: str) -> int:
        index = self._tokenizer.token_to_id(name)
        if index is None:
            raise InputError(self._where, f"no token {name!r}", f"Known: {list(SPECIAL_TOKENS)}")
        return index

    def encode(self, text: str) -> list[int]:
        _check_text(text)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        _check_text(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [(i, *span) for i, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def decode(self, ids: Iterable[SupportsInt], skip_special: bool = False) -> str:
        kept = [int(i) for i in ids if not (skip_special and int(i) in self._special)]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        path = Path(directory) / "tokenizer.json"
        write_file(path, self._tokenizer.to_str(pretty=True).encode("utf-8"))
        return path

    def __reduce__(self):
        return _unpickle, (type(self), "from_json", self._tokenizer.to_str(), self._where)


def _unpickle(kind: type, maker: str, content: bytes | str, where: str) -> object:
    # At module level: picklers store a bound classmethod by value, wrappers and all.
    return getattr(kind, maker)(content, where)


def load_tokenizer(path: str | os.PathLike[str], add_imagery: bool = False) -> Tokenizer:
    """The tokenizer in a ``.model`` or ``.json`` file, or in a directory that holds one.

    Args:
      add_imagery: append the imagery tokens that it lacks instead of refusing it.

    Raises:
      InputError: neither ``tokenizer.model`` nor ``tokenizer.json`` there, or special tokens are
        missing.
    """
    path = Path(path)
    candidates = [path / "tokenizer.model", path / "tokenizer.json"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".model":
            return SentencePieceTokenizer(candidate, add_imagery)
        if candidate.is_file() and candidate.suffix == ".json":
            return HFTokenizer(candidate, add_imagery)
    raise InputError(path, "no tokenizer here", "Give a tokenizer.model or a tokenizer.json")


def tiny_tokenizer() -> SentencePieceTokenizer:
    """The small tokenizer shipped with the package, trained on its own questions and reasoning."""
    asset = importlib.resources.files("fourd4d.processing") / "assets" / "tiny.model"
    return SentencePieceTokenizer.from_bytes(asset.read_bytes(), "tiny.model")


def inside_tokens(text: str, names: Sequence[str] = SPECIAL_TOKENS) -> list[int]:
    """Where to cut a text so that no part holds a special token: a place inside each, in order."""
    return [match.start() + 2 for match in re.finditer("|".join(map(re.escape, names)), text)]


def check_plain(text: str, where: object, names: Sequence[str] = SPECIAL_TOKENS) -> None:
    """Raises InputError when a user's text holds a special token."""
    for name in names:
        if name in text:
            raise InputError(where, f"the text holds the control token {name}", "Remove it")
