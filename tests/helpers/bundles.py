"""Small models with their processors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from fourd4d.checkpoint.orbax import CheckpointManager
from fourd4d.models import ModelConfig, Thinker
from fourd4d.models.config import DecoderConfig, VisionConfig
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.open import fresh, specs
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.train import OptimizerSpec, make_optimizer, state_from

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=2, heads=2, mlp=24, full_layers=(1,), patch_size=4,
                        window=16),
    decoder=DecoderConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=48, vocab=1024,
                          mrope_sections=(1, 1, 2), tied=True),
    dtype="float32", remat="none",
)
TABLE_CONFIG = ModelConfig(  # A table of positions, DeepStack, norms on q and k.
    vision=VisionConfig(width=16, layers=2, heads=2, mlp=24, full_layers=(0, 1), patch_size=4,
                        window=16, position_table=4, deepstack=(0, 1)),
    decoder=DecoderConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=12, mlp=48, vocab=1024,
                          mrope_sections=(2, 2, 2), tied=True, qkv="normed", mrope="interleaved"),
    family="qwen3_vl", dtype="float32", remat="none",
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


def files_in(folder: Path, below: str = "") -> dict[str, bytes]:
    """Every file, also those of folders in it, by its path from there, set behind ``below``."""
    return {f"{below}{path.relative_to(folder)}": path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def save_as_a_trainer(root: Path, preset: str = "tiny") -> Path:
    """A random tiny model as a trainer leaves it; gives ``root`` back."""
    mesh = make_mesh("data=1")
    with use(mesh):
        bundle = fresh(preset, mesh, 0)
        state = state_from(bundle.tree, make_optimizer(OptimizerSpec()), mesh, trainable=(".*",))
        with CheckpointManager(root, processor=bundle.processor.save) as manager:
            manager.save(1, state, None, specs(ConfigDict(dict(seed=0)), bundle.config,
                                               bundle.processor, (".*",)), force=True)
    return root
