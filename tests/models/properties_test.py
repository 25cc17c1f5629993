"""What must hold of the model at any weights: each test was seen to fail on broken code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.models import LoraConfig, ModelConfig, Thinker, preset, preset_protocol
from fourd4d.models.config import DecoderConfig, ImageryConfig, VisionConfig
from fourd4d.parallel import born_sharded, host_to_global, make_mesh, use

pytestmark = pytest.mark.usefixtures("highest_precision")

CONFIG = ModelConfig(
    vision=VisionConfig(width=16, layers=2, heads=2, mlp=24, full_layers=(1,), patch_size=2,
                        window=8),
    decoder=DecoderConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=48, vocab=64,
                          mrope_sections=(1, 1, 2), tied=True),
    dtype="float32", remat="none",
)
TABLE = dataclasses.replace(  # A table of positions, DeepStack, norms on q and k.
    CONFIG,
    vision=dataclasses.replace(CONFIG.vision, full_layers=(0, 1), position_table=3,
                               deepstack=(1, 0)),
    decoder=dataclasses.replace(CONFIG.decoder, qkv="normed", mrope="interleaved",
                                mrope_sections=(2, 1, 1)),
)
PROTOCOL = CONFIG.protocol()
SHAPE = BatchShape(rows=4, length=24, slots=2, windows=2, overlays=1)


def make(config=CONFIG, seed=0):
    """A model whose biases and scales are random too."""
    thinker = Thinker(config, nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    graphdef, state = nnx.split(thinker)
    state = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype), state)
    return nnx.merge(graphdef, state)


@pytest.fixture(scope="module", params=[CONFIG, TABLE], ids=["windows", "table"])
def thinker(request):
    return make(request.param)


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(jnp.asarray, Batch.fake(SHAPE, PROTOCOL))


@nnx.jit
def embeds_of(thinker, batch):
    features = thinker.encode(batch.vision)
    return thinker.embed(batch.tokens, batch.vision_index, features, batch.latent_index,
                         thinker.pool(features, batch.overlays))


@nnx.jit
def hidden_of(thinker, embeds, positions, segments):
    return thinker.decode(embeds, positions, segments)[0]


def test_a_token_depends_on_no_later_one(thinker, batch):
    embeds = embeds_of(thinker, batch)
    at = 11

    def one(embeds):
        hidden = thinker.decode(embeds, batch.positions, batch.segment_ids)[0]
        return (hidden[:, at] ** 2).sum()

    size = jnp.abs(jax.jit(jax.grad(one))(embeds)).sum((0, 2))
    assert (size[: at + 1] > 1e-6).all()
    assert (size[at + 1 :] == 0).all()


def test_text_alone_needs_no_frame_slots(thinker, batch):
    none = jnp.full_like(batch.vision_index, -1)
    text = dataclasses.replace(batch, vision_index=none, latent_index=none)
    bare = dataclasses.replace(text, **{
        name: jax.tree.map(lambda x: x[:, :0], getattr(text, name))
        for name in ("vision", "overlays")})
    hidden = nnx.jit(lambda thinker, batch: thinker(batch))
    np.testing.assert_allclose(hidden(thinker, bare), hidden(thinker, text), atol=1e-6)


@nnx.jit
def cached_step(thinker, embeds, positions, segments, cache):
    return thinker.decode(embeds, positions, segments, cache)


def test_cached_equals_full(thinker, batch):
    rng = np.random.default_rng(0)
    embeds = embeds_of(thinker, batch)
    # Padding on the left, on the right, and two segments in a row.
    segments = np.ones((4, 24), np.int32)
    segments[0, :5], segments[1, 19:], segments[2, 10:] = 0, 0, 2
    positions = jnp.asarray(rng.integers(0, 30, (3, 4, 24)), jnp.int32)
    segments = jnp.asarray(segments)
    full = hidden_of(thinker, embeds, positions, segments)
    cache, parts = thinker.empty_cache(4, 40), []
    for a, b in [(0, 9), *((i, i + 1) for i in range(9, 24))]:
        hidden, cache = cached_step(thinker, embeds[:, a:b], positions[:, :, a:b],
                                    segments[:, a:b], cache)
        parts.append(hidden)
    assert int(cache.used) == 24
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(np.concatenate(parts, 1)[real], np.asarray(full)[real], atol=2e-5)


def test_packed_equals_unpacked(thinker, batch):
    embeds = embeds_of(thinker, batch)[:2]
    positions = jnp.broadcast_to(jnp.arange(24), (3, 2, 24))
    ones = jnp.ones((2, 24), jnp.int32)
    apart = hidden_of(thinker, embeds, positions, ones)
    packed = hidden_of(thinker, embeds.reshape(1, 48, -1), positions.reshape(3, 1, 48),
                       jnp.concatenate([ones[:1], 2 * ones[:1]], 1))
    np.testing.assert_allclose(packed.reshape(apart.shape), apart, atol=2e-5)


def test_padding_changes_nothing(thinker, batch):
    embeds = embeds_of(thinker, batch)[:1, :16]
    positions = jnp.broadcast_to(jnp.arange(16), (3, 1, 16))
    alone = hidden_of(thinker, embeds, positions, jnp.ones((1, 16), jnp.int32))
    for left in (8, 0, 5):
        pad = ((0, 0), (left, 8 - left))
        got = hidden_of(
            thinker, jnp.pad(embeds, (*pad, (0, 0)), constant_values=9.0),
            jnp.pad(positions, ((0, 0), *pad)), jnp.pad(jnp.ones((1, 16), jnp.int32), pad))
        np.testing.assert_allclose(got[:, left : left + 16], alone, atol=2e-5)


def test_slots_and_masked_patches_are_apart(thinker, batch):
    """A slot's features depend on its own real patches only."""
    encode = nnx.jit(lambda thinker, vision: thinker.encode(vision))
    mask = np.ones(batch.vision.mask.shape, bool)
    mask[:, :, 1, 8:] = False
    vision = dataclasses.replace(batch.vision, mask=jnp.asarray(mask))
    before = encode(thinker, vision)
    patches = np.array(vision.patches)
    patches[:, 1] += 1
    patches[~mask] = 7
    after = encode(thinker, dataclasses.replace(vision, patches=jnp.asarray(patches)))
    real = np.repeat(mask.reshape(*mask.shape[:2], -1, 4).all(-1)[..., None],
                     after.shape[-1], -1)
    np.testing.assert_allclose(after[:, 0][real[:, 0]], before[:, 0][real[:, 0]], atol=2e-5)
    assert np.abs(np.asarray(after - before)[:, 1][real[:, 1]]).mean() > 1e-2


