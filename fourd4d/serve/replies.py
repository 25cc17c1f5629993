"""What goes out: text as it becomes certain, mental images, OpenAI's objects."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image
from jaxtyping import Float, Int

from fourd4d.core.example import Example
from fourd4d.core.rollout import Rollout
from fourd4d.eval import heatmaps
from fourd4d.pages.pictures import paint
from fourd4d.processing.media import Image, Video
from fourd4d.processing.processor import Processor
from fourd4d.processing.tokenizer import Tokenizer

_HELD = 8  # Characters that may still change: bytes of one that is not whole.


class TextStream:
    """Text of one response, handed out as it becomes certain.

    What is handed out joins to the whole text, cut before that of the texts to stop at which is
    complete first (of those that end together, the longest).

    Attributes:
      text: handed out so far.
      stopped: one of those was said.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self.text = ""
        self.stopped = False

    def more(self, tokens: Int[np.ndarray, "_"]) -> str:
        """The text that is certain now and was not before."""
        self._tokens += tokens.tolist()
        return self._give(self._tokenizer.decode(self._tokens), False)

    def rest(self, whole: str) -> str:
        """What is left of the response's whole text."""
        return self._give(whole, True)

    def _give(self, text: str, whole: bool) -> str:
        if self.stopped:
            return ""
        # The one complete first, whatever parts the text comes in.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            text, self.stopped = text[: min(found)[1]], True
        elif not whole:
            text = text[: self._certain(text)]
        if not text.startswith(self.text):
            return ""
        new, self.text = text[len(self.text) :], text
        return new

    def _certain(self, text: str) -> int:
        """Characters of ``text`` that stay whatever follows."""
        end = len(text)
        while end and text[end - 1] == "\ufffd" and len(text) - end < _HELD:
            end -= 1
        for stop in self._stop:
            starts = (n for n in range(min(len(stop) - 1, len(text)), 0, -1)
                      if text.endswith(stop[:n]))
            end = min(end, len(text) - next(starts, 0))
        return end


@dataclasses.dataclass(frozen=True)
class Seen:
    """The frames of a prompt as the model has them: the first of each frame slot.

    Attributes:
      times: when it is shown, seconds; None of still pictures.
      media: number of the medium of each.
    """

    pictures: tuple[np.ndarray, ...]
    times: tuple[float | None, ...]
    media: tuple[int, ...]

    @classmethod
    def of(cls, media: Sequence[Video | Image], processor: Processor) -> Seen:
        found: list[tuple[np.ndarray, float | None, int]] = []
        step = processor.protocol.temporal_patch
        for number, medium in enumerate(media):
            if isinstance(medium, Image):
                found.append((medium.pixels, None, number))
                continue
            for start in range(0, len(medium.frames), step):
                found.append((medium.frames[start], round(float(medium.timestamps[start]), 3),
                              number))
        pictures, times, numbers = zip(*found, strict=True) if found else ((), (), ())
        return cls(pictures, times, numbers)


def latents_json(latents: Float[np.ndarray, "R D"]) -> dict[str, Any]:
    """Return latents as JSON: little-endian float16 in base64, with their shape."""
    return {"dtype": "float16", "shape": list(latents.shape),
            "data": base64.b64encode(latents.astype("<f2").tobytes()).decode()}


def mental_images(rollout: Rollout, example: Example, processor: Processor, *,
                  with_latents: bool, seen: Seen | None = None,
                  features: Float[np.ndarray, "F U E"] | None = None,
                  heat_maps: Literal["", "peak", "all"] = "") -> list[dict[str, Any]]:
    """Return an object for each mental image of a response, in the order imagined.

    Args:
      rollout: one row, on the host.
      seen, features: for heat maps: of the prompt. Without, there are none.
      heat_maps: which frames are painted; see ``requests.ChatRequest``.
    """
    fed = int(np.max(rollout.latent_index[0], initial=-1)) + 1
    size = processor.protocol.latent_size
    where = np.flatnonzero(rollout.latent_index[0] >= 0)
    images = []
    for number, start in enumerate(range(0, fed, size)):
        latents = np.asarray(rollout.latents[0, start : min(start + size, fed)], np.float32)
        image: dict[str, Any] = {"index": number, "token": int(where[start])}
        if with_latents:
            image["latents"] = latents_json(latents)
        if heat_maps and features is not None and seen is not None:
            image["heat_maps"] = _heat(latents, features, example, processor, seen, heat_maps)
        images.append(image)
    return images


def _heat(latents: np.ndarray, features: np.ndarray, example: Example, processor: Processor,
          seen: Seen, which: str) -> list[dict[str, Any]]:
    """Mean cosine of the latents with each place, once the media's mean is taken away."""
    slots = heatmaps.media_slots(example)
    merge = processor.protocol.merge
    if len({heatmaps.slot_grid(example, slot, merge) for slot in slots}) != 1:
        return []  # Pictures of several sizes have no common scale.
    own = np.asarray(features[..., : latents.shape[-1]], np.float32)
    maps = heatmaps.cosine_maps(latents, own, example, merge, centred=True).mean(0)
    peaks = maps.reshape(len(maps), -1).max(1)
    chosen = range(len(maps)) if which == "all" else [int(peaks.argmax())]
    low, high = float(maps.min()), float(maps.max())
    return [{"slot": slot, "medium": seen.media[slot], "time": seen.times[slot],
             "peak": round(float(peaks[slot]), 4),
             "png": _png(paint(seen.pictures[slot], maps[slot], low, high, 256))}
            for slot in chosen]


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclasses.dataclass(frozen=True)
class Envelope:
    """What all objects of one reply share."""

    id: str
    model: str
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """Return a whole reply."""
        return self._object("chat.completion", choices) | {"usage": usage}

    def chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return a part of a streamed one."""
        return self._object("chat.completion.chunk", choices) | more

    def _object(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "choices": list(choices)}


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
