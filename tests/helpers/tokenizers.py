"""Text that is hard on tokenizers, and a small byte-level BPE."""

from __future__ import annotations

import tokenizers

from fourd4d.processing.tokenizer import (
    IMAGERY_TOKENS,
    SPECIAL_TOKENS,
    HFTokenizer,
)

HARD_TEXT = [
    "", " ", "  leading and  double   spaces ", "\n\n\tindented\r\nlines\n",
    "tabs\t\tand\x0bfeeds\x0c",
    "def f(x):\n    return {k: v for k, v in x.items()}  # ok\n", "a\x00b\x01\x1f\x7f",
    "日本語と中文，한국어 და ქართული", "emoji 🎉👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 é ﬁ ™",
    "▁meta ▁▁ mark▁", "\ufeffbom \u200b zero\u2060width",
    "<|im_start|>user\n<think>x</think><answer>B. Left</answer><|im_end|>\n",
    "<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>", "<|im_start", "|><|", "< think >",
    "3.14159 1e-9 0,5 -7 +2", "\U0010fffd \ue000 \ud7ff", "\u202eright to left\u202c עברית عربى",
]


def small_bpe() -> HFTokenizer:
    """A byte-level BPE in the manner of Qwen's, with the published special tokens but imagery."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ċ", "Ċ")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([n for n in SPECIAL_TOKENS if n not in IMAGERY_TOKENS])
    return HFTokenizer.from_json(backend.to_str(), add_imagery=True)
