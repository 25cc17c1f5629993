"""Costs of compiled programs by hand: loops, shards, exchanges, kernels."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fourd4d.bench.common import roofline
from fourd4d.bench.common.accelerators import CHIPS, Chip
from fourd4d.models.splash import attend_splash
from fourd4d.parallel import make_mesh, use

ROWS, WIDTH, TURNS = 64, 32, 5


def compiled(function, mesh, *args):
    """The program's text, for (shape, partition) arguments."""
    given = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
             for shape, spec in args]
    with use(mesh):
        return written(jax.jit(function).lower(*given))


def written(lowered):
    text = lowered.compile().as_text()
    assert text is not None
    return text


def layers(x, w):
    """Each of TURNS layers needs whole weights, of which a device has an eighth."""
    def layer(x, own):
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(own, P())), None

    return jax.lax.scan(layer, x, w)[0]


def test_a_loop_over_sharded_layers_by_hand(devices):
    mesh = make_mesh({"fsdp": 8}, devices)
    text = compiled(layers, mesh, ((ROWS, WIDTH), P("fsdp")),
                    ((TURNS, WIDTH, WIDTH), P(None, "fsdp")))
    cost = roofline.cost(text)
    assert cost.flops == TURNS * 2 * (ROWS // 8) * WIDTH * WIDTH
    # Seven eighths come from others, which is as much as a device sends around a ring.
    assert cost.sent_bytes == {"all-gather": TURNS * WIDTH * WIDTH * 4 * 7 / 8}
    # At least the gathered weights, written once and read once a turn.
    gathered = TURNS * WIDTH * WIDTH * 4
    assert 2 * gathered < cost.hbm_bytes < 6 * gathered
    seconds = cost.seconds(Chip(1, peak_flops=1e6, bandwidth=1e7, ici=1e3))
    assert seconds["compute_seconds"] == cost.flops / 1e6
    assert seconds["memory_seconds"] == cost.hbm_bytes / 1e7
    assert seconds["ici_seconds"] == seconds["roofline_seconds"] == TURNS * 3584 / 1e3


def test_sums_over_devices_by_hand(devices):
    mesh = make_mesh({"fsdp": 4, "tensor": 2}, devices)
    # Columns of x meet rows of w on two devices: they add up their products.
    text = compiled(lambda x, w: x @ w, mesh, ((ROWS, WIDTH), P("fsdp", "tensor")),
                    ((WIDTH, WIDTH), P("tensor")))
    cost = roofline.cost(text)
    part = ROWS // 4 * WIDTH * 4
    assert cost.sent_bytes == {"all-reduce": 2 * part / 2}
    assert cost.flops == 2 * (ROWS // 4) * (WIDTH // 2) * WIDTH


def test_loops_of_unknown_length_take_what_is_said(devices):
    def decode(x, w):
        return jax.lax.while_loop(lambda s: (s[1] < 9) & jnp.any(s[0] > 0),
                                  lambda s: (s[0] @ w, s[1] + 1), (x, 0))[0]

    text = compiled(decode, make_mesh("single", devices), ((ROWS, WIDTH), P()),
                    ((WIDTH, WIDTH), P()))
    once = 2 * ROWS * WIDTH * WIDTH
    assert roofline.cost(text).flops == once and roofline.cost(text, 9).flops == 9 * once


def test_of_a_stack_only_the_slice_is_read(devices):
    def summed(x, w):
        return jax.lax.scan(lambda x, own: (jnp.tanh(x + own), None), x, w)[0]

    text = compiled(summed, make_mesh("single", devices), ((256, 256), P()),
                    ((TURNS, 256, 256), P()))
    # The sum so far, the slice and the new sum; and the sum's copies before and after.
    once = TURNS * 256 * 256 * 4
    assert 3 * once <= roofline.cost(text).hbm_bytes < 4 * once


def test_a_program_as_a_tpus_compiler_writes_it():
    """Unrolled loops without a given count, exchanges behind products, scatters within a fusion."""
    text = Path(__file__).with_name("tpu_program.txt").read_text(encoding="utf-8")
    cost = roofline.cost(text)
    array = 64 * 128 * 4
    assert cost.sent_bytes == {
        "collective-permute": 4 * array,  # 0, 2, 4, 6.
        "reduce-scatter": 4 * array * 3 / 4,
        "all-gather": 8 * 128 * 2 * 15}  # Where it starts, not where it goes on.
    # Each of the two batches meets its own matrix; dilation's zeros count nothing.
    assert cost.flops == 2 * 2 * 128 * 64 * 32
    # What lies in the chip's own fast memory, S(1), is not read from the main one.
    made, _ = roofline.parse(text)
    permuted = next(x for x in made["body"] if x.code == "collective-permute-start")
    assert roofline._Reader(made, 1)._moved(permuted, "body") == array


@pytest.mark.parametrize(("groups", "size"), [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4), ("replica_groups=[2,8]<=[4,4]T(1,0)", 8),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
    ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", 4), ("channel_id=1", 1)])
def test_groups_of_devices(groups, size):
    assert roofline.group_size(groups) == size


@pytest.mark.parametrize(("name", "products"), [("fmhaScaleBiasSoftmax", 2),
                                                ("fmhaScaleBiasSoftmaxBackward", 5)])
def test_cudnns_attention_counts_its_products(name, products):
    """Two rows of 7 queries by 5 keys, 4 heads of 16 over 2 heads of keys."""
    text = f"""HloModule jit_f, is_scheduled=true

ENTRY %main (q: bf16[2,7,4,16], k: bf16[2,5,2,16]) -> bf16[2,4,7,16] {{
  %q = bf16[2,7,4,16]{{3,2,1,0}} parameter(0)
  %k = bf16[2,5,2,16]{{3,2,1,0}} parameter(1)
  %fmha.1 = (bf16[2,4,7,16]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn${name}", metadata={{op_name="Backward"}}
  ROOT %out = bf16[2,4,7,16]{{3,1,2,0}} get-tuple-element(%fmha.1), index=0
}}
"""  # noqa: E501
    assert roofline.cost(text).flops == 2 * products * 2 * 4 * 7 * 5 * 16


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_kernels_of_a_tpu_count_their_products():
    from fourd4d.bench.fit import devices_of

    mesh = make_mesh("pod", devices_of("v5e:2x2"))
    heads, length, width = 4, 256, 128

    def attend(causal, q, ids):
        return attend_splash(q, q, q, ids, ids, causal=causal)

    with use(mesh):
        q = jax.ShapeDtypeStruct((8, length, heads, width), jnp.bfloat16,
                                 sharding=NamedSharding(mesh, P("fsdp")))
        ids = jax.ShapeDtypeStruct((8, length), jnp.int32,
                                   sharding=NamedSharding(mesh, P("fsdp")))

        def products(causal, function):
            text = written(jax.jit(functools.partial(function, causal)).lower(q, ids))
            one = 2 * heads * length * length * width
            return roofline.cost(text).flops / (2 * one)  # Two rows a device.

        assert products(False, attend) == 2 and products(True, attend) == 1
        grad = jax.grad(lambda causal, q, ids: jnp.sum(attend(causal, q, ids).astype(
            jnp.float32) ** 2), argnums=1)
        assert products(False, grad) == 2 + 3 + 4 == 2 * products(True, grad)
    assert CHIPS["v5e"].ici == 200e9
