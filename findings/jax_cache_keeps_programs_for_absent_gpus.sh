#!/usr/bin/env bash
# JAX 0.10.2 with its CUDA plugin, on a machine without a GPU: a program compiled ahead of time for
# one H100 (jax.experimental.topologies), with the persistent compilation cache on.
# Expected: the second process finds the program in the cache, as for devices that are there; or what
#       cannot be read back is not kept.
# Seen: it is written at the first compilation; at every later one reading it fails with a warning
#       (the compiler of absent devices has no client to load with), and it is compiled again.
# Hurt: who checks on CPU machines that programs fit GPUs: a cache that fills and never saves a second,
#       and warnings about "persistent compilation cache" that look like a broken disk.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
  ml-dtypes==0.5.4 opt-einsum==3.4.0 scipy==1.17.1 \
  jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 nvidia-cuda-nvcc-cu12==12.9.86
cat > "$folder/ahead.py" <<'PY'
import sys
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

H100 = """
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 } dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_block_limit: 65536
  registers_per_core_limit: 65536 threads_per_warp: 32 threads_per_block_limit: 1024
  threads_per_core_limit: 2048 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}"""
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
described = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
mesh = topologies.make_mesh(described, (1,), ("d",))
like = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16,
                            sharding=NamedSharding(mesh, PartitionSpec()))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    compiled = jax.jit(lambda x: jax.nn.softmax(x @ x)).lower(like).compile()
assert compiled.memory_analysis().argument_size_in_bytes == 256 * 256 * 2
print(sum("Error reading persistent compilation cache" in str(w.message) for w in told))
PY
warned() {
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/ahead.py" "$folder/cache" 2> /dev/null
}
first=$(warned) kept=$(find "$folder/cache" -type f -name '*-cache' | wc -l) second=$(warned)
third=$(warned)
echo "JAX 0.10.2 | expected: kept at the first compilation, found at the next"
echo "seen: $kept program kept; failed readings: $first at the first, $second at the second, $third" \
  "at the third"
[ "$kept" -gt 0 ] && [ "$first" = 0 ] && [ "$second" -gt 0 ] && [ "$third" -gt 0 ]
