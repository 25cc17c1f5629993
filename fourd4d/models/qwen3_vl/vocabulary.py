"""The vocabulary of Qwen3 and Qwen3-VL from its table of byte-pair ranks."""

from __future__ import annotations

import os
from typing import Final

from fourd4d.models.qwen2_5_vl.vocabulary import ADDED as _FORMER
from fourd4d.models.qwen2_5_vl.vocabulary import PATTERN, SPECIAL
from fourd4d.processing.hf_files import ProcessorClasses
from fourd4d.processing.tiktoken_ranks import read_ranks, tokenizer_from_ranks
from fourd4d.processing.tokenizer import HFTokenizer

CLASSES: Final = ProcessorClasses(
    processor="Qwen3VLProcessor", tokenizer="Qwen2TokenizerFast",
    image_processor="Qwen2VLImageProcessorFast",
    video_processor="Qwen3VLVideoProcessor", pattern=PATTERN)
PARITY: Final = ("parity5", 5)
ADDED: Final = (*_FORMER, "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Tokens after the control tokens that count as ordinary text when decoding."""


def tokenizer_from_tiktoken(path: str | os.PathLike[str]) -> HFTokenizer:
    """The published tokenizer from ``qwen.tiktoken``, with the imagery tokens after it.

    Raises:
      InputError: no such file, a malformed line, or no whole table.
    """
    return tokenizer_from_ranks(read_ranks(path), SPECIAL, ADDED, PATTERN)
