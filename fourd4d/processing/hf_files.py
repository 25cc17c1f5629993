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
_VIDEO_PREPROCESSOR = "video_preprocessor_config.json"
_BOUNDS = ("min_pixels", "max_pixels")
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
    video_processor: str
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
        _PREPROCESSOR: _preprocessor_config(protocol, classes, "image"),
        "chat_template.json": {"chat_template": chat_template.jinja(protocol)},
    }
    if protocol.pixel_bounds("image") != protocol.pixel_bounds("video"):
        files[_VIDEO_PREPROCESSOR] = _preprocessor_config(protocol, classes, "video") | {
            "video_processor_type": classes.video_processor}
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


def _preprocessor_config(protocol: ProtocolSpec, classes: ProcessorClasses, kind: str
                         ) -> dict[str, Any]:
    low, high = protocol.pixel_bounds(kind)
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        _OURS: {name: getattr(protocol, name) for name in _UNNAMED},
        "image_mean": list(protocol.image_mean),
        "image_processor_type": classes.image_processor,
        "image_std": list(protocol.image_std),
        "max_pixels": high,
        "merge_size": protocol.merge,
        "min_pixels": low,
        "patch_size": protocol.patch_size,
        "processor_class": classes.processor,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": high, "shortest_edge": low},
        "temporal_patch_size": protocol.temporal_patch,
    }


def read_protocol(directory: Path, unsaid: ProtocolSpec) -> ProtocolSpec:
    """The protocol that a Hugging Face directory implies.

    Read are ``preprocessor_config.json`` and ``video_preprocessor_config.json`` or, as
    transformers 5 writes, the parts on images and on videos of ``processor_config.json``. Bounds of
    pixels may differ between them, nothing else. What a directory written
    here said of the prompt's suffix, latents and frames is in it too, and outlives being saved
    again by transformers.

    Args:
      unsaid: has what these files do not say, such as the model's window and time scale.

    Raises:
      InputError: no readable file of the two, or fields that no protocol has.
    """
    path, videos = directory / _PREPROCESSOR, directory / _VIDEO_PREPROCESSOR
    if path.is_file() or not (directory / _PROCESSOR).is_file():
        value = read_object(path, "Give a directory with protocol.json, or with it")
        video = read_object(videos, "") if videos.is_file() else {}
    else:
        path = videos = directory / _PROCESSOR
        both = read_object(path, "")
        value, video = both.get("image_processor"), both.get("video_processor") or {}
        if not isinstance(value, dict):
            raise InputError(path, "it has no image_processor",
                             "Give a vision-language model's processor")
        if not isinstance(video, dict):
            raise InputError(path, "its video_processor is not an object", "Fix it")
    own = value.get(_OURS, {})
    if not isinstance(own, dict):
        raise InputError(path, f"{_OURS!r} is {own!r}, not an object", "Remove it")
    named, of_videos = _named(value, path), _named(video, videos)
    for name, field in of_videos.items():
        if name in _BOUNDS:
            named |= {f"image_{name}": named[name]} if named.get(name, field) != field else {}
            named[name] = field
        elif named.get(name, field) != field:
            raise InputError(videos, f"{name} of videos is {field}, of images {named[name]}",
                             "Only their bounds of pixels may differ; save them alike")
    return ProtocolSpec.from_json({**unsaid.to_json(), **named, **own}, path)


def _named(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a protocol that an image or video processor's file sets."""
    size = value.get("size") or {}
    if not isinstance(size, dict):
        raise InputError(path, f"'size' is {size!r}, not an object", "Fix it")
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if value.get(name, True) is not True:
            raise InputError(path, f"{name} is {value[name]!r}",
                             "Pixels are always resized and normalised here; set it to true")
    fields = {
        "patch_size": value.get("patch_size"),
        "temporal_patch": value.get("temporal_patch_size"),
        "merge": value.get("merge_size"),
        "min_pixels": value.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": value.get("max_pixels") or size.get("longest_edge"),
        "image_mean": value.get("image_mean"),
        "image_std": value.get("image_std"),
    }
    return {name: field for name, field in fields.items() if field is not None}
