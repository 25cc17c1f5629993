"""Meshes, rules and shardings on eight fake CPU devices."""

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.parallel import (
    DEFAULT_RULES,
    abstract_for,
    born_sharded,
    constrain,
    host_to_global,
    in_this_context,
    is_main,
    make_mesh,
    partition,
    platform,
    shardings_for,
    start,
    to_host,
    use,
)
from fourd4d.parallel.mesh import axis_sizes

SIZES = {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}


@pytest.fixture(scope="module")
def mesh(devices):
    return make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)


@pytest.mark.parametrize(("spec", "sizes"), [
    ("cpu", (8, 1, 1, 1)), ("single", (1, 1, 1, 1)), ("gpu-node", (1, 8, 1, 1)),
    ("pod", (1, 8, 1, 1)), ("data=2,tensor=-1", (2, 1, 4, 1)),
    ({"fsdp": -1, "context": 2}, (1, 4, 1, 2)), ({"data": 2, "tensor": 2}, (2, 1, 2, 1)),
])
def test_mesh_sizes(devices, spec, sizes):
    mesh = make_mesh(spec, devices)
    assert mesh.axis_names == ("data", "fsdp", "tensor", "context")
    assert mesh.axis_sizes == sizes


def test_a_pod_of_two_slices_has_a_data_index_each():
    assert axis_sizes("pod", 512, slices=2) == dict(data=2, fsdp=256, tensor=1, context=1)


@pytest.mark.parametrize(("spec", "what"), [
    ("laptop", "neither a preset"), ("data=2,model=4", "unknown axes \\['model'\\]"),
    ({"data": -1, "fsdp": -1}, "all -1"), ({"data": 3, "fsdp": -1}, "do not divide by 3"),
    ({"data": 16}, "need 16 devices, 8 are here"), ({"data": 0}, "at least 1"),
])
def test_bad_meshes_say_what_is_wrong(devices, spec, what):
    with pytest.raises(InputError, match=what):
        make_mesh(spec, devices)


def test_rules_map_weights_and_activations():
    spec = DEFAULT_RULES.spec
    assert spec(("embed", "heads", "head_dim"), (8, 4, 16), SIZES) == P("fsdp", "tensor", None)
    assert spec(("layers", "embed", "mlp"), (3, 8, 6), SIZES) == P(None, "fsdp", "tensor")
    assert spec(("batch", "length", "embed"), (4, 9, 5), SIZES, activation=True) == P(
        ("data", "fsdp"), None, None)


def test_two_axes_on_one_mesh_axis_collide_by_name():
    with pytest.raises(InputError, match="'heads' and 'mlp' both lie on mesh axis 'tensor'"):
        DEFAULT_RULES.spec(("heads", "mlp"), (4, 4), SIZES, "weight")
    # As weights, batch and embed would both lie on fsdp.
    with pytest.raises(InputError, match="'batch' and 'embed'"):
        DEFAULT_RULES.spec(("batch", "embed"), (4, 4), SIZES)


def test_what_does_not_divide_is_an_error_unless_replicable():
    with pytest.raises(InputError, match="w: axis 'kv_heads' has size 3.*'tensor'"):
        DEFAULT_RULES.spec(("embed", "kv_heads"), (4, 3), SIZES, "w")
    rules = DEFAULT_RULES.replicating("kv_heads")
    assert rules.spec(("embed", "kv_heads"), (4, 3), SIZES) == P("fsdp", None)
    assert rules.spec(("embed", "kv_heads"), (4, 2), SIZES) == P("fsdp", "tensor")


def test_unknown_names_and_wrong_ranks():
    with pytest.raises(InputError, match="unknown logical axis 'width'"):
        DEFAULT_RULES.spec(("width",), (4,), SIZES)
    with pytest.raises(InputError, match="Name every axis"):
        DEFAULT_RULES.spec(("embed",), (4, 4), SIZES)
    with pytest.raises(InputError, match="unknown logical axis"):
        DEFAULT_RULES.replicating("width")


def test_constrain_is_the_identity_outside_a_mesh():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "nonsense") is x


def test_constrain_lays_out_inside_jit(mesh):
    x = jnp.arange(32.0).reshape(4, 2, 4)
    f = jax.jit(lambda x: constrain(x * 2, "batch", "length", "mlp"))
    unsharded = f(x)
    with use(mesh):
        sharded = f(x)
        assert partition((4, 4), "batch", "heads") == P(("data", "fsdp"), "tensor")
    assert sharded.sharding.spec == P(("data", "fsdp"), None, "tensor")
    np.testing.assert_array_equal(sharded, unsharded)
    with use(mesh), pytest.raises(InputError, match="axis 'batch' has size 3"):
        jax.jit(lambda x: constrain(x, "batch"))(jnp.ones(3))


