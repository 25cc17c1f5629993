"""The chat template and the wording that ends every question.

``CHAT_TEMPLATE`` is the published models' Jinja text, for the files that other tools read; ``chat``
writes the same text without Jinja.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing.media import Image, MediumShape, Video
from fourd4d.processing.mrope import slot_seconds
from fourd4d.processing.tokenizer import (
    IMAGE_PAD,
    TURN_END,
    TURN_START,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)

SUFFIX: Final = (
    "Think with mental imagery of the relevant object inside <think></think>, "
    "then give the answer alone inside <answer></answer>."
)
RELEASED_SUFFIX: Final = (
    "First, think about the reasoning process with mental imagery of the relevant object or "
    "region, then provide the user with the answer. Put the reasoning in <think>...</think> and "
    "only the final answer in <answer>...</answer>, e.g. <think> reasoning process (with mental "
    "imagery as needed) </think><answer> answer here </answer>."
)
_SUFFIXES: Final = {"fourd4d": "\n" + SUFFIX, "released": "\n" + RELEASED_SUFFIX, "none": ""}

_PADS: Final = {"image": IMAGE_PAD, "video": VIDEO_PAD}

_SYSTEM_TEXT: Final = "You are a helpful assistant."
_SYSTEM_TURN: Final = (
    "{% if loop.first and message['role'] != 'system' %}"
    f"<|im_start|>system\n{_SYSTEM_TEXT}<|im_end|>\n{{% endif %}}"
)
CHAT_TEMPLATE: Final = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}" + _SYSTEM_TURN +
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def jinja(protocol: ProtocolSpec) -> str:
    """``CHAT_TEMPLATE`` with the protocol's system turn, or without one."""
    if not protocol.system:
        return CHAT_TEMPLATE.replace(_SYSTEM_TURN, "")
    text = protocol.system
    text = f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text
    return CHAT_TEMPLATE.replace(_SYSTEM_TEXT, text)


def user_text(question: str, protocol: ProtocolSpec) -> str:
    """The question with the protocol's suffix."""
    return question + _SUFFIXES[protocol.suffix]


def _medium_text(medium: Video | Image | MediumShape, protocol: ProtocolSpec) -> str:
    """A medium's place in the user turn, with one pad for each run of its tokens.

    That is one for the medium, or, where times are text, one for each frame slot of a video.
    """
    place = f"{VISION_START}{_PADS[medium.kind]}{VISION_END}"
    if isinstance(medium, Image) or medium.kind == "image" or protocol.times is None:
        return place
    seconds = slot_seconds(np.asarray(medium.timestamps, np.float64), protocol)
    return "".join(f"<{second:.1f} seconds>{place}" for second in seconds)


def chat(question: str, media: Sequence[Video | Image | MediumShape], protocol: ProtocolSpec
         ) -> str:
    """System turn, user turn (media, question, suffix) and the assistant turn's head.

    A pad stands for each run of a medium's tokens: one for the medium, or, where times are text,
    one for each frame slot of a video. ``Processor`` repeats it once per merged token.
    """
    return "".join(part.text for part in turns((*media, question), protocol, suffix=True))


class Part(NamedTuple):
    """A stretch of a prompt's text.

    Attributes:
      given: it is a user's own words, in which no control token means anything.
    """

    text: str
    given: bool = False


def turns(parts: Sequence[str | Video | Image | MediumShape], protocol: ProtocolSpec, *,
          suffix: bool = False) -> Iterator[Part]:
    """Yield what ``chat`` joins, of texts and media in any order.

    Args:
      suffix: end the user turn with the protocol's wording.
    """
    return conversation([Turn("user", tuple(parts))], protocol, suffix=suffix)


class Turn(NamedTuple):
    """What one side of a conversation said: texts and media in their order."""

    role: Literal["user", "assistant"]
    parts: tuple[str | Video | Image | MediumShape, ...]


def conversation(said: Sequence[Turn], protocol: ProtocolSpec, *, suffix: bool = False,
                 system: str | None = None) -> Iterator[Part]:
    """Yield the text of several turns and of the assistant turn's head.

    Args:
      suffix: end the last turn with the protocol's wording.
      system: the system turn's text; by default the protocol's.
    """
    if system or (system is None and protocol.system):
        yield Part(f"{TURN_START}system\n")
        yield Part(protocol.system) if system is None else Part(system, True)
        yield Part(f"{TURN_END}\n")
    for number, turn in enumerate(said, 1):
        yield Part(f"{TURN_START}{turn.role}\n")
        for part in turn.parts:
            yield (Part(part, True) if isinstance(part, str) else
                   Part(_medium_text(part, protocol)))
        yield Part(user_text("", protocol) if suffix and number == len(said) else "")
        yield Part(f"{TURN_END}\n")
    yield Part(f"{TURN_START}assistant\n")
