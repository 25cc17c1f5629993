"""The body of a chat completion, read strictly: what is not understood is refused by name."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from fourd4d.core.errors import InputError
from fourd4d.core.options import checked_options, with_options
from fourd4d.processing.answers import strip_latents
from fourd4d.processing.chat_template import Turn
from fourd4d.processing.media import Image, Video
from fourd4d.serve.errors import ApiError
from fourd4d.serve.media import Reader
from fourd4d.serve.spec import ServeSpec

Probe = Literal["zero", "swap", "freeze"]
_PROBES: Final = ("zero", "swap", "freeze")
# What OpenAI's clients may send that changes nothing here.
_UNUSED: Final = {"user", "metadata", "store", "service_tier", "safety_identifier",
                  "prompt_cache_key", "parallel_tool_calls"}
# What is not done, and the values by which clients say that they do not want it.
_NOT_DONE: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None),
    "logprobs": (False, None), "top_logprobs": (0, None), "tools": ([], None),
    "tool_choice": ("none", "auto", None), "functions": ([], None),
    "function_call": ("none", "auto", None), "modalities": (["text"], None), "audio": (None,),
    "response_format": ({"type": "text"}, None), "reasoning_effort": (None,),
}
_KNOWN: Final = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p",
                 "n", "seed", "stop", "stream", "stream_options", "media_io_kwargs", "fourd4d"}
_EXTENSION: Final = {"imagery", "options", "suffix", "latents", "heat_maps", "probe"}
_CONTENT: Final = {"text", "image_url", "video_url", "frames"}


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """What a client asks for.

    Attributes:
      turns: of the conversation; the last is the user's, with the options below its text.
      system: the system turn's text; None for the checkpoint's own.
      keys, options: what each option is called, and its text.
      stop: texts before which a response is cut.
      seed: of sampled responses; None for any.
      usage: a stream ends with the counts of tokens.
      imagery: False never imagines.
      suffix: the prompt ends with the checkpoint's own wording, as in ``answer()``.
      latents: the response brings what was imagined.
      heat_maps: as pictures of the frame that each mental image looks at (``peak``), of ``all``
        frames, or not.
      probe: what is fed in place of what is imagined.
      donor: for ``swap``: latents of another response.
    """

    turns: tuple[Turn, ...]
    system: str | None
    keys: tuple[str, ...]
    options: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float
    n: int
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    usage: bool
    imagery: bool
    suffix: bool
    latents: bool
    heat_maps: Literal["", "peak", "all"]
    probe: Probe | None
    donor: Float[np.ndarray, "Q D"] | None


def read(body: Any, name: str, spec: ServeSpec, reader: Reader) -> ChatRequest:
    """Return the request in a parsed body.

    Args:
      name: of the model that is served.
      reader: of the media.

    Raises:
      InputError: a field is malformed.
      ApiError: another model, or more than the server takes.
    """
    if not isinstance(body, dict):
        raise InputError("body", f"{type(body).__name__} is not a JSON object", "Send an object")
    unknown = sorted(map(str, set(body) - _KNOWN - _UNUSED - set(_NOT_DONE)))
    if unknown:
        raise InputError("body", f"unknown fields {unknown[:8]}", "Leave them out")
    for field, values in _NOT_DONE.items():
        if field in body and body[field] not in values:
            raise InputError(f"body.{field}", "the server does not do this", "Leave it out")
    if body.get("model") not in (name, None):
        raise ApiError(404, f"the model {str(body['model'])[:100]!r} does not exist; this server "
                       f"has {name!r}", param="model", code="model_not_found")
    own = _object(body, "fourd4d", _EXTENSION)
    stream_options = _object(body, "stream_options", {"include_usage", "include_obfuscation"})
    keys, options = _options(own)
    video = _object(_object(body, "media_io_kwargs", {"video"}), "video", {"num_frames"},
                    "media_io_kwargs.")
    reader.video_frames = _integer(video, "num_frames", reader.video_frames, 1, 1 << 20)
    system, turns = _messages(body.get("messages"), reader)
    if options:
        turns = (*turns[:-1], _with_options(turns[-1], keys, options))
    probe, donor = _probe(own)
    return ChatRequest(
        turns, system, keys, options, max_tokens=_max_tokens(body, spec),
        temperature=_number(body, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0, open_below=True),
        n=_integer(body, "n", 1, 1, spec.max_choices),
        seed=None if body.get("seed") is None else _integer(body, "seed", 0, 0, 2**31 - 1),
        stop=_stop(body), stream=_flag(body, "stream", False),
        usage=_flag(stream_options, "include_usage", False),
        imagery=_flag(own, "imagery", True, "fourd4d."),
        suffix=_flag(own, "suffix", True, "fourd4d."),
        latents=_flag(own, "latents", False, "fourd4d."),
        heat_maps=_one_of(own, "heat_maps", {False: "", None: "", True: "peak", "peak": "peak",
                                             "all": "all"}),
        probe=probe, donor=donor)


def _messages(messages: Any, reader: Reader) -> tuple[str | None, tuple[Turn, ...]]:
    if not isinstance(messages, list) or not messages:
        raise InputError("messages", "it is not a list of messages", "Send at least one")
    system, turns = None, list[Turn]()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise InputError(where, f"{type(message).__name__} is not an object",
                             "Give role and content")
        role = message.get("role")
        if role in ("system", "developer") and number == 0:
            system = "".join(_texts(message.get("content"), where))
        elif role == "user" and len(turns) % 2 == 0:
            turns.append(Turn("user", _parts(message.get("content"), where, reader)))
        elif role == "assistant" and len(turns) % 2 == 1:
            # What was imagined is not in the text; its marks alone would mean nothing.
            said = strip_latents("".join(_texts(message.get("content"), where)))
            turns.append(Turn("assistant", (said,)))
        else:
            raise InputError(f"{where}.role", f"{str(role)[:40]!r} is out of turn", "Send system, "
                             "if any, then user and assistant in turn")
    if len(turns) % 2 == 0:
        raise InputError("messages", "the last one is not the user's", "End with the question")
    return system, tuple(turns)


def _texts(content: Any, where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text"
            and isinstance(part.get("text"), str) for part in content):
        return [part["text"] for part in content]
    raise InputError(f"{where}.content", "it is not a text", "Give a text, or parts of text")


def _parts(content: Any, where: str, reader: Reader) -> tuple[str | Video | Image, ...]:
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}.content", "it is neither a text nor a list of parts",
                         "Give a text, or a list of parts")
    return tuple(_part(part, f"{where}.content[{i}]", reader) for i, part in enumerate(content))


def _part(part: Any, where: str, reader: Reader) -> str | Video | Image:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _CONTENT:
        raise InputError(f"{where}.type", f"unknown type {str(kind)[:40]!r}",
                         f"Known: {sorted(_CONTENT)}")
    value = part.get(kind)
    if kind == "text":
        if not isinstance(value, str):
            raise InputError(f"{where}.text", "it is not a text", "Give a text")
        return value
    if kind == "frames":
        if not isinstance(value, list) or not value or not all(
                isinstance(one, dict) and set(one) == {"url", "time"} for one in value):
            raise InputError(f"{where}.frames", "it is not a list of frames",
                             'Give [{"url": …, "time": SECONDS}, …]')
        return reader.frames([one["url"] for one in value], [one["time"] for one in value],
                             f"{where}.frames")
    url = value.get("url") if isinstance(value, dict) else value
    read = reader.image if kind == "image_url" else reader.video
    return read(url, f"{where}.{kind}")


def _with_options(turn: Turn, keys: tuple[str, ...], options: tuple[str, ...]) -> Turn:
    """The turn with the options below its last text."""
    parts = list(turn.parts)
    for number in reversed(range(len(parts))):
        text = parts[number]
        if isinstance(text, str):
            parts[number] = with_options(text, keys, options)
            return Turn("user", tuple(parts))
    raise InputError("fourd4d.options", "the last message asks no question", "Give it a text")


def _options(own: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given = own.get("options")
    if given is None:
        return (), ()
    if not isinstance(given, list | dict):
        raise InputError("fourd4d.options", "it is neither a list nor an object",
                         "Give a list of texts")
    keys, texts = checked_options(given)
    return tuple(keys), tuple(texts)


def _probe(own: dict[str, Any]) -> tuple[Probe | None, np.ndarray | None]:
    given = own.get("probe")
    if given is None:
        return None, None
    kind = given.get("kind") if isinstance(given, dict) else given
    if kind not in _PROBES:
        raise InputError("fourd4d.probe", f"unknown probe {str(kind)[:40]!r}",
                         f"Known: {list(_PROBES)}")
    if kind != "swap":
        return kind, None
    if not isinstance(given, dict) or not isinstance(given.get("latents"), dict):
        raise InputError("fourd4d.probe.latents", "swap needs another response's latents",
                         "Give an object like the one in its reply")
    return kind, read_latents(given["latents"], "fourd4d.probe.latents")


def read_latents(value: Mapping[str, Any], where: str) -> Float[np.ndarray, "Q D"]:
    """Return the array that ``replies.latents_json`` wrote. Raises InputError for anything else."""
    shape, data = value.get("shape"), value.get("data")
    if (not isinstance(shape, list) or len(shape) != 2 or not isinstance(data, str)
            or not all(type(n) is int and 0 < n < 1 << 20 for n in shape)):
        raise InputError(where, "it lacks a shape of two numbers, or data",
                         'Give {"dtype": "float16", "shape": [Q, D], "data": BASE64}')
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(where, f"malformed base64 ({error})", "Encode it again") from error
    if value.get("dtype") != "float16" or len(raw) != 2 * math.prod(shape):
        raise InputError(where, f"{len(raw)} bytes are not float16 of shape {shape}",
                         "Give little-endian float16")
    array = np.frombuffer(raw, "<f2").astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise InputError(where, "it has numbers that are not finite", "Give finite ones")
    return array


def _max_tokens(body: Mapping[str, Any], spec: ServeSpec) -> int:
    given = {name: body[name] for name in ("max_tokens", "max_completion_tokens")
             if body.get(name) is not None}
    if len(set(map(str, given.values()))) > 1:
        raise InputError("max_tokens", "it differs from max_completion_tokens", "Give one of them")
    return min((_integer(given, name, spec.max_tokens, 1, spec.max_tokens) for name in given),
               default=spec.max_tokens)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop")
    texts = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or len(texts) > 4 or not all(
            isinstance(text, str) and text for text in texts):
        raise InputError("stop", "it is neither a text nor a list of up to four", "Give texts")
    return tuple(texts)


def _object(body: Mapping[str, Any], name: str, known: set[str], prefix: str = ""
            ) -> dict[str, Any]:
    value, where = body.get(name), f"{prefix}{name}"
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(where, f"{type(value).__name__} is not an object", "Give an object")
    unknown = sorted(set(value) - known)
    if unknown:
        raise InputError(where, f"unknown fields {unknown[:8]}", f"Known: {sorted(known)}")
    return value


def _flag(body: Mapping[str, Any], name: str, default: bool, prefix: str = "") -> bool:
    value = body.get(name)
    return default if value is None else _checked(
        value, f"{prefix}{name}", lambda v: isinstance(v, bool), "true or false")


def _one_of(body: Mapping[str, Any], name: str, values: Mapping[Any, Any]) -> Any:
    value = body.get(name)
    if not isinstance(value, bool | str | None) or value not in values:
        raise InputError(f"fourd4d.{name}", f"{str(value)[:40]!r} is not known",
                         "Use true, false or 'all'")
    return values[value]


def _integer(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    return default if value is None else _checked(
        value, name, lambda v: type(v) is int and least <= v <= most,
        f"an integer from {least} to {most}")


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float, *,
            open_below: bool = False) -> float:
    value = body.get(name)
    return default if value is None else float(_checked(
        value, name, lambda v: type(v) in (int, float) and least <= v <= most
        and not (open_below and v == least),
        f"a number {'above' if open_below else 'from'} {least:g} to {most:g}"))


def _checked(value: Any, name: str, good: Callable[[Any], bool], wanted: str) -> Any:
    if not good(value):
        raise InputError(name, f"{str(value)[:40]!r} is not {wanted}", "Fix it")
    return value
