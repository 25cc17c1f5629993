"""Weights between training checkpoints and Hugging Face directories, both ways, bit by bit."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fourd4d.checkpoint import CheckpointManager, restore_params
from fourd4d.checkpoint.safetensors import read_hf, write_hf
from fourd4d.core.errors import InputError
from fourd4d.models import Thinker, preset
from fourd4d.models.families import family
from fourd4d.parallel import abstract_for, make_mesh
from fourd4d.pretrained.open import open_trained
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.train import state as train_state

TRAINABLE = ("(?!vision/).*",)


def small(name: str, tied: bool):
    base = preset(name)
    own = {"full_layers": (1,)} if base.vision.position_table is None else {"full_layers": (0, 1)}
    return dataclasses.replace(
        base, vision=dataclasses.replace(base.vision, width=32, layers=2, heads=2, mlp=48, **own),
        decoder=dataclasses.replace(base.decoder, width=64, layers=2, mlp=96, vocab=1024,
                                    tied=tied, valid_vocab=tiny_tokenizer().vocab_size))


@pytest.fixture(scope="module", params=[("tiny", True), ("tiny", False), ("tiny3", True)],
                ids=["tied", "untied", "table"])
def config(request):
    return small(*request.param)


def key_table(config):
    return family(config.family, "here").key_table(config)


@pytest.fixture(scope="module")
def mesh(devices):
    return make_mesh("fsdp=4,tensor=2", devices)


def shapes(config, mesh):
    return abstract_for(jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0)))[1]), mesh)


@pytest.fixture(scope="module")
def tree(config, mesh):
    """Random weights in place; nothing is compiled."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jax.device_put(
        rng.standard_normal(x.shape, np.float32) / 8, x.sharding), shapes(config, mesh))


@pytest.fixture(scope="module")
def state(tree):
    """A trainer's state: the vision encoder frozen, optimizer statistics for the rest."""
    params, frozen = train_state.split(tree, TRAINABLE)
    return train_state.TrainState(jnp.int32(1), params, frozen, optax.sgd(0.1, 0.9).init(params))


def whole(state) -> dict:
    return values(nnx.merge_state(state.params, state.frozen))


def values(tree) -> dict:
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(tree)}


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg="/".join(map(str, path)))


def digests(files) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def weights(directory, config, mesh):
    """Trainable and frozen parts of a training checkpoint, as one tree on the mesh."""
    parts = zip(("params", "frozen"), train_state.split(shapes(config, mesh), TRAINABLE),
                strict=True)
    return nnx.merge_state(*(restore_params(directory, part, name) for name, part in parts))


def test_a_trained_checkpoint_becomes_files_and_comes_back(tmp_path, config, state, mesh):
    with CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, state)
    stored = whole(state)
    restored = weights(tmp_path / "run", config, mesh)
    assert_equal(values(restored), stored)
    write_hf(tmp_path / "hf", key_table(config), restored, shard_bytes=100_000)
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    back = read_hf(tmp_path / "hf", key_table(config), shapes(config, mesh))
    assert_equal(values(back), stored)
    for leaf in jax.tree.leaves(back):
        assert leaf.sharding.mesh == mesh


def test_files_pass_through_a_checkpoint_unchanged(tmp_path, config, tree, mesh):
    table = key_table(config)
    half = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), tree)
    first = write_hf(tmp_path / "a", table, half, shard_bytes=100_000)
    opened = read_hf(tmp_path / "a", table, shapes(config, mesh))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(opened))
    params, frozen = train_state.split(opened, TRAINABLE)
    state = train_state.TrainState(jnp.int32(0), params, frozen, ())
    with CheckpointManager(tmp_path / "run") as manager:
        manager.save(0, state, force=True)
    second = write_hf(tmp_path / "b", table, weights(tmp_path / "run", config, mesh),
                      dtype=jnp.bfloat16, shard_bytes=100_000)
    assert digests(first) == digests(second)


@pytest.mark.parametrize("config", [("tiny", True)], indirect=True)
def test_the_exported_model_computes_the_same(tmp_path, config, state, mesh):
    """Through both kinds of files, on another mesh: equal logits."""
    with CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, state)
    restored = weights(tmp_path / "run", config, mesh)
    write_hf(tmp_path / "hf", key_table(config), restored)
    one = make_mesh("data=1", jax.devices()[:1])
    back = read_hf(tmp_path / "hf", key_table(config), shapes(config, one))
    graphdef = nnx.split(nnx.eval_shape(lambda: Thinker(config, nnx.Rngs(0))))[0]

    @jax.jit
    def logits(tree):
        model = nnx.merge(graphdef, tree)
        tokens = jnp.arange(12).reshape(1, 12)
        none = jnp.full((1, 12), -1)
        embeds = model.embed(tokens, none, None, none, None)
        positions = jnp.broadcast_to(jnp.arange(12), (3, 1, 12))
        return model.logits(model.decode(embeds, positions, jnp.ones((1, 12), jnp.int32))[0])

    here = jax.device_put(restored, jax.tree.map(lambda x: x.sharding, back))
    want = logits(here)
    assert np.isfinite(want).all() and np.std(want) > 0.1
    np.testing.assert_array_equal(want, logits(back))


@pytest.mark.parametrize("config", [("tiny", True)], indirect=True)
def test_a_trainers_directory_opens_by_itself(tmp_path, config, state, mesh):
    """What evaluation does: weights, tokenizer and protocol from the directory alone."""
    processor = Processor(tiny_tokenizer(), config.protocol(min_pixels=1024, max_pixels=4096))
    about = {"model": config.to_json(), "protocol": processor.protocol.to_json(),
             "trainable": list(TRAINABLE)}
    with CheckpointManager(tmp_path, processor=processor.save) as manager:
        manager.save(1, state, None, about)
    bundle = open_trained(tmp_path, mesh)
    assert bundle.config == config and bundle.processor.protocol == processor.protocol
    assert_equal(values(bundle.tree), whole(state))


@pytest.mark.parametrize("config", [("tiny", True)], indirect=True)
def test_files_of_another_size_name_every_difference(tmp_path, config, state, mesh):
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
    wider = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, mlp=128))
    with pytest.raises(InputError, match=r"another size") as error:
        weights(tmp_path, wider, mesh)
    for name in ("gate", "up", "down"):
        assert f"params/decoder/blocks/{name}/kernel" in str(error.value)
    assert "3 paths differ" in str(error.value)
