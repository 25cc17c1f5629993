"""The vocabulary of Qwen2, Qwen2.5 and Qwen2.5-VL from its table of byte-pair ranks.

Where a model hub is out of reach: the ``dashscope`` wheel carries ``qwen.tiktoken``.
"""

from __future__ import annotations

import os
from typing import Final

from fourd4d.processing.hf_files import ProcessorClasses
from fourd4d.processing.tiktoken_ranks import read_ranks, tokenizer_from_ranks
from fourd4d.processing.tokenizer import HFTokenizer

PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Splits text into pieces that are encoded apart."""
CLASSES: Final = ProcessorClasses(
    processor="Qwen2_5_VLProcessor", tokenizer="Qwen2TokenizerFast",
    image_processor="Qwen2VLImageProcessor",
    video_processor="Qwen2VLVideoProcessor", pattern=PATTERN)
PARITY: Final = ("parity", 4)
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)
"""Control tokens, in the order of their ids."""
ADDED: Final = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)
"""Tokens after them that count as ordinary text when decoding."""

def tokenizer_from_tiktoken(path: str | os.PathLike[str]) -> HFTokenizer:
    """The published tokenizer from ``qwen.tiktoken``, with the imagery tokens after it.

    Raises:
      InputError: no such file, a malformed line, or no whole table.
    """
    return tokenizer_from_ranks(read_ranks(path), SPECIAL, ADDED, PATTERN)
