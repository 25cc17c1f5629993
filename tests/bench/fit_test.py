"""Operation counts by hand; the step of a small model measured; errors a user can act on."""

import argparse
import dataclasses
import importlib.util
import json
import math
import re
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from fourd4d.bench import fit
from fourd4d.bench.__main__ import main
from fourd4d.bench.common import accelerators, fit_table, flops, roofline
from fourd4d.bench.common.result import Result, write
from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.models import preset, preset_protocol
from fourd4d.models.presets import named_in
from fourd4d.parallel import DEFAULT_RULES, make_mesh, use
from fourd4d.parallel.mesh import axis_sizes

X, W = jnp.ones((4, 8)), jnp.ones((8, 6))
PRODUCT = 2 * 4 * 8 * 6


def test_products_and_their_gradients():
    assert flops.count(lambda x, w: x @ w, X, W) == PRODUCT
    grad = jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1))
    assert flops.count(grad, X, W) == 3 * PRODUCT
    batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    assert flops.count(batched, jnp.ones((5, 4, 8)), jnp.ones((5, 8, 6))) == 5 * PRODUCT


def test_loops_count_every_turn_and_branches_their_costliest():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w @ w.T), None), x, None, length=7)[0]

    assert flops.count(jax.jit(loop), X, W) == 7 * 2 * PRODUCT
    some = lambda x, w: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ w @ w.T, x)
    assert flops.count(some, X, W) == 2 * PRODUCT and flops.count(
        jax.jit(some), X, W, turns=5) == 5 * 2 * PRODUCT
    branch = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w @ w.T) @ w)
    assert flops.count(branch, X, W) == 3 * PRODUCT


def test_recomputation_counts():
    f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(x @ w) ** 2))
    assert flops.count(jax.grad(f, (0, 1)), X, W) == 4 * PRODUCT


def test_convolutions():
    image, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 2, 2))
    f = lambda a, b: jax.lax.conv(a, b, (2, 2), "VALID")
    assert flops.count(f, image, kernel) == 2 * (5 * 4 * 4) * (3 * 2 * 2)


def test_manual_regions_count_every_device(devices):
    with use(make_mesh({"data": 4}, devices)):
        f = jax.shard_map(lambda x, w: x @ w, in_specs=(P("data"), P()), out_specs=P("data"))
        assert flops.count(f, X, W) == PRODUCT