@pytest.fixture(scope="module")
def eight():
    return Batch.fake(dataclasses.replace(SHAPE, rows=8), PROTOCOL)


@pytest.fixture(scope="module")
def plain(thinker, eight):
    with jax.default_matmul_precision("highest"):
        return loss_and_grad(thinker.config, nnx.state(thinker), eight)


def loss_and_grad(config, state, batch):
    graphdef = nnx.split(Thinker(config, nnx.Rngs(0)))[0]

    def loss(state):
        thinker = nnx.merge(graphdef, state)
        return (thinker.logits(thinker(batch)) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss))(state)


@pytest.mark.parametrize("change", [pytest.param(dict(remat="dots"), marks=pytest.mark.slow),
                                    dict(remat="full"), dict(unroll=3)], ids=str)
def test_remat_and_unroll_change_no_number(thinker, eight, plain, change):
    got = loss_and_grad(dataclasses.replace(thinker.config, **change), nnx.state(thinker), eight)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-6)


def test_remat_keeps_as_much_as_it_says(eight):
    """Bytes that the backward pass keeps: numbers alone do not tell whether a policy acts."""

    def kept(remat):
        config = dataclasses.replace(CONFIG, remat=remat)
        graphdef, state = jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0))))
        pullback = jax.eval_shape(lambda state: jax.vjp(
            lambda state: nnx.merge(graphdef, state)(eight).mean(), state)[1], state)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))

    full, dots, none = map(kept, ("full", "dots", "none"))
    assert 1.2 * full < dots < none / 1.2


def test_a_deeper_model_is_no_larger_program(thinker, eight):
    """Layers are one loop, whatever an encoder adds after the first of them."""

    def lines(more, **changes):
        config = dataclasses.replace(thinker.config, **changes)
        vision, decoder = config.vision, config.decoder
        deep = dataclasses.replace(
            config, decoder=dataclasses.replace(decoder, layers=decoder.layers + more),
            vision=dataclasses.replace(
                vision, layers=vision.layers + more, full_layers=vision.full_layers
                if vision.position_table is None else tuple(range(vision.layers + more))))
        graphdef, state = jax.eval_shape(lambda: nnx.split(Thinker(deep, nnx.Rngs(0))))
        step = jax.jit(jax.grad(lambda state: (nnx.merge(graphdef, state)(eight) ** 2).mean()))
        return len(step.lower(state).as_text().splitlines())

    assert lines(4) < lines(0) + 50 < lines(4, unroll=8)


