"""DIFT from a frozen encoder's kept features: the same updates, and the encoder stands still."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.dift_config import data, tiny  # noqa: F401  (a fixture)

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.dift import features, step
from fourd4d.dift.__main__ import train
from fourd4d.models import DecoderConfig, ModelConfig, Thinker, VisionConfig
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.train import state_from

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=1, heads=2, mlp=16, full_layers=(0,), patch_size=8,
                        window=16),
    decoder=DecoderConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp=32, vocab=64,
                          mrope_sections=(2, 1, 1), tied=True),
    dtype="float32", remat="none",
)
TABLE_CONFIG = dataclasses.replace(  # A table of positions, DeepStack, norms on q and k.
    CONFIG, vision=dataclasses.replace(CONFIG.vision, position_table=3, deepstack=(0,)),
    decoder=dataclasses.replace(CONFIG.decoder, qkv="normed", mrope="interleaved"))
BATCH = Batch.fake(BatchShape(4, 24, 3, 1, 1), CONFIG.protocol(), vocab=64)


@pytest.fixture(scope="module", params=[CONFIG, TABLE_CONFIG], ids=["windows", "table"])
def config(request: Any) -> ModelConfig:
    return request.param


@pytest.fixture(scope="module")
def setting(config: ModelConfig) -> Any:
    graphdef, tree = nnx.split(Thinker(config, nnx.Rngs(0)))
    mesh = make_mesh("data=2", jax.devices()[:2])

    def state(trainable: str = r"(?!vision/).*") -> Any:
        return state_from(jax.tree.map(lambda x: x + 0, tree), optax.sgd(0.1), mesh,
                          trainable=(trainable,))

    return graphdef, mesh, state, config


def cached(setting: Any, folder: Path, most: int = 1 << 30) -> features.CachedEncoder:
    graphdef, _, state, config = setting
    return features.CachedEncoder(graphdef, state(), config, folder, most, slots=5)


def test_features_are_the_models_and_are_found_again(setting: Any, tmp_path: Path) -> None:
    graphdef, _, state, config = setting
    now = state()
    ours = nnx.merge(graphdef, now.params, now.frozen).encode(BATCH.vision)
    with cached(setting, tmp_path) as first:
        made = first(BATCH).vision.features
        assert (first.encoded, first.found) == (12, 0)
        first(BATCH)
        assert (first.encoded, first.found) == (12, 12)
    np.testing.assert_allclose(made, np.asarray(ours), atol=1e-6)
    assert made.shape[-1] == config.decoder.width * (1 + config.vision.levels)
    with cached(setting, tmp_path) as again:
        rows = jax.tree.map(lambda x: x[::-1], BATCH.vision)  # By content, wherever it stands.
        found = again(dataclasses.replace(BATCH, vision=rows)).vision.features
        assert (again.encoded, again.found) == (0, 12)
    np.testing.assert_array_equal(found[::-1], made)
    with cached(setting, tmp_path / "other", most=0) as none:
        none(BATCH)
        none(BATCH)
        assert (none.encoded, none.found) == (24, 0)


def test_other_weights_have_features_of_their_own(setting: Any, tmp_path: Path) -> None:
    graphdef, _, state, config = setting
    with cached(setting, tmp_path) as first:
        first(BATCH)
    now = state()
    other = dataclasses.replace(now, frozen=jax.tree.map(lambda x: x * 1.5, now.frozen))
    with features.CachedEncoder(graphdef, other, config, tmp_path, 1 << 30) as second:
        second(BATCH)
        assert second.found == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_an_update_from_features_is_the_update_from_patches(setting: Any, tmp_path: Path) -> None:
    graphdef, mesh, state, _ = setting
    jitted = jax.jit(functools.partial(step.update, graphdef=graphdef, tx=optax.sgd(0.1),
                                       spec=step.DiftSpec(), accumulate=2))
    with use(mesh), cached(setting, tmp_path) as encoded:
        (a, plain), (b, kept) = (jitted(state(), host_to_global(batch, mesh))
                                 for batch in (BATCH, encoded(BATCH)))
    for name, value in plain.items():
        np.testing.assert_allclose(kept[name].value(), value.value(), rtol=1e-5, atol=1e-6)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_a_trained_encoder_is_refused(setting: Any, tmp_path: Path) -> None:
    graphdef, _, state, config = setting
    with pytest.raises(InputError, match=r"config\.data\.feature_cache: the vision encoder is"):
        features.CachedEncoder(graphdef, state(".*"), config, tmp_path, 1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny3"])
def test_a_run_skips_the_encoder_in_its_second_epoch(preset: str, data: Path, tmp_path: Path,
                                                     monkeypatch: Any) -> None:
    seen: list[tuple[int, int]] = []
    leave = features.CachedEncoder.__exit__

    def noted(self: Any, *args: object) -> None:
        seen.append((self.encoded, self.found))
        leave(self, *args)

    monkeypatch.setattr(features.CachedEncoder, "__exit__", noted)
    changes = {"preset": preset, "steps": 6, "epochs": 2, "data.held_out": "", "save_every": 3}

    def losses(name: str) -> list[float]:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    train(tiny(data, tmp_path / "plain", **changes))
    kept = {**changes, "data.feature_cache": str(tmp_path / "features")}
    train(tiny(data, tmp_path / "kept", **{**kept, "steps": 3}))
    train(tiny(data, tmp_path / "kept", **kept))
    np.testing.assert_allclose(losses("kept"), losses("plain"), rtol=1e-5)
    assert seen[0][0] > 0 and seen[1][0] == 0 and seen[1][1] > 0
