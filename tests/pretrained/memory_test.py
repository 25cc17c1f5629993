"""Host memory of reading and writing weights, and several processes at it, in fresh processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from fourd4d.checkpoint.safetensors import read_hf, write_hf
from fourd4d.models import DecoderConfig, ModelConfig, Thinker, VisionConfig
from fourd4d.models.qwen2_5_vl import key_table
from fourd4d.parallel import abstract_for, make_mesh

folder, stored, dtype, mesh = sys.argv[1:]
config = ModelConfig(
    vision=VisionConfig(width=32, layers=2, heads=2, mlp=64, full_layers=(1,)),
    decoder=DecoderConfig(width=512, layers=16, heads=8, kv_heads=2, head_dim=64, mlp=2048,
                          vocab=8192, mrope_sections=(8, 12, 12)), param_dtype=dtype)
table = key_table(config)
shapes = jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0)))[1])
write_hf(folder, table, jax.tree.map(lambda x: np.ones(x.shape, stored), shapes))
mesh = make_mesh(mesh, jax.devices() if "," in mesh else jax.devices()[:1])
shapes = abstract_for(shapes, mesh)
jax.block_until_ready(jax.tree.map(  # What the first use of a device takes is not the load's.
    lambda s: jax.device_put(jnp.zeros(8, dtype), s), jax.NamedSharding(mesh, jax.P())))

def now():
    words = open("/proc/self/status").read().split()
    return {k: 1024 * int(words[words.index(k + ":") + 1]) for k in ("VmRSS", "VmHWM")}

def peak(action):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # The peak is counted from here.
    before = now()["VmRSS"]
    result = action()
    return result, now()["VmHWM"] - before

tree, read = peak(lambda: read_hf(folder, table, shapes))
write_hf(folder + "/warm", table, tree)  # Compiles what takes a layer off the devices.
_, wrote = peak(lambda: write_hf(folder + "/again", table, tree))
sizes = [x.nbytes for x in jax.tree.leaves(tree)]
print(json.dumps(dict(model=sum(sizes), leaf=max(sizes), read=read, wrote=wrote)))
"""
PROCESSES = """
import sys
import jax
from fourd4d.pretrained import huggingface
from fourd4d.parallel import make_mesh, start
start()
assert jax.process_count() == 2
mesh = make_mesh("fsdp=2,tensor=2")
bundle = huggingface.open_hf(sys.argv[1], mesh)
leaf = bundle.tree["decoder"]["blocks"]["gate"]["kernel"].get_value()
assert not leaf.is_fully_addressable and leaf.size == 4 * leaf.addressable_shards[0].data.size
huggingface.export_hf(bundle, sys.argv[2], shard_bytes=40_000)
"""

def environment(devices: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stored, dtype, mesh", [
    ("bfloat16", "bfloat16", "data=1"),
    pytest.param("bfloat16", "float32", "data=1", marks=pytest.mark.slow),
    ("float32", "float32", "fsdp=4,tensor=2")])
def test_loading_takes_less_than_the_model_and_one_leaf(tmp_path, stored, dtype, mesh):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), stored, dtype, mesh],
                          capture_output=True, text=True, env=environment(8))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["model"] > 3 * found["leaf"] > 90e6
    assert 0.95 * found["model"] < found["read"] < found["model"] + found["leaf"], found
    assert found["wrote"] < found["leaf"], found


@pytest.mark.slow
def test_two_processes_read_and_write(tmp_path):
    """Each holds half of every matrix; the first writes what one process would."""
    from helpers.bundles import bundle_of, files_in

    from fourd4d.pretrained import huggingface

    bundle = bundle_of()
    huggingface.export_hf(bundle, tmp_path / "in")
    files = huggingface.export_hf(bundle, tmp_path / "one/model", shard_bytes=40_000)
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    launched = {**environment(2), "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "in"), str(tmp_path / "two/model")]
    running = [subprocess.Popen(command, env={**launched, "JAX_PROCESS_ID": str(i)}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for i in range(2)]
    for process in running:
        out, _ = process.communicate()
        assert process.returncode == 0, out
    assert len(files) > 2
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
