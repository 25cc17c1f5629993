"""The small JSON files from which ``transformers`` builds a processor."""

from __future__ import annotations

import dataclasses
import json
import math
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
_EDGES = ("shortest_edge", "longest_edge")
_ALWAYS: dict[str, Any] = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3,
    "rescale_factor": 1 / 255, "cap_pixels_per_frame": False}
"""What a processor's file may say of steps that are always taken, and how."""
_WRITTEN = {"max_frames": 768, "min_frames": 4}
"""What transformers' video processor writes though nobody set it."""
_WINNING = {_PROCESSOR, _VIDEO_PREPROCESSOR, "chat_template.jinja", "added_tokens.json",
            "special_tokens_map.json"}
"""Files that transformers reads before or beside ours; a former model's must not stay."""
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

    Where bounds of pixels differ, or times are text, what holds for videos goes to
    ``video_preprocessor_config.json``, which transformers reads from 4.52 on; older ones use the
    images' for both. A byte-level BPE is
    written as ``vocab.json`` and ``merges.txt`` too: transformers' slow tokenizer, which
    ``use_fast=False`` asks for, reads these.
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
    if (protocol.pixel_bounds("image") != protocol.pixel_bounds("video")
            or protocol.times is not None):
        videos = _preprocessor_config(protocol, classes, "video")
        del videos["image_processor_type"]
        if protocol.times is not None:  # Its class samples a file's frames; others' callers do.
            videos |= {"cap_pixels_per_frame": False, "do_sample_frames": True,
                       "fps": protocol.fps, "max_frames": protocol.max_frames, "min_frames": 1}
        files[_VIDEO_PREPROCESSOR] = videos | {"video_processor_type": classes.video_processor}
    for name in _WINNING - set(files):
        (directory / name).unlink(missing_ok=True)
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
    own = {name: getattr(protocol, name) for name in _UNNAMED}
    if kind == "image" and (low, high) != protocol.pixel_bounds("video"):
        # Outlives transformers before 4.52, which drops the file on videos.
        own |= dict(zip(_BOUNDS, protocol.pixel_bounds("video"), strict=True))
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        _OURS: own,
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

    As in transformers, a processor's file is its section in ``processor_config.json`` (transformers
    5) or else ``preprocessor_config.json`` for images and ``video_preprocessor_config.json`` for
    videos, which are prepared as images where there is neither. Bounds of pixels may differ between
    images and videos, nothing else; ``min_pixels`` and ``max_pixels`` go before ``size``. A video's
    ``fps`` and ``max_frames`` are taken, unless they are what transformers writes of itself.
    What a directory written here said of the prompt's suffix, latents and frames is in it too, and
    outlives being saved again by transformers.

    Args:
      unsaid: has what these files do not say, such as the model's window and time scale.

    Raises:
      InputError: no readable file for images; or naming a field that no protocol has or that asks
        for what is not done here, such as another resampling filter.
    """
    path, value = _section(directory, "image_processor", _PREPROCESSOR)
    videos, video = _section(directory, "video_processor", _VIDEO_PREPROCESSOR)
    if value is None:
        if (directory / _PROCESSOR).is_file():
            raise InputError(directory / _PROCESSOR, "it has no image_processor",
                             "Give a vision-language model's processor")
        raise InputError(path, "no such file", "Give a directory with protocol.json, or with it")
    own = value.get(_OURS, {})
    if not isinstance(own, dict):
        raise InputError(path, f"{_OURS!r} is {own!r}, not an object", "Remove it")
    carried = {name: own[name] for name in _BOUNDS if name in own}
    own = {name: field for name, field in own.items() if name not in _BOUNDS}
    named = _named(value, path)
    of_videos = _named(carried if video is None else video, videos if video else path)
    for name, field in of_videos.items():
        if name in _BOUNDS:
            of_images = named.get(name, getattr(unsaid, name))
            named |= {name: field} | ({f"image_{name}": of_images} if of_images != field else {})
        elif named.get(name, field) != field:
            raise InputError(videos, f"{name} of videos is {field}, of images {named[name]}",
                             "Only their bounds of pixels may differ; save them alike")
    for name, field in _sampling(video or {}, videos).items():
        if own.get(name, field) != field:
            raise InputError(videos, f"{name} is {field}, but {own[name]} under {_OURS!r}",
                             "Make them equal, or remove one")
        named[name] = field
    return ProtocolSpec.from_json({**unsaid.to_json(), **named, **own}, path)


def _section(directory: Path, name: str, file: str) -> tuple[Path, dict[str, Any] | None]:
    """Where an image or video processor is described, and the description if there is one."""
    path = directory / _PROCESSOR
    nested = read_object(path, "").get(name) if path.is_file() else None
    if nested is None:
        path = directory / file
        return path, read_object(path, "") if path.exists() else None
    if not isinstance(nested, dict):
        raise InputError(path, f"its {name} is not an object", "Fix it")
    return path, nested


def _named(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a protocol that an image or video processor's file sets."""
    size = value.get("size")
    size = {} if size is None else size
    if not isinstance(size, dict):
        raise InputError(path, f"'size' is {size!r}, not an object", "Fix it")
    sides = {k: v for k, v in size.items() if v is not None and k not in (*_EDGES, *_BOUNDS)}
    if sides:
        raise InputError(path, f"'size' has {sorted(sides)}", "Frames are resized to an area; give "
                         "shortest_edge and longest_edge, in pixels of it")
    for name, done in _ALWAYS.items():
        field = value.get(name)
        if field is not None and field != done and not _close(field, done):
            raise InputError(path, f"{name} is {field!r}", f"Pixels are always resized (bicubic) "
                             f"and normalised here; set it to {json.dumps(done)}")
    fields = {
        "patch_size": value.get("patch_size"),
        "temporal_patch": value.get("temporal_patch_size"),
        "merge": value.get("merge_size"),
        **{bound: _first(value.get(bound), size.get(edge), size.get(bound))
           for bound, edge in zip(_BOUNDS, _EDGES, strict=True)},
        "image_mean": _channels(value.get("image_mean")),
        "image_std": _channels(value.get("image_std")),
    }
    return {name: field for name, field in fields.items() if field is not None}


def _sampling(video: dict[str, Any], path: Path) -> dict[str, Any]:
    """``fps`` and ``max_frames`` of a video processor's file, where they were set on purpose."""
    if video.get("num_frames") is not None:
        raise InputError(path, f"num_frames is {video['num_frames']!r}",
                         "Frames are picked by time; set fps and max_frames instead")
    if (least := video.get("min_frames")) not in (None, 1, _WRITTEN["min_frames"]):
        raise InputError(path, f"min_frames is {least!r}", "A short video has as many frames as "
                         f"its time gives; set it to {_WRITTEN['min_frames']}, their default")
    unset = {} if video.get("do_sample_frames") else _WRITTEN
    found = {name: video.get(name) for name in ("fps", "max_frames")}
    if type(found["fps"]) is int:
        found["fps"] = float(found["fps"])
    return {name: field for name, field in found.items()
            if field is not None and field != unset.get(name)}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _close(field: Any, done: Any) -> bool:
    return type(field) is float and type(done) is float and math.isclose(field, done, rel_tol=1e-6)


def _channels(value: Any) -> Any:
    if not isinstance(value, list):
        return [float(value)] * 3 if type(value) in (int, float) else value
    return [float(part) if type(part) is int else part for part in value]
