"""The small JSON files from which ``transformers`` builds a processor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing import chat_template
from fourd4d.processing.tokenizer import END_OF_TEXT, TURN_END, HFTokenizer, write_file

_PREPROCESSOR = "preprocessor_config.json"
_PROCESSOR = "processor_config.json"
_OURS = "fourd4d"
_UNNAMED = ("max_frames", "fps", "latent_size", "pooling", "suffix", "system")
"""Fields of the protocol for which transformers' files have no name; they are kept under ``_OURS``,
which an image processor carries along when transformers saves it again."""

@dataclasses.dataclass(frozen=True)
class ProcessorClasses:
    """Names of transformers' classes, which a family of models brings along.

    Attributes:
      pattern: splits text before it is encoded; ``tokenizer`` does so whatever its files say.
    """

    processor: str
    tokenizer: str
    image_processor: str
    pattern: str


def write(directory: Path, tokenizer: HFTokenizer, protocol: ProtocolSpec,
          classes: ProcessorClasses) -> None:
    """Writes ``tokenizer_config.json``, ``preprocessor_config.json`` and ``chat_template.json``.

    A byte-level BPE is written as ``vocab.json`` and ``merges.txt`` too: transformers' slow
    tokenizer, which ``use_fast=False`` asks for, reads these.
    """
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        vocab = json.dumps(model["vocab"], ensure_ascii=False)
        write_file(directory / "vocab.json", vocab.encode("utf-8"))
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        text = "\n".join(["#version: 0.2", *merges, ""])
        write_file(directory / "merges.txt", text.encode("utf-8"))
    files = {
        "tokenizer_config.json": _tokenizer_config(tokenizer, protocol, classes),
        _PREPROCESSOR: _preprocessor_config(protocol, classes),
        "chat_template.json": {"chat_template": chat_template.jinja(protocol)},
    }
    for name, value in files.items():
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        write_file(directory / name, text.encode("utf-8"))


def _tokenizer_config(tokenizer: HFTokenizer, protocol: ProtocolSpec, classes: ProcessorClasses
                      ) -> dict[str, Any]:
    splits = json.loads(tokenizer.backend.to_str())["pre_tokenizer"] or {}
    patterns = [part.get("pattern") for part in splits.get("pretokenizers", [])]
    own = {"Regex": classes.pattern} in patterns
    added = tokenizer.backend.get_added_tokens_decoder()
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {field: getattr(token, field) for field in fields}
            for index, token in sorted(added.items())
        },
        "additional_special_tokens": [
            token.content for _, token in sorted(added.items())
            if token.special and token.content != END_OF_TEXT
        ],
        "bos_token": None,
        "chat_template": chat_template.jinja(protocol),
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": END_OF_TEXT,
        "processor_class": classes.processor,
        "split_special_tokens": False,
        "tokenizer_class": classes.tokenizer if own else "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _preprocessor_config(protocol: ProtocolSpec, classes: ProcessorClasses) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        _OURS: {name: getattr(protocol, name) for name in _UNNAMED},
        "image_mean": list(protocol.image_mean),
        "image_processor_type": classes.image_processor,
        "image_std": list(protocol.image_std),
        "max_pixels": protocol.max_pixels,
        "merge_size": protocol.merge,
        "min_pixels": protocol.min_pixels,
        "patch_size": protocol.patch_size,
        "processor_class": classes.processor,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": protocol.max_pixels, "shortest_edge": protocol.min_pixels},
        "temporal_patch_size": protocol.temporal_patch,
    }


def read_protocol(directory: Path, unsaid: ProtocolSpec) -> ProtocolSpec:
    """The protocol that a Hugging Face directory implies.

    Read is ``preprocessor_config.json`` or, as transformers 5 writes, the part on images of
    ``processor_config.json``: one spec serves images and videos here. What a directory written
    here said of the prompt's suffix, latents and frames is in it too, and outlives being saved
    again by transformers.

    Args:
      unsaid: has what these files do not say, such as the model's window and time scale.

    Raises:
      InputError: no readable file of the two, or fields that no protocol has.
    """
    path = directory / _PREPROCESSOR
    if path.is_file() or not (directory / _PROCESSOR).is_file():
        value = read_object(path, "Give a directory with protocol.json, or with it")
    else:
        path = directory / _PROCESSOR
        value = read_object(path, "").get("image_processor")
        if not isinstance(value, dict):
            raise InputError(path, "no image_processor",
                             "Give a vision-language model's processor")
    own = value.get(_OURS, {})
    if not isinstance(own, dict):
        raise InputError(path, f"{_OURS!r} is {own!r}, no object", "Remove it")
    size = value.get("size") or {}
    if not isinstance(size, dict):
        raise InputError(path, f"'size' is {size!r}, no object", "Mend it")
    fields = {
        "patch_size": value.get("patch_size"),
        "temporal_patch": value.get("temporal_patch_size"),
        "merge": value.get("merge_size"),
        "min_pixels": value.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": value.get("max_pixels") or size.get("longest_edge"),
        "image_mean": value.get("image_mean"),
        "image_std": value.get("image_std"),
    }
    named = {name: field for name, field in fields.items() if field is not None}
    return ProtocolSpec.from_json({**unsaid.to_json(), **named, **own}, path)
