"""Checkpoints of both trainers through Hugging Face files: Orbax → HF → Orbax → HF, and logits.

DIFT trains all but the vision encoder; 4DRL starts from DIFT's exported directory and trains
adapters, which the export merges.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from helpers.bundles import files_in
from helpers.data import sample, write_dataset
from helpers.dift_config import tiny as dift_config
from helpers.rl_config import reward_by_length
from helpers.rl_config import tiny as rl_config
from ml_collections import ConfigDict

from fourd4d import convert
from fourd4d.bench.hf_parity import compare, reference
from fourd4d.data import collate, shape_for
from fourd4d.dift.__main__ import train as dift
from fourd4d.parallel import make_mesh
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.huggingface import open_hf
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.processing.media import Image, Video
from fourd4d.rl.__main__ import train as rl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("highest_precision")]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@dataclasses.dataclass
class Trained:
    checkpoints: Path
    exported: Path


@pytest.fixture(scope="module")
def stages(tmp_path_factory: Any) -> dict[str, Trained]:
    """Both trainers' checkpoints and what the command makes of them."""
    root = tmp_path_factory.mktemp("stages")
    data = write_dataset(root / "data", [sample(i, frames=2) for i in range(8)])

    def export(name: str) -> Trained:
        found = Trained(root / name / "checkpoints", root / f"{name}_hf")
        assert convert.main([str(found.checkpoints), str(found.exported)]) == 0
        return found

    dift(dift_config(data, root / "dift", steps=2, **{"data.held_out": ""}))
    found = {"dift": export("dift")}
    config = rl_config(data, root / "rl", steps=2, preset="", init=str(root / "dift_hf"),
                       trainable=(r".*/lora_[ab]",), **{"optimizer.learning_rate": 0.05})
    with config.unlocked():
        config.model = ConfigDict(dict(lora=dict(rank=2, alpha=4.0, targets=("q", "v", "down"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourd4d.rl.trainer.score", reward_by_length)
        rl(config)
    return found | {"rl": export("rl")}


@pytest.fixture(scope="module")
def mesh() -> Any:
    return make_mesh("data=1", jax.devices()[:1])


def leaves(bundle: ModelBundle) -> dict[tuple, np.ndarray]:
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(bundle.tree)}


@pytest.mark.parametrize("stage", ["dift", "rl"])
def test_files_and_checkpoints_turn_into_each_other(stages: Any, stage: str, mesh: Any,
                                                    tmp_path: Path) -> None:
    exported = stages[stage].exported
    assert convert.main([str(exported), str(tmp_path / "orbax")]) == 0
    assert convert.main([str(tmp_path / "orbax"), str(tmp_path / "hf")]) == 0
    made, again = files_in(exported), files_in(tmp_path / "hf")
    assert made.pop("README.md") and again.pop("README.md")  # Each tells where it is from.
    assert made == again and len(made) > 5
    from_files = leaves(open_hf(exported, mesh))
    from_orbax = leaves(open_checkpoint(tmp_path / "orbax", mesh))
    assert from_files.keys() == from_orbax.keys()
    for path, value in from_files.items():
        np.testing.assert_array_equal(from_orbax[path], value)
    trained = open_checkpoint(stages[stage].checkpoints, mesh)
    assert (trained.config.lora is not None) == (stage == "rl")
    for path, value in leaves(trained).items():
        if not {"lora_a", "lora_b", "q", "v", "down"} & set(path[-2:]):
            np.testing.assert_array_equal(from_files[path], value)


@pytest.mark.parametrize("stage", ["dift", "rl"])
def test_transformers_gives_the_trained_models_logits(stages: Any, stage: str, mesh: Any) -> None:
    """Ours from the trainer's checkpoint, adapters apart; theirs from the exported directory."""
    ours = open_checkpoint(stages[stage].checkpoints, mesh)
    folder = stages[stage].exported
    pair = reference.Pair(
        folder, transformers.AutoModelForImageTextToText.from_pretrained(folder).eval(),
        transformers.AutoProcessor.from_pretrained(folder), ours)
    rng = np.random.default_rng(0)
    video = Video(rng.integers(0, 256, (3, 60, 44, 3), dtype=np.uint8), np.arange(3) / 2.0)
    image = Image(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    row = reference.Row("", "Which way?\n\nA. Left\nB. Right", [video, image], [2.0])
    example = row.example(ours.processor)
    inputs = pair.inputs([row])
    assert example.tokens.tolist() == inputs["input_ids"][0].tolist()
    positions = reference.their_positions(pair.model, inputs)
    np.testing.assert_array_equal(positions[:, 0], example.positions)
    wanted = compare._their_logits(pair.model, inputs, positions)[0]
    batch = collate([example], shape_for([example]), ours.processor.protocol)
    logits = compare._forward(ours.model, batch)["logits"][0]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    if stage == "rl":  # The adapters have learnt something, and it is in the files.
        b = [v for path, v in leaves(ours).items() if path[-1] == "lora_b"]
        assert len(b) == 3 and all(np.abs(v).max() > 1e-3 for v in b)
        before = open_hf(stages["dift"].exported, mesh)
        other = compare._forward(before.model, batch)["logits"][0]
        assert np.abs(other - wanted).max() > 1e-2
