"""Text, frames and times to arrays, in NumPy: the one preprocessing of every stage."""

from fourd4d.processing.answers import lenient_answer, parse_answer, strip_latents, well_formed
from fourd4d.processing.media import Image, Video, read_image
from fourd4d.processing.processor import Processor, load_processor
from fourd4d.processing.tokenizer import (
    SPECIAL_TOKENS,
    HFTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    tiny_tokenizer,
)
from fourd4d.processing.video import read_video

__all__ = [
    "SPECIAL_TOKENS", "HFTokenizer", "Image", "Processor", "SentencePieceTokenizer", "Tokenizer",
    "Video", "lenient_answer", "load_processor", "load_tokenizer", "parse_answer", "read_image",
    "read_video", "strip_latents", "tiny_tokenizer", "well_formed",
]
