"""Orbax checkpoints: exact restore, resume, other sizes, damage, a full disk."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import data as helpers
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fourd4d import data
from fourd4d.checkpoint import (
    CheckpointManager,
    orbax,
    processor_dir,
    read_specs,
    restore_params,
    trees,
)
from fourd4d.core.errors import InputError
from fourd4d.core.struct import pytree
from fourd4d.processing.processor import load_processor

SPECS = {"model": {"width": 8, "layers": (1, 2)}, "protocol": helpers.PROTOCOL.to_json()}


@pytree
class State:
    step: jax.Array
    params: dict
    opt_state: object
    key: jax.Array


@pytest.fixture(scope="module")
def mesh(devices):
    return Mesh(np.array(devices).reshape(4, 2), ("data", "tensor"))


def make(mesh: Mesh, width: int = 8, seed: int = 0) -> State:
    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    rng = np.random.default_rng(seed)
    params = {
        "kernel": put(rng.standard_normal((width, 4)).astype(np.float32), "data", "tensor"),
        "layers": [put(rng.standard_normal(3).astype(jnp.bfloat16)), put(np.float32(seed))],
    }
    return State(put(np.int32(seed)), params, optax.adamw(1e-3).init(params),
                 jax.random.key(seed))


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(got, want) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding
        if trees.is_key(a):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Counter:
    """The smallest checkpointable iterator."""

    def __init__(self, at: int = 0):
        self.at = at

    def get_state(self) -> dict:
        return {"at": np.int64(self.at)}

    def set_state(self, state: dict) -> None:
        self.at = state["at"]


def test_everything_comes_back(tmp_path, mesh):
    state = make(mesh, seed=3)
    with CheckpointManager(tmp_path, processor=helpers.processor().save) as manager:
        assert manager.latest() is None
        assert manager.save(7, state, Counter(41), SPECS)
    with CheckpointManager(tmp_path) as manager:
        counter = Counter()
        found = manager.restore(abstract(make(mesh, seed=4)), counter)
    assert_same(found.state, state)
    assert isinstance(found.state, State)
    assert (found.step, counter.at) == (7, 41)
    assert found.specs == read_specs(tmp_path) == json.loads(json.dumps(SPECS))
    again = load_processor(processor_dir(tmp_path))
    assert again.protocol == helpers.PROTOCOL
    mine = helpers.processor().tokenizer
    assert again.tokenizer.encode("Which way?") == mine.encode("Which way?")


def test_restoring_moves_to_the_shardings_and_dtypes_asked_for(tmp_path, mesh, devices):
    state = make(mesh)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
        other = Mesh(np.array(devices[:2]), ("model",))
        sharding = NamedSharding(other, PartitionSpec(None, "model"))
        want = abstract(state)
        want.params["kernel"] = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16, sharding=sharding)
        found = manager.restore(want).state.params["kernel"]
    assert found.sharding == sharding and found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(state.params["kernel"].astype(jnp.bfloat16)))


def test_params_alone(tmp_path, mesh):
    state = make(mesh, seed=2)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state, None, SPECS)
        manager.save(2, make(mesh, seed=5), None, SPECS)
    assert_same(restore_params(tmp_path, abstract(state.params), step=1), state.params)
    part = restore_params(tmp_path, abstract(state.params["layers"]), "params/layers", step=1)
    assert_same(part, state.params["layers"])
    with pytest.raises(InputError, match="no 'weights' in the checkpoint.*'params'"):
        restore_params(tmp_path, abstract(state.params), "weights")


def test_modules_keep_their_variables(tmp_path):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, {"params": state})
        fresh = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(1)))[1]
        found = manager.restore({"params": abstract(fresh)}).state["params"]
    x = jnp.ones((1, 3))
    np.testing.assert_array_equal(nnx.merge(graphdef, found)(x), model(x))


def test_keeping_and_rhythm(tmp_path, mesh):
    state = make(mesh)
    with CheckpointManager(tmp_path, keep=2, every=2) as manager:
        saved = [manager.save(step, state) for step in range(1, 8)]
        assert saved == [False, True] * 3 + [False]
        assert manager.steps() == [4, 6]
        assert manager.save(7, state, force=True) and not manager.save(7, state, force=True)
        assert manager.steps() == [6, 7] and manager.latest() == 7
    with pytest.raises(InputError, match="keep=0"):
        CheckpointManager(tmp_path, keep=0)


def test_asynchronous_saves_hold_the_values_of_their_moment(tmp_path, mesh):
    state = make(mesh, seed=1)
    want = jax.tree.map(np.asarray, state.params)
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with CheckpointManager(tmp_path, asynchronous=True) as manager:
        manager.save(1, {"params": state.params}, Counter(5))
        params = bump(state.params)
        manager.wait()
        found = manager.restore({"params": abstract(params)}).state["params"]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, found), want)


def test_resuming_goes_on_with_the_next_batch(tmp_path, mesh):
    rows = [helpers.sample(i) for i in range(6)]
    source = data.open_source(helpers.write_dataset(tmp_path / "data", rows))
    processor = helpers.processor()
    shape = data.measure(source, processor, 2)
    state = make(mesh)

    def stream():
        return iter(data.dift_pipeline(source, processor, shape, epochs=2))

    want = [batch.tokens for batch in stream()]
    batches = stream()
    with CheckpointManager(tmp_path / "run") as manager:
        for _ in range(2):
            next(batches)
        manager.save(2, state, batches)
        next(batches)
    resumed = stream()
    with CheckpointManager(tmp_path / "run") as manager:
        manager.restore(abstract(state), resumed)
    rest = [batch.tokens for batch in resumed]
    np.testing.assert_array_equal(rest, want[2:])


def test_another_size_lists_every_difference_and_restores_nothing(tmp_path, mesh):
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, make(mesh), Counter(1))
        want = abstract(make(mesh, width=16))
        want.params["extra"] = want.params["layers"].pop()
        counter = Counter(9)
        with pytest.raises(InputError) as error:
            manager.restore(want, counter)
    text = str(error.value)
    assert "another size, 5 paths differ" in text
    assert "params/kernel: (8, 4) in the checkpoint, (16, 4) wanted" in text
    assert "opt_state/0/mu/kernel: (8, 4) in" in text and "opt_state/0/nu/kernel: (8, 4) in" in text
    assert "params/extra: missing from the checkpoint, wanted ()" in text
    assert "params/layers/1: in the checkpoint (), not wanted" in text
    assert counter.at == 9 and " more" not in text
    assert text.endswith("wanted. Use the config that is saved in its specs, or another directory.")
    with pytest.raises(InputError, match=r"params/kernel: \(8, 4\) in the checkpoint, \(16, 4\)"):
        restore_params(tmp_path, abstract(make(mesh, width=16).params))
    many = {f"w{i:02d}": want.params["kernel"] for i in range(30)}
    with pytest.raises(InputError, match=r"33 paths differ") as error:
        restore_params(tmp_path, many)
    assert len(str(error.value).splitlines()) == 26 and "\n  and 9 more. Use" in str(error.value)


def test_missing_and_damaged_checkpoints(tmp_path, mesh):
    state = make(mesh)
    with pytest.raises(InputError, match="no such directory"):
        read_specs(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not a directory"):
        CheckpointManager(tmp_path / "file")
    with pytest.raises(InputError, match="no complete checkpoint"):
        restore_params(tmp_path, state.params)
    with pytest.raises(InputError, match="no processor/"):
        processor_dir(tmp_path)
    run = tmp_path / "run"
    with CheckpointManager(run) as manager:
        with pytest.raises(InputError, match="no complete checkpoint"):
            manager.restore(abstract(state))
        manager.save(1, state, Counter(1), SPECS)
        manager.save(2, state)
        with pytest.raises(InputError, match=r"no checkpoint of step 5. There are \[1, 2\]"):
            manager.restore(abstract(state), step=5)
        with pytest.raises(InputError, match="no position in the data"):
            manager.restore(abstract(state), Counter(), step=2)

        for file in (run / "2" / "state").rglob("*"):
            if file.is_file() and file.stat().st_size > 100 and "METADATA" not in file.name:
                file.write_bytes(b"\0" * file.stat().st_size)
        with pytest.raises(InputError, match=r"run/2: the checkpoint is damaged .*\[1\]"):
            manager.restore(abstract(state))
        shutil.rmtree(run / "2" / "state")
        with pytest.raises(InputError, match=r"run/2: the checkpoint is damaged .*\[1\]"):
            manager.restore(abstract(state))
        assert_same(manager.restore(abstract(state), step=1).state, state)

        position = run / "1" / "data" / "process_0-of-1.json"
        text = position.read_text()
        position.write_text("{")
        with pytest.raises(InputError, match="damaged"):
            manager.restore(abstract(state), Counter(), step=1)
        position.write_text(text)
        (run / "1" / "checksums.json").unlink()
        for text in ("{", "1" * 400, "[" * 100_000):
            position.write_text(text)
            with pytest.raises(InputError, match=r"process_0-of-1.json: .*JSON|of 400 digits"):
                manager.restore(abstract(state), Counter(), step=1)
        position.rename(position.with_name("process_0-of-4.json"))
        with pytest.raises(InputError, match="as many processes"):
            manager.restore(abstract(state), Counter(), step=1)


def test_unfinished_checkpoints_do_not_count(tmp_path, mesh):
    state = make(mesh)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
    (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with CheckpointManager(tmp_path) as manager:
        assert manager.latest() == 1
        assert_same(manager.restore(abstract(state)).state, state)
        assert manager.save(2, state)


def test_a_full_disk_is_seen_before_writing(tmp_path, mesh, monkeypatch):
    state = make(mesh)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(orbax.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(InputError, match="the disk is full.*step 1 is intact"):
            manager.save(2, state)
        assert manager.steps() == [1]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_fills_while_writing_leaves_the_last_checkpoint(tmp_path, asynchronous,
                                                                    file_limit):
    """Files may grow to 200 kB only: the write itself fails, as on a full disk."""
    state = {"params": jnp.asarray(np.random.default_rng(0).random(200_000, np.float32))}
    small = {"params": jnp.ones(8)}
    with CheckpointManager(tmp_path, asynchronous=asynchronous) as manager:
        manager.save(1, small, None, SPECS)
        manager.wait()
        file_limit(200_000)
        with pytest.raises(InputError, match="not written.*disk is full.*step 1 is intact"):
            manager.save(2, state)
            manager.wait()
        file_limit(None)
        assert manager.steps() == [1]
        assert not [p.name for p in tmp_path.iterdir() if "tmp" in p.name]
        np.testing.assert_array_equal(manager.restore(abstract(small)).state["params"], np.ones(8))
        assert manager.save(3, state), "with space again, saving goes on"
        manager.wait()
        assert manager.steps() == [1, 3]


def test_specs_must_be_json(tmp_path, mesh):
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(InputError, match="specs: no JSON"):
            manager.save(1, make(mesh), None, {"f": object()})
        assert manager.latest() is None


def test_leaves_with_one_name_are_refused():
    with pytest.raises(InputError, match="two leaves are called '1'"):
        trees.flatten(Twice())


@jax.tree_util.register_pytree_with_keys_class
class Twice:
    def tree_flatten_with_keys(self):
        key = jax.tree_util.DictKey("1")
        return ((key, np.ones(1)), (key, np.ones(1))), None

    @classmethod
    def tree_unflatten(cls, _, __):
        return cls()


@pytest.mark.parametrize("name", ["exp[lr=1e-4]", "a*b", "what?", "{x,y}", "100%", "a b", "#1:2",
                                  "-x", "~", "ü", "[" * 40])
def test_any_folder_name_holds_checkpoints(tmp_path, mesh, name):
    state = make(mesh)
    with CheckpointManager(tmp_path / name / "checkpoints") as manager:
        manager.save(1, state, Counter(3), SPECS)
    (tmp_path / name).rename(tmp_path / "renamed")
    for folder in ("renamed", name):
        if folder == name:
            (tmp_path / "renamed").rename(tmp_path / name)
        counter = Counter()
        with CheckpointManager(tmp_path / folder / "checkpoints") as manager:
            assert manager.steps() == [1]
            restored = manager.restore(abstract(state), counter)
        assert_same(restored.state, state)
        assert counter.at == 3
        params = restore_params(tmp_path / folder / "checkpoints", abstract(state.params))
        assert_same(params, state.params)


def test_one_flipped_bit_is_noticed(tmp_path, mesh):
    state = make(mesh)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state, Counter(), SPECS)
        files = [p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.stat().st_size
                 and p.name != "checksums.json"]
        assert len(files) > 5
        for file in files:
            whole = file.read_bytes()
            middle = len(whole) // 2
            file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1:])
            with pytest.raises(InputError, match=rf"1: the checkpoint is damaged \(.*{file.name}"):
                manager.restore(abstract(state))
            with pytest.raises(InputError, match="damaged"):
                restore_params(tmp_path, abstract(state.params))
            file.write_bytes(whole)
        manager.restore(abstract(state))
        files[0].unlink()
        with pytest.raises(InputError, match="is missing"):
            manager.restore(abstract(state))
        (tmp_path / "1" / "checksums.json").unlink()  # As earlier versions wrote it.
        files[0].write_bytes(b"")


def test_a_save_without_arrays_is_not_called_saved(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr("fourd4d.checkpoint.orbax._stored", lambda where: {})
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(InputError, match="1: the checkpoint holds no arrays"):
            manager.save(1, make(mesh), Counter(), SPECS)
        monkeypatch.undo()


class Killed(BaseException):
    """In place of SIGKILL: nothing catches it."""


def test_a_run_killed_before_its_save_was_checked_hurts_nothing(tmp_path, mesh, monkeypatch,
                                                                caplog):
    state = make(mesh)

    def kill(step):
        raise Killed

    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state, Counter(1), SPECS)
        monkeypatch.setattr(orbax, "write_checksums", kill)
        with pytest.raises(Killed):
            manager.save(2, state, Counter(2), SPECS)
        monkeypatch.undo()
        manager._unchecked = []
    assert not (tmp_path / "2" / "checksums.json").exists()
    shutil.copytree(tmp_path, tmp_path / "lost", ignore=shutil.ignore_patterns("lost"))
    with CheckpointManager(tmp_path) as manager:
        assert manager.latest() == 2
        assert_same(manager.restore(abstract(state), Counter()).state, state)
        assert "2: saved, but not checked" in caplog.text
        file = next(p for p in (tmp_path / "2" / "state").rglob("*") if p.stat().st_size > 100)
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(InputError, match=r"2: the checkpoint is damaged.*\[1\].*delete this"):
            manager.restore(abstract(state))
    (tmp_path / "lost" / "2" / "state" / "manifest.ocdbt").unlink()
    with CheckpointManager(tmp_path / "lost") as manager:
        with pytest.raises(InputError, match="2: the checkpoint is damaged"):
            manager.restore(abstract(state))
    monkeypatch.setattr(orbax, "_stored", lambda where: {})
    with pytest.raises(InputError, match="2: the checkpoint is damaged .it holds no arrays"):
        restore_params(tmp_path / "lost", abstract(state.params))
