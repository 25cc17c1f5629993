"""State, optimizer and accumulation on a small network."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from configs import dift_tiny, rl_tiny
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.struct import pytree
from fourd4d.losses import text_loss
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.train import (
    OptimizerSpec,
    TrainState,
    abstract_state,
    apply_gradients,
    check_origin,
    create_state,
    gradients,
    learning_rate,
    make_optimizer,
    state_from,
)
from fourd4d.train.optimizer import decay_mask, matrix_sides
from fourd4d.train.overview import log_parameters
from fourd4d.train.resume import changes, fingerprint
from fourd4d.train.state import microbatches, split

D, V, L = 8, 16, 6


class Net(nnx.Module):
    """Embedding, one stacked pair of layers with biases, a head."""

    def __init__(self, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.3)

        def weight(shape, *names):
            return nnx.Param(normal(rngs.params(), shape), out_sharding=names, eager_sharding=False)

        self.embedding = weight((V, D), "vocab", "embed")
        self.layer = nnx.Dict(
            up=weight((2, D, 16), "layers", "embed", "mlp"),
            down=weight((2, 16, D), "layers", "mlp", "embed"),
            up_bias=weight((2, 16), "layers", "mlp"),
            gain=weight((2, D), "layers", "embed"),
        )
        self.head = weight((D, V), "embed", "vocab")

    def __call__(self, tokens):
        x = self.embedding[...][tokens]

        def layer(x, w):
            return x + jnp.tanh(x * (1 + w["gain"]) @ w["up"] + w["up_bias"]) @ w["down"], None

        x, _ = jax.lax.scan(layer, x, {k: v[...] for k, v in self.layer.items()})
        return x, self.head[...]


@pytree
class Rows:
    tokens: jax.Array
    text_weights: jax.Array


def rows(n=8, seed=0):
    rng = np.random.default_rng(seed)
    weights = (rng.random((n, L)) < 0.6).astype(np.float32)
    weights[0] = 0  # Microbatches must differ in weight.
    return Rows(rng.integers(0, V, (n, L)).astype(np.int32), weights)


def loss(params, batch, graphdef, frozen, total):
    hidden, head = nnx.merge(graphdef, params, frozen)(batch.tokens)
    mean = text_loss(hidden, head, batch.tokens, batch.text_weights)
    return mean.total / total, {"text_loss": mean}


TX = make_optimizer(OptimizerSpec(learning_rate=1e-2, warmup_steps=0))


@partial(jax.jit, static_argnums=(0, 3))
def step(graphdef, state, batch, count):
    total = jnp.sum(batch.text_weights[:, 1:])
    f = partial(loss, graphdef=graphdef, frozen=state.frozen, total=total)
    value, grads, metrics = gradients(f, state.params, batch, count)
    state, norms = apply_gradients(state, grads, TX)
    return state, {"loss": Mean.of(value), **metrics, **norms}


@pytest.fixture(scope="module")
def one(devices):
    return make_mesh("single", devices)


@pytest.fixture(scope="module")
def made(one):
    return create_state(Net, 0, TX, one, trainable=("layer/.*", "head"))


def close(a, b, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


def test_state_splits_by_path(made):
    _, state = made
    assert int(state.step) == 0
    names = {"/".join(path) for path, _ in nnx.to_flat_state(state.params)}
    assert names == {"layer/up", "layer/down", "layer/up_bias", "layer/gain", "head"}
    assert [path for path, _ in nnx.to_flat_state(state.frozen)] == [("embedding",)]
    statistics = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(statistics) == 2 * len(names)


def test_a_pattern_that_matches_nothing_is_an_error(made):
    _, state = made
    with pytest.raises(InputError, match="pattern 'layers/.\\*' matches none"):
        split(state.params, ("head", "layers/.*"))
    with pytest.raises(InputError, match="pattern 'lay' matches none"):
        split(state.params, ("lay",))


def test_a_pattern_takes_whole_paths_only(made):
    params, frozen = split(made[1].params, ("layer/up",))
    assert [path for path, _ in nnx.to_flat_state(params)] == [("layer", "up")]
    assert ("layer", "up_bias") in dict(nnx.to_flat_state(frozen))


def test_frozen_weights_stay_and_the_others_move(made):
    graphdef, state = made
    after, metrics = step(graphdef, state, rows(), 1)
    assert int(after.step) == 1
    close(after.frozen, state.frozen, rtol=0)
    for (path, a), (_, b) in zip(nnx.to_flat_state(after.params), nnx.to_flat_state(state.params)):
        assert np.any(a[...] != b[...]), path
    assert float(metrics["grad_norm"].value()) > 0


@pytest.mark.parametrize("count", [2, 8])
def test_accumulation_equals_the_big_batch(made, count):
    graphdef, state = made
    big, m = step(graphdef, state, rows(), 1)
    small, n = step(graphdef, state, rows(), count)
    close(jax.tree.map(Mean.value, n, is_leaf=lambda x: isinstance(x, Mean)),
          jax.tree.map(Mean.value, m, is_leaf=lambda x: isinstance(x, Mean)), rtol=1e-5)
    close(small.params, big.params, atol=1e-6)


def test_microbatches_deal_rows_out_and_refuse_what_does_not_divide():
    protocol = ProtocolSpec(patch_size=4, window=16, min_pixels=64, max_pixels=1024)
    batch = Batch.fake(BatchShape(4, 16, 2, 1, 1), protocol)
    parts = microbatches(jax.tree.map(jnp.asarray, batch), 2)
    np.testing.assert_array_equal(parts.tokens[1], batch.tokens[1::2])
    np.testing.assert_array_equal(parts.positions[1], batch.positions[:, 1::2])
    with pytest.raises(InputError, match="8 rows do not divide into 3"):
        microbatches(rows(), 3)


@pytest.mark.parametrize("sizes", [dict(data=2, fsdp=2, tensor=2), dict(fsdp=8)])
def test_sharded_step_equals_unsharded(devices, made, sizes):
    graphdef, state = made
    want, metrics = step(graphdef, state, rows(), 1)
    mesh = make_mesh(sizes, devices)
    _, sharded = create_state(Net, 0, TX, mesh, trainable=("layer/.*", "head"))
    close(sharded.params, state.params, rtol=1e-6)
    with use(mesh):
        got, metrics_s = step(graphdef, sharded, host_to_global(rows(), mesh), 1)
    if sizes == dict(data=2, fsdp=2, tensor=2):
        assert sharded.params["layer"]["up"][...].sharding.spec == P(None, "fsdp", "tensor")
        mu = sharded.opt_state[1][0].mu["layer"]["up"][...]
        assert mu.sharding.spec == P(None, "fsdp", "tensor")
    close(got.params, want.params, atol=1e-6)
    close(metrics_s["text_loss"].value(), metrics["text_loss"].value(), rtol=1e-6)


def test_abstract_state_matches_and_allocates_nothing(devices):
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2), devices)
    with use(mesh):
        graphdef, abstract = abstract_state(Net, TX, mesh)
    graphdef_2, state = create_state(Net, 0, TX, mesh)
    assert graphdef == graphdef_2
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state)):
        assert isinstance(a, jax.ShapeDtypeStruct)
        assert (a.shape, a.dtype) == (x.shape, x.dtype)
        assert a.sharding.is_equivalent_to(x.sharding, x.ndim)


def test_state_from_loaded_weights(devices, made):
    _, state = made
    tree = jax.tree.map(np.asarray, jax.jit(lambda: nnx.state(Net(nnx.Rngs(3))))())
    mesh = make_mesh(dict(fsdp=8), devices)
    loaded = state_from(tree, TX, mesh, trainable=("layer/.*", "head"))
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    np.testing.assert_array_equal(loaded.params["head"][...], tree["head"][...])
    assert loaded.params["layer"]["up"][...].sharding.spec == P(None, "fsdp", None)


def test_matrices_decay_and_vectors_do_not(made):
    mask = decay_mask(made[1].params, ("bias",))
    assert {"/".join(p): v.get_value() for p, v in nnx.to_flat_state(mask)} == {
        "layer/up": True, "layer/down": True, "head": True,
        "layer/up_bias": False, "layer/gain": False,
    }
    # Zero gradients: what moves is decay alone.
    spec = OptimizerSpec(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    tx = make_optimizer(spec)
    params = made[1].params
    zero = jax.tree.map(np.zeros_like, params)
    update = jax.jit(lambda zero, params: tx.update(zero, tx.init(params), params)[0])
    updates = update(zero, params)
    np.testing.assert_allclose(updates["head"][...], -0.05 * params["head"][...], rtol=1e-5)
    assert not np.any(updates["layer"]["gain"][...])


def test_schedules():
    rate = learning_rate(OptimizerSpec())
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(10**5)], [0, 5e-6, 1e-5, 1e-5])
    rate = learning_rate(OptimizerSpec(learning_rate=1.0, schedule="cosine", warmup_steps=2,
                                       total_steps=10, final_scale=0.1))
    got = [rate(1), rate(2), rate(6), rate(10)]
    np.testing.assert_allclose(got, [0.5, 1, 0.55, 0.1], rtol=1e-6)
    assert learning_rate(OptimizerSpec(warmup_steps=0))(0) == 1e-5
    with pytest.raises(InputError, match="Cosine needs"):
        OptimizerSpec(schedule="cosine")


def test_clipping_bounds_the_gradient():
    tx = make_optimizer(OptimizerSpec(clip_norm=1.0, warmup_steps=0))
    state = tx.init({"w": jnp.zeros((2, 2))})
    _, state = tx.update({"w": jnp.full((2, 2), 50.0)}, state, {"w": jnp.zeros((2, 2))})
    mu = optax.tree_utils.tree_get(state, "mu")["w"]
    assert float(jnp.linalg.norm(mu)) == pytest.approx(0.1, rel=1e-4)


def test_train_state_is_a_pytree():
    state = TrainState(jnp.zeros((), jnp.int32), {"a": jnp.ones(2)}, {}, ())
    assert len(jax.tree.leaves(state)) == 2


@pytest.mark.parametrize("names, sides", [
    (("layers", "embed", "mlp"), ((1,), (2,))),
    (("embed", "heads", "head_dim"), ((0,), (1, 2))),
    (("layers", "heads", "head_dim", "embed"), ((1, 2), (3,))),
    (("layers", "kv_heads", "head_dim"), None),  # a bias
    (("layers", "embed"), None),
    (("vocab", "embed"), None),
    ((), None),
])
def test_muon_sees_projections_as_matrices(names, sides):
    found = matrix_sides(names)
    assert (found and (found.reduction_axis, found.output_axis)) == sides


def test_muon_moves_all_directions_of_a_projection_alike(devices):
    tx = make_optimizer(OptimizerSpec(name="muon", learning_rate=1e-2, warmup_steps=0,
                                      weight_decay=0.0))
    graphdef, state = create_state(Net, 0, tx, make_mesh("data=2", devices[:2]))
    grads = jax.grad(lambda p: loss(p, jax.tree.map(jnp.asarray, rows()), graphdef,
                                   state.frozen, 1.0)[0])(state.params)
    after, _ = apply_gradients(state, grads, tx)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
    spread = np.linalg.svd(moved["layer"]["up"][...], compute_uv=False)
    assert spread.min() > 0.5 * spread.max()  # Newton-Schulz stops at about 0.7 to 1.2
    plain = np.linalg.svd(grads["layer"]["up"][...], compute_uv=False)
    assert plain.min() < 0.2 * plain.max()
    steps = np.abs(moved["head"][...])
    np.testing.assert_allclose(steps, steps[0, 0], rtol=1e-3)  # Adam's first step


def test_fingerprint_names_exact_weights():
    one = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    assert fingerprint(one) == fingerprint(jax.tree.map(jnp.copy, one))
    nudged = one | {"a": one["a"].at[1, 2].set(np.nextafter(np.float32(5), np.float32(6)))}
    swapped = one | {"a": one["a"][::-1]}
    assert len({fingerprint(one), fingerprint(nudged), fingerprint(swapped),
                fingerprint(one | {"b": one["a"]})}) == 4


def test_fingerprint_ignores_sharding(devices):
    mesh = jax.sharding.Mesh(np.array(devices), "x")
    x = jnp.arange(64.0).reshape(8, 8) / 7
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("x")))
    assert fingerprint([x]) == fingerprint([split])


def test_resuming_needs_the_same_start_and_seed():
    saved = {"start": "abc", "seed": 0}
    check_origin(saved, saved, "dir")
    for key in saved:
        with pytest.raises(InputError, match=f"dir: {key} was"):
            check_origin(saved, saved | {key: 5}, "dir")


def test_the_parameters_of_a_run_are_logged(one, caplog):
    _, state = create_state(Net, 0, TX, one, trainable=("layer/.*", "head"))
    with caplog.at_level("INFO", logger="absl"):
        log_parameters(state)
    trained, frozen = caplog.messages
    assert trained.startswith("Trained parameters:\n") and "embedding" not in trained
    assert frozen.startswith("Frozen parameters:\n") and "layer/up" not in frozen
    row = next(line for line in trained.splitlines() if "| layer/up " in line)
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["(2, 8, 16)", "float32", "256"]
    assert trained.endswith("Total: 688 -- 2,752 bytes")
    assert frozen.endswith("Total: 128 -- 512 bytes")


def test_a_field_that_an_earlier_version_lacked_is_one_not_set():
    saved = {"model": {"imagery": {"head": "mlp", "mlp": 8}}}
    now = {"model": {"imagery": {"head": "mlp", "mlp": 8, "centred": None}}}
    whole = {"start": "abc", "seed": 0}
    check_origin(saved | whole, now | whole, "dir")
    now["model"]["imagery"]["centred"] = 4
    with pytest.raises(InputError, match=r'model.imagery was {"centred": null}, now'):
        check_origin(saved | whole, now | whole, "dir")


def specs(config, **changes):
    """As a trainer writes them and a checkpoint holds them."""
    about = {"model": {"dtype": "float32", "remat": "none", "lora": {"rank": 4, "alpha": 16.0}},
             "protocol": {"fps": 1.0}, "tokenizer": "t", "trainable": [".*"], "data": "d",
             "start": "s", "seed": config.seed, "position": "rows", "config": config.to_dict()}
    return json.loads(json.dumps(about | changes))


FREE = {
    "workdir": "x", "mesh": "data=2", "epochs": 3, "log_every": 7, "save_every": 7, "keep": 9,
    "data.path": "moved", "data.root": "moved", "data.round_to": 4, "data.max_failed_rows": 2,
    "data.max_failed_share": 0.5, "reading.workers": 4, "reading.threads": 0, "reading.buffer": 1,
    "init": "moved", "preset": "tiny", "tokenizer": "x"}
TOLD = {
    "optimizer.learning_rate": 1.0, "optimizer.warmup_steps": 5, "optimizer.schedule": "other",
    "optimizer.weight_decay": 0.5, "optimizer.clip_norm": 2.0, "data.measure": 5}
OWN = {
    dift_tiny: (
        {"accumulate": 2, "eval_every": 7, "data.held_out": "x", "data.held_out_root": "x",
         "data.feature_cache": "x", "data.feature_cache_bytes": 5},
        {"batch": 8, "steps": 9, "dift.text_weight": 0.3, "dift.imagery_weight": 2.0,
         "dift.norm_weight": 1.0, "dift.self_feed_passes": 1},
        {"imagery": False, "data.assumed_fps": 2.0, "data.pack": 4, "optimizer.name": "muon"}),
    rl_tiny: (
        {"rl.accumulate": 2, "show_every": 7, "steps": 9},
        {"prompts": 8, "rl.group": 4, "rl.epochs": 2, "rl.minibatches": 2, "rl.old": "recomputed",
         "rl.train_start": True, "rl.latent_sigma": 0.5, "variant": "dapo", "policy.beta": 0.5,
         "policy.clip_low": 0.1, "policy.clip_high": 0.1, "policy.normalisation": "x",
         "policy.divide_by_std": True, "policy.drop_equal_groups": True,
         "policy.mask_truncated": True, "rewards.format": 0.5, "rewards.answer": 0.5,
         "rl.latent_kappa": 1.0, "rl.overlong": 5, "rl.slots": 4, "rl.pack": True,
         "rl.rounds": 3, "rewards.pair": 0.5, "rewards.swap_gap": 0.5,
         "policy.ratio": "x", "policy.surrogate": "x", "policy.sampled_cap": 2.0,
         "policy.entropy": 0.5, "policy.latent_clip_low": 0.1, "policy.latent_clip_high": 0.1,
         "rewards.functions": ("a:b",),
         "sampling.max_tokens": 8, "sampling.temperature": 0.5, "sampling.max_latents": 4},
        {"imagery": False, "data.assumed_fps": 2.0, "data.pairs": True}),
}
ELSEWHERE = {"seed", "trainable", "model.unroll", "protocol.suffix"}  # Compared as they are.


@pytest.mark.parametrize("module", list(OWN), ids=["dift", "rl"])
def test_each_config_field_may_change_is_told_or_must_not_change(module):
    """Every field of both trainers is decided upon."""

    def changed(field, value):
        config = module.get_config()
        config.update_from_flattened_dict({field: value})
        return specs(config)

    began = specs(module.get_config())
    free, told, fixed = (common | own for common, own in zip((FREE, TOLD, {}), OWN[module],
                                                             strict=True))
    for field, value in free.items():
        check_origin(began, changed(field, value), "dir")
        assert changes(began, changed(field, value)) == {}, field
    for field, value in told.items():
        check_origin(began, changed(field, value), "dir")
        ((name, (_, after)),) = changes(began, changed(field, value)).items()
        assert name == f"config.{field}" and after == (
            value if isinstance(value, str) else json.dumps(value))
    for field, value in fixed.items():
        with pytest.raises(InputError, match=f"dir: config.{field} was .*, now .* or another "
                           "config.workdir"):
            check_origin(began, changed(field, value), "dir")
    every = set(names(module.get_config().to_dict()))
    assert every - set(free) - set(told) - set(fixed) <= ELSEWHERE


def names(section, path=""):
    for key, value in section.items():
        yield from names(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]


@pytest.mark.parametrize("change, words", [
    ({"model": {"dtype": "float32", "lora": {"rank": 4, "alpha": 32.0}}},
     'model.lora was {"alpha": 16.0}, now {"alpha": 32.0}'),
    ({"model": {"dtype": "float32", "lora": None}}, "model.lora was .*, now null"),
    ({"protocol": {"fps": 2.0}}, 'protocol was {"fps": 1.0}, now'),
    ({"trainable": ["decoder/.*"]}, "trainable was "),
    ({"data": "e"}, "data was d, now e.*config.data.path"),
    ({"tokenizer": "u"}, "tokenizer was t, now u"),
])
def test_what_gives_weights_and_rows_their_meaning_must_not_change(change, words):
    config = dift_tiny.get_config()
    with pytest.raises(InputError, match=words):
        check_origin(specs(config), specs(config, **change), "dir")
    lacking = {key: value for key, value in specs(config).items() if key not in change}
    check_origin(lacking, specs(config, **change), "dir")  # An earlier version's.


def test_the_dtype_and_a_longer_decay_are_told():
    config = rl_tiny.get_config()
    other = specs(config, model={"dtype": "bfloat16", "remat": "full", "lora": {
        "rank": 4, "alpha": 16.0}})
    check_origin(specs(config), other, "dir")
    assert changes(specs(config), other) == {"config.model.dtype": ("float32", "bfloat16")}
    longer = rl_tiny.get_config()
    longer.steps = 60
    assert changes(specs(config), specs(longer)) == {}
    config.optimizer.schedule = longer.optimizer.schedule = "cosine"
    assert changes(specs(config), specs(longer)) == {"config.steps": ("30", "60")}


def test_where_the_position_counts_batches_they_must_not_change():
    config, other = dift_tiny.get_config(), dift_tiny.get_config()
    other.batch = 8
    earlier = {key: value for key, value in specs(config).items() if key != "position"}
    check_origin(specs(config), specs(other), "dir")
    with pytest.raises(InputError, match="config.batch was 32, now 8.*Give the config.batch"):
        check_origin(earlier, specs(other), "dir")