def test_budget_of_a_published_sample():
    shape = fit.budget(preset_protocol("3b"), rows=8, frames=50, overlays=8, text=768)
    assert shape.slots == 25 + 8
    assert shape.windows == 16  # 448 x 448 pixels in windows of 112.
    assert shape.length == -(-(25 * 258 + 8 * 6 + 768) // 128) * 128


def test_budget_of_a_video_whose_frames_share_its_pixels():
    protocol = preset_protocol("qwen3_2b", max_pixels=50 * 512 * 512)
    shape = fit.budget(protocol, rows=8, frames=50, overlays=8, text=768)
    assert (shape.slots, shape.windows) == (25 + 8, 16)  # 512 x 512 pixels in windows of 128.
    assert shape.length == -(-(25 * (256 + 2 + 8) + 8 * 6 + 768) // 128) * 128
    alone = fit.budget(protocol, rows=8, frames=2, overlays=0, text=0)
    assert alone.length == -(-(25 * 256 + 10) // 128) * 128
    least = fit.budget(preset_protocol("qwen3_2b"), rows=1, frames=768, overlays=0, text=0)
    assert (least.slots, least.windows) == (384, 1) and least.length == 384 * (1 + 10)


@pytest.fixture(scope="module")
def measured(devices):
    tiny, protocol = preset("tiny"), preset_protocol("tiny")
    config = dataclasses.replace(
        tiny, vision=dataclasses.replace(tiny.vision, layers=1, full_layers=(0,)),
        decoder=dataclasses.replace(tiny.decoder, layers=2))
    shape = fit.budget(protocol, rows=2, frames=2, overlays=1, text=32)
    mesh = make_mesh({"fsdp": 2}, devices)
    return config, shape, fit.measure(config, protocol, shape, mesh,
                                      accelerators.Chip(1 << 30, 1e12, 1e11, 1e10))


def test_a_small_step_is_measured(measured):
    config, shape, metrics = measured
    d = config.decoder
    weights = d.layers * (d.width * d.head_dim * 2 * (d.heads + d.kv_heads) + 3 * d.width * d.mlp)
    tokens = shape.rows * shape.length
    # Forward and backward of the decoder's weights, and everything else on top.
    assert 6 * weights * tokens < metrics["flops"] < 40 * weights * tokens
    assert metrics["fits"] == 1 and metrics["hbm_limit_bytes"] == 1 << 30
    assert metrics["compile_seconds"] > 0
    # At least a shard of parameters and both moments, float32.
    assert metrics["hbm_used_bytes"] > 3 * 4 * weights / 2
    # The compiled program makes the products that were traced, and shares them evenly.
    assert metrics["compute_seconds"] == pytest.approx(metrics["flops"] / (2 * 1e12), rel=0.02)
    # Each device gets the other's half of the decoder's weights, and gives away its gradients.
    sent = sum(v for k, v in metrics.items() if k.endswith("_bytes_sent"))
    assert sent > 2 * 4 * weights / 2 and metrics["ici_seconds"] == pytest.approx(sent / 1e10)
    assert metrics["memory_seconds"] > 3 * 4 * weights / 2 / 1e11
    assert metrics["roofline_seconds"] == max(
        metrics[f"{name}_seconds"] for name in ("compute", "memory", "ici"))


@pytest.fixture(scope="module")
def small():
    tiny = preset("tiny")
    return dataclasses.replace(
        tiny, vision=dataclasses.replace(tiny.vision, layers=1, full_layers=(0,)),
        decoder=dataclasses.replace(tiny.decoder, layers=1))


RL = ["--config.prompts=4", "--config.rl.group=2", "--config.sampling.max_tokens=12",
      "--config.sampling.max_latents=4"]


@pytest.mark.parametrize(("slots", "names"), [
    (0, ["rollout", "score", "update"]), (4, ["prefill", "decode", "score", "update"])])
def test_a_4drl_step_is_measured_from_its_config(small, devices, slots, names):
    config = fit._opened("configs/rl_tiny.py", [*RL, f"--config.rl.slots={slots}"])
    shape = fit.budget(preset_protocol("tiny"), 4, 2, 0, 32)
    mesh = make_mesh({"fsdp": 2}, devices)
    metrics = fit.measure_rl(config, small, preset_protocol("tiny"), shape, mesh,
                             accelerators.Chip(1 << 30, 1e12, 1e11, 1e10))
    assert [k.removesuffix("_fits") for k in metrics if k.endswith("_fits")] == names
    d = small.decoder
    weights = d.layers * (d.width * d.head_dim * 2 * (d.heads + d.kv_heads) + 3 * d.width * d.mlp)
    # The weights, both moments and the reference are there whatever runs.
    assert all(metrics[f"{name}_bytes"] > 4 * 4 * weights / 2 for name in names)
    assert metrics["fits"] == 1
    # Three passes over prompts and responses, of which one has a gradient; and the decoding.
    tokens = shape.rows * (shape.length + 2 * 12)
    assert metrics["flops"] > (2 + 6) * weights * tokens + 2 * weights * shape.rows * 2 * 12
    seconds = [metrics[f"{name}_roofline_seconds"] for name in names]
    assert min(seconds) > 0 and metrics["roofline_seconds"] == pytest.approx(sum(seconds))
    # Decoding reads the weights once for each token of a response.
    turns = 12 * 8 // (slots or 8)
    assert metrics[f"{'decode' if slots else 'rollout'}_memory_seconds"] > (
        turns * 4 * weights / 2 / 1e11)
    tight = fit.measure_rl(config, small, preset_protocol("tiny"), shape, mesh, accelerators.Chip(
        int(metrics["hbm_used_bytes"]) - 1, 1e12, 1e11, 1e10)) if slots == 0 else {"fits": 0}
    assert tight["fits"] == 0


def test_the_model_of_a_config_is_that_of_its_checkpoint_or_its_name(capsys):
    config = fit._opened("configs/rl_7b.py", ())
    size, model, protocol = fit._model(config, None)
    assert size == "7b" and model.decoder.width == 3584 and model.remat == "full"
    assert protocol.max_frames == 50
    assert fit._model(config, "3b")[0] == "3b"
    size, model, protocol = fit._model(fit._opened("configs/rl_qwen3.py:32b", ()), None)
    assert size == "qwen3_32b" and model.decoder.heads == 64 and protocol.max_frames == 50
    for path, wanted in (("Qwen3-VL-8B-Instruct", ("qwen3_8b",)), ("Qwen2.5-VL-7B", ("7b",)),
                         ("runs/dift_qwen3_32b/checkpoints", ("qwen3_32b",)), ("runs/mine", ())):
        assert named_in(path) == wanted
    tiny = fit._model(fit._opened("configs/dift_tiny.py", ()), None)
    assert tiny[0] == "tiny-base" and tiny[1].decoder.width == 128
    with pytest.raises(InputError, match="config.init: 'runs/mine' is not here"):
        fit._model(fit._opened("configs/rl_7b.py", ["--config.init=runs/mine"]), None)
    with pytest.raises(InputError, match="is not a config of a trainer"):
        fit._opened("configs/eval_tiny.py", ())
    with pytest.raises(SystemExit, match="no such field"):
        fit._opened("configs/rl_7b.py", ["--config.mash=pod"])
    with pytest.raises(SystemExit):
        main(["update", "--config.mesh=pod"])
    assert "--config.mesh=pod without --config" in capsys.readouterr().err


@pytest.mark.parametrize("message", [
    "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.",
    "Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds "
    "available HBM (15.75G).",
])
def test_what_the_compiler_refuses_is_reported(monkeypatch, devices, message):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

    monkeypatch.setattr(fit, "compile_step", refuse)
    got = fit.measure(preset("tiny"), preset_protocol("tiny"), BatchShape(1, 8, 1, 1, 0),
                      make_mesh("single", devices), accelerators.CHIPS["v5e"])
    assert got == {"hbm_used_bytes": int(20.5 * 2**30), "hbm_limit_bytes": int(15.75 * 2**30),
                   "fits": 0}


def test_other_errors_of_the_compiler_are_not_taken_for_it(monkeypatch, devices):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(fit, "compile_step", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        fit.measure(preset("tiny"), preset_protocol("tiny"), BatchShape(1, 8, 1, 1, 0),
                    make_mesh("single", devices), accelerators.CHIPS["v5e"])


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize(("topology", "count"), [
    ("v5e:1x1", 1), ("v5p:1x1x1", 1), ("v4:1x1x1", 1), ("v4:2x2x1", 4), ("tpu7x:1x1x1", 2)])
def test_small_shapes_and_two_core_chips(topology, count):
    """And the compiler refuses what is too large in words that are understood."""
    found = fit.devices_of(topology)
    assert len(found) == count
    x = jax.ShapeDtypeStruct((200_000, 200_000), jnp.float32,
                             sharding=jax.sharding.SingleDeviceSharding(found[0]))
    with pytest.raises(jax.errors.JaxRuntimeError) as refused:
        jax.jit(lambda x: jnp.sum(jnp.sin(x @ x) @ x)).lower(x).compile()
    numbers = fit.overflow(str(refused.value))
    assert numbers is not None and numbers["hbm_used_bytes"] > numbers["hbm_limit_bytes"]
    assert numbers["hbm_limit_bytes"] == accelerators.CHIPS[topology.partition(":")[0]].hbm_bytes


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_axes_may_share_a_dimension_of_the_torus():
    mesh = make_mesh("fsdp=16,tensor=4", fit.devices_of("v5e:8x8"))
    assert mesh.shape["fsdp"] == 16 and mesh.shape["tensor"] == 4
    for line in mesh.devices.reshape(16, 4):  # Neighbours: one of the coordinates is shared.
        assert any(len({device.coords[axis] for device in line}) == 1 for axis in (0, 1))


def cuda_plugin():
    return any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin")))


MESHES = [("fsdp=2,tensor=2", "auto"), ("fsdp=2,context=2", "auto"), ("fsdp=2,tensor=2", "xla")]
# With ``context`` a device has half of the queries.
LONG = BatchShape(rows=2, length=1280, slots=4, windows=4, overlays=1)


@pytest.mark.parametrize(("mesh", "attention"), MESHES)
def test_attention_on_a_mesh_has_no_scores_of_queries_by_keys(
        small, mesh, attention, devices, monkeypatch):
    """Read in the step as it is lowered for TPUs; plain attention shows what would be found."""
    monkeypatch.setattr("fourd4d.models.attention.platform", lambda: "tpu")
    model = dataclasses.replace(small, dtype="bfloat16", attention=attention)
    mesh, rules = make_mesh(mesh, devices[:4]), DEFAULT_RULES.replicating("kv_heads")
    step, state, batch = fit.step_of(model, preset_protocol("tiny"), LONG, mesh, rules=rules)
    with use(mesh, rules):
        text = jax.jit(step).trace(state, batch).lower(lowering_platforms=("tpu",)).as_text()
    dense = re.findall(r"1280x1280x|640x1280x|1280x640x", text)
    kernels = text.count("tpu_custom_call")
    assert (not dense and kernels > 2) if attention == "auto" else (dense and not kernels)


def dense_in(model, topology, mesh):
    """(shapes of queries by keys in the program compiled for a machine, its text)."""
    text = fit.compile_step(
        model, preset_protocol("tiny"), LONG, make_mesh(mesh, fit.devices_of(topology)),
        DEFAULT_RULES.replicating("kv_heads")).as_text()
    found = {sizes for computation in roofline.parse(text)[0].values() for line in computation
             for _, sizes, _ in roofline.shapes(line.result)}
    return [sizes for sizes in found if sizes.count(1280) > 1 or {640, 1280} <= set(sizes)], text


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize(("mesh", "attention"), MESHES)
def test_nor_has_the_compiled_program(small, mesh, attention):
    model = dataclasses.replace(small, dtype="bfloat16", attention=attention)
    dense, text = dense_in(model, "v5e:2x2", mesh)
    kernels = text.count("splash_mha")
    assert (not dense and kernels > 0) if attention == "auto" else (dense and not kernels)


@pytest.mark.skipif(not cuda_plugin(), reason="needs JAX's CUDA plugin")
def test_a_node_of_gpus_that_is_not_here_is_compiled_for(small):
    mesh = make_mesh("fsdp=2,tensor=2", fit.devices_of("h100:4"))
    found = fit.measure(small, preset_protocol("tiny"), LONG, mesh,
                        accelerators.CHIPS["h100"], rules=DEFAULT_RULES.replicating("kv_heads"))
    assert found["fits"] == 1 and found["all_gather_bytes_sent"] > 0 < found["compute_seconds"]


@pytest.mark.skipif(not cuda_plugin(), reason="needs JAX's CUDA plugin")
@pytest.mark.parametrize("attention", ["flash", "xla"])
def test_nor_has_the_program_compiled_for_gpus(small, attention):
    model = dataclasses.replace(small, dtype="bfloat16", attention=attention)
    dense, text = dense_in(model, "h100:4", "fsdp=2,tensor=2")
    assert (not dense and "triton" in text) if attention == "flash" else dense


def test_gpus_need_a_number_and_the_plugin():
    with pytest.raises(InputError, match="h100:2x2 names no number of GPUs"):
        fit.devices_of("h100:2x2")
    if not cuda_plugin():
        with pytest.raises(InputError, match="no GPU is needed"):
            fit.devices_of("h100:8")


def test_the_state_on_gpus_is_counted_from_shapes(tmp_path):
    args = ["fit", "--config=configs/rl_7b.py", "--topology", "gpu:8", "--json",
            str(tmp_path / "fit.json")]
    assert main(args) == 0
    metrics = json.loads((tmp_path / "fit.json").read_text())["metrics"]
    # Weights, two moments, gradients and the reference, of float32: 20 bytes; 8.3e9 parameters, of
    # which the vision encoder's 0.7e9 are weights alone.
    assert 8 * metrics["state_bytes"] == pytest.approx(20 * 7.62e9 + 4 * 0.68e9, rel=0.01)
    assert metrics["state_fits"] == 1 and metrics["hbm_limit_bytes"] == 80 * 10**9
    assert "fits" not in metrics


def test_a_table_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path, compiled = tmp_path / "fit.jsonl", []

    def run(command, **_):
        compiled.append(command)
        config = next(word for word in command if word.startswith("--config="))
        if "dift_3b" in config and len(compiled) == 2:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nOut of luck\n")
        Path(command[-1]).write_text(json.dumps({"metrics": {
            "hbm_used_bytes": 10**10, "hbm_limit_bytes": 16 * 10**9, "fits": 1,
            "roofline_seconds": 1.25}, "context": {"compile_seconds": 9}}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fit_table.subprocess, "run", run)
    wanted = ["rl_7b@v5e-64", "dift_3b@v5e-16"]
    rows = fit_table.fill(str(path), wanted)
    assert [row.get("error") for row in rows] == [None, "Out of luck"]
    assert "--config.mesh=fsdp=16,tensor=4" in compiled[0] and "v5e:8x8" in compiled[0]
    rows = fit_table.fill(str(path), [*wanted, "dift_7b@8-H100"])
    assert len(compiled) == 4 and "h100:8" in compiled[-1]
    assert [row["cell"] for row in rows] == [*wanted, "dift_7b@8-H100"]
    assert "fsdp=16,tensor=4: 10.0 of 16.0 GB, 1.25 s" in fit_table.markdown(rows)
    with pytest.raises(InputError, match="unknown cells"):
        fit_table.fill(str(path), ["rl_8b@v5e-64"])
    for cell in fit_table.cells():  # Every mesh is one of its machine.
        count = math.prod(map(int, fit_table.MACHINES[cell.machine].partition(":")[2].split("x")))
        assert math.prod(axis_sizes(cell.mesh, count).values()) == count


def test_a_library_in_use_is_told(monkeypatch):
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError, match="another process on this machine uses libtpu"):
        fit.devices_of("v5e:4x4")


def test_unknown_topologies_are_input_errors():
    with pytest.raises(InputError, match="unknown chip in 'v9:2x2'"):
        fit.devices_of("v9:2x2")
    with pytest.raises(InputError, match="libtpu"):
        fit.devices_of("v5e:1x1x1x1x1")


def test_flags_and_json(tmp_path):
    parser = argparse.ArgumentParser()
    fit.arguments(parser)
    args = parser.parse_args(["--preset", "7b", "--replicable", "kv_heads", "heads"])
    assert args.replicable == ["kv_heads", "heads"]
    write(Result("fit", {"fits": 1}, {"mesh": {"fsdp": 4}}), tmp_path / "a" / "fit.json")
    got = json.loads((tmp_path / "a" / "fit.json").read_text())
    assert got["bench"] == "fit" and got["metrics"] == {"fits": 1}
    assert got["context"]["mesh"] == {"fsdp": 4} and "jax" in got["context"]["versions"]