def test_constrain_leaves_manual_regions_alone(mesh):
    def inner(x):
        return constrain(x + 1, "batch", "mlp")

    with use(mesh):
        spec = partition((8, 4), "batch", "mlp")
        out = jax.jit(jax.shard_map(inner, in_specs=spec, out_specs=spec))(jnp.zeros((8, 4)))
    np.testing.assert_array_equal(out, jnp.ones((8, 4)))


class Net(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        normal = nnx.initializers.normal()

        def weight(shape, *names):
            return nnx.Param(normal(rngs.params(), shape), out_sharding=names, eager_sharding=False)

        self.up = weight((width, 2 * width), "embed", "mlp")
        self.down = weight((2 * width, width), "mlp", "embed")
        self.bias = nnx.Param(jnp.zeros(width))


def _init(key):
    return nnx.split(Net(8, nnx.Rngs(key)))[1]


def test_state_is_born_sharded_and_equal(mesh):
    key = jax.random.key(0)
    state = born_sharded(_init, mesh)(key)
    assert state["up"].get_value().sharding.spec == P("fsdp", "tensor")
    assert state["down"].get_value().sharding.spec == P("tensor", "fsdp")
    assert state["bias"].get_value().sharding.spec == P()
    shard = state["up"].get_value().addressable_shards[0].data
    assert shard.shape == (4, 8)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), to_host(state),
                 to_host(_init(key)))


def test_abstract_tree_carries_shapes_and_shardings(mesh):
    abstract = abstract_for(jax.eval_shape(_init, jax.random.key(0)), mesh)
    leaf = abstract["up"].get_value()
    assert leaf.shape == (8, 16) and leaf.sharding.spec == P("fsdp", "tensor")


def test_optimizer_statistics_follow_their_parameters(mesh):
    import optax

    def init(key):
        return optax.adamw(1e-3).init(_init(key))

    state = born_sharded(init, mesh)(jax.random.key(0))
    specs = {tuple(x.sharding.spec) for x in jax.tree.leaves(state) if x.ndim == 2}
    assert specs == {("fsdp", "tensor"), ("tensor", "fsdp")}


def test_platform_is_the_meshs():
    other = mock.Mock(spec=jax.sharding.Mesh)
    other.devices = np.array([mock.Mock(platform="tpu")])
    assert platform() == "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "set_mesh", lambda mesh: contextlib.nullcontext())
        with use(other):
            assert platform() == "tpu"
    assert platform() == "cpu"


def test_other_threads_take_over_mesh_and_rules(mesh):
    rules = dataclasses.replace(DEFAULT_RULES, activations={"embed": ("tensor",)})

    def seen():
        return jax.sharding.get_mesh(), partition((4, 8), "batch", "embed"), platform()

    with ThreadPoolExecutor(2) as pool:
        with use(mesh, rules):
            call, here = in_this_context(), seen()
        assert [pool.submit(call, seen).result() for _ in range(3)] == [here] * 3
        assert here[1] == P(("data", "fsdp"), "tensor")
        assert pool.submit(in_this_context(), seen).result() == seen() != here


def test_misfits_name_the_parameter(devices):
    abstract = jax.eval_shape(_init, jax.random.key(0))
    with pytest.raises(InputError, match="parameter down: axis 'mlp' has size 16"):
        shardings_for(abstract, make_mesh({"tensor": 7}, devices))


def test_host_batch_becomes_global(mesh):
    protocol = ProtocolSpec(patch_size=4, window=16, min_pixels=64, max_pixels=1024)
    batch = Batch.fake(BatchShape(rows=4, length=16, slots=2, windows=1, overlays=1), protocol)
    out = host_to_global(batch, mesh)
    assert out.tokens.sharding.spec == P(("data", "fsdp"), None)
    assert out.positions.sharding.spec == P(None, ("data", "fsdp"), None)
    assert out.vision.patches.sharding.spec[0] == ("data", "fsdp")
    jax.tree.map(np.testing.assert_array_equal, to_host(out), batch)
    with pytest.raises(InputError, match=r"batch.tokens: axis 'batch' has size 3"):
        host_to_global(Batch.fake(BatchShape(3, 16, 2, 1, 1), protocol), mesh)


def test_start_is_nothing_on_one_host(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    start()
    assert is_main() and not jax.distributed.is_initialized()