@pytest.mark.parametrize("spec", [pytest.param("data=4,tensor=2", marks=pytest.mark.slow),
                                  "data=2,fsdp=2,tensor=2"])
def test_sharded_equals_unsharded(devices, thinker, eight, plain, spec):
    mesh = make_mesh(spec, devices)
    with use(mesh):
        born = born_sharded(lambda x: x, mesh)(nnx.state(thinker))
        got = loss_and_grad(thinker.config, born, host_to_global(eight, mesh))
        kernel = born["decoder"]["blocks"]["gate"]["kernel"].get_value()
        split = kernel.size // kernel.addressable_shards[0].data.size
        assert split == mesh.shape["fsdp"] * mesh.shape["tensor"]
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


def test_pool_is_a_weighted_mean(thinker, batch):
    features = jax.random.normal(jax.random.key(0), (4, 2, 8, 32))
    rng = np.random.default_rng(1)
    pool = rng.random((4, 1, 4, 8)).astype(np.float32)
    slot = np.array([[1], [0], [-1], [1]], np.int32)
    pool[2] = 0
    got = thinker.pool(features, dataclasses.replace(
        batch.overlays, slot=jnp.asarray(slot), pool=jnp.asarray(pool)))
    for b in range(4):
        np.testing.assert_allclose(got[b], pool[b, 0] @ np.asarray(features[b, slot[b, 0]]),
                                   atol=1e-5)
    assert got.dtype == jnp.float32 and (got[2] == 0).all()


def test_lora_and_the_imagery_head_start_as_nothing(thinker, batch):
    state = nnx.to_flat_state(nnx.state(thinker))
    config = dataclasses.replace(thinker.config, lora=LoraConfig(rank=2),
                                 imagery=ImageryConfig("mlp", 16))
    other = Thinker(config, nnx.Rngs(3))
    nnx.update(other, nnx.from_flat_state(state))
    hidden = thinker(batch)
    close = 1e-6 if thinker.config == CONFIG else 5e-6
    np.testing.assert_allclose(other(batch), hidden, atol=close)
    np.testing.assert_allclose(other.imagine(hidden), hidden, atol=1e-6)
    extra = set(dict(nnx.to_flat_state(nnx.state(other)))) - set(dict(state))
    assert {path[-1] for path in extra} == {"lora_a", "lora_b", "kernel"}
    other.decoder.blocks.q.lora_b[...] += 1.0
    assert np.abs(np.asarray(other(batch) - hidden)).max() > 1e-2


def test_presets_have_the_published_numbers_of_parameters():
    sizes = {"3b": 3_754_622_976, "7b": 8_292_166_656, "32b": 33_452_718_336,
             "72b": 73_410_777_344, "qwen3_2b": 2_127_532_032, "qwen3_4b": 4_437_815_808,
             "qwen3_8b": 8_767_123_696, "qwen3_32b": 33_357_390_064}
    for name, size in sizes.items():
        state = jax.eval_shape(lambda n=name: nnx.state(Thinker(preset(n), nnx.Rngs(0))))
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == size, name
    tiny = nnx.state(Thinker(preset("tiny"), nnx.Rngs(0)))
    assert 1_000_000 < sum(leaf.size for leaf in jax.tree.leaves(tiny)) < 10_000_000
    assert preset_protocol("tiny").patch_dim == preset("tiny").vision.patch_dim


def test_config_round_trip_and_errors():
    config = dataclasses.replace(preset("3b"), lora=LoraConfig(rank=4))
    assert ModelConfig.from_json(config.to_json()) == config
    with pytest.raises(InputError, match=r"unknown fields \['wide'\]"):
        ModelConfig.from_json(config.to_json() | {"wide": 1})
    with pytest.raises(InputError, match="missing fields"):
        ModelConfig.from_json({"vision": {}, "decoder": {}})
    with pytest.raises(InputError, match="sum to head_dim"):
        dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, head_dim=64))
    with pytest.raises(InputError, match="patch_size"):
        preset("tiny").check_protocol(preset_protocol("3b"))
    with pytest.raises(InputError, match="unknown name"):
        preset("5b")
