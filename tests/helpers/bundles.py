"""Small models with their processors."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import nnx

from fourd4d.models import ModelConfig, Thinker
from fourd4d.models.config import DecoderConfig, VisionConfig
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.processing import Processor, tiny_tokenizer

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=2, heads=2, mlp=24, full_layers=(1,), patch_size=4,
                        window=16),
    decoder=DecoderConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=48, vocab=1024,
                          mrope_sections=(1, 1, 2), tied=True),
    dtype="float32", remat="none",
)


def bundle_of(config=CONFIG, seed=0):
    thinker = Thinker(config, nnx.Rngs(seed))
    graphdef, tree = nnx.split(thinker)
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype), tree)
    words = tiny_tokenizer()
    config = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, valid_vocab=words.vocab_size))
    return ModelBundle(config, Processor(words, config.protocol()), graphdef, tree)
