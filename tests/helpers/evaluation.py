"""An actor that says its lines, and a small benchmark on disk for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from fourd4d.core import jsonl
from fourd4d.core.kv_cache import KVCache
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import Sample
from fourd4d.data.source import JsonlSource
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.processing.latent_spans import insert_spans
from fourd4d.processing.media import Video
from fourd4d.processing.processor import Processor
from fourd4d.processing.tokenizer import tiny_tokenizer

PROTOCOL = ProtocolSpec(patch_size=4, window=16, min_pixels=16 * 16, max_pixels=24 * 32,
                        temporal_patch=2, latent_size=2)
WIDTH = 6
TOKENIZER = tiny_tokenizer()
PROCESSOR = Processor(TOKENIZER, PROTOCOL)
SPEC = EvalSpec(max_tokens=48, rows=3, max_latents=8)
RIGHT = "<think>It moves <output_image> and <output_image>.</think>\n<answer>B. Right</answer>"


class Actor(nnx.Module):
    """Says ``script`` token by token from M-RoPE id ``start`` on, or draws at random without one.

    Its vision features tell the mean colours of each merged token.
    """

    def __init__(self, script: list[int], start: int):
        self.script = nnx.Variable(jnp.asarray(script or [0], jnp.int32))
        self.start, self.silent = start, not script

    def encode(self, vision: Any) -> Any:
        patches = jnp.asarray(vision.patches)
        b, f, w, m, c = patches.shape
        group = PROTOCOL.merge**2
        merged = patches.reshape(b, f, w * m // group, group, 3, c // 3).mean((3, 5))
        return jnp.concatenate([merged, 1 - merged], -1)

    def embed(self, tokens: Any, vision_index: Any, features: Any, latent_index: Any,
              latents: Any) -> Any:
        del vision_index, features, latent_index, latents
        return jnp.zeros((*tokens.shape, WIDTH))

    def decode(self, embeds: Any, positions: Any, segments: Any, cache: Any = None,
               prefix: Any = None, fill: bool = False) -> Any:
        del segments, prefix, fill
        hidden = embeds.at[..., 0].set(positions[0].astype(jnp.float32)).at[..., 1].set(1.0)
        return hidden, cache or self.empty_cache(1, 1)

    def logits(self, hidden: Any) -> Any:
        size = TOKENIZER.vocab_size
        if self.silent:
            return jnp.zeros((*hidden.shape[:-1], size))
        at = hidden[..., 0].astype(jnp.int32) + 1 - self.start
        return 50.0 * jax.nn.one_hot(self.script[...][jnp.clip(at, 0, len(self.script[...]) - 1)],
                                     size)

    def imagine(self, hidden: Any) -> Any:
        return hidden

    def empty_cache(self, rows: int, slots: int) -> KVCache:
        return KVCache.empty(1, rows, slots, 1, 1)


def actor(response: str | None) -> Subject:
    """A subject that gives ``response`` to every item of the benchmark; None talks at random."""
    script, start = [], 0
    if response is not None:
        text = insert_spans(response, PROTOCOL.latent_size)
        script = [*TOKENIZER.encode(text), TOKENIZER.eos]
        video = Video(np.zeros((4, 20, 28, 3), np.uint8), 0.5 * np.arange(4))
        start = int(PROCESSOR.prompt(Sample.fake().text_input, [video]).positions.max()) + 1
    return Subject.of(Actor(script, start), PROCESSOR, "actor")


def benchmark(root: Path, count: int = 8, missing: tuple[int, ...] = ()) -> JsonlSource:
    """``count`` questions of two types on four frames of 20 x 28; keys go A, B, C, D, A, …"""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        sample = dataclasses.replace(Sample.fake(i), kind=("direction", "speed")[i % 2])
        for name in (*sample.frames, *sample.overlays):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 28, 3), np.uint8)).save(path)
        if i in missing:
            (root / sample.frames[1]).unlink()
        rows.append(jsonl.dift_row(sample))
    jsonl.write(root / "items.jsonl", rows)
    return JsonlSource(root / "items.jsonl")
