"""Devices of machines that are not here, to compile for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from fourd4d.bench.common.accelerators import CHIPS
from fourd4d.core.errors import InputError

# What libtpu says, or JAX for it, where another process has it open.
_TAKEN: Final = re.compile(r"lockfile|already in use by process", re.IGNORECASE)

# XLA's ``GpuTargetConfigProto``: sizes of the chip as CUDA tells them, and versions of libraries.
_GPUS: Final[Mapping[str, str]] = {"h100": """
    platform_name: "CUDA"
    device_description_str: "NVIDIA H100 80GB HBM3"
    runtime_version { major: 12 minor: 9 }
    dnn_version_info { major: 9 minor: 8 }
    gpu_device_info {
      cuda_compute_capability { major: 9 }
      core_count: 132
      fpus_per_core: 128
      clock_rate_ghz: 1.98
      device_memory_size: 84929347584
      memory_bandwidth: 3352320000000
      l2_cache_size: 52428800
      shared_memory_per_block: 49152
      shared_memory_per_block_optin: 232448
      shared_memory_per_core: 233472
      registers_per_block_limit: 65536
      registers_per_core_limit: 65536
      threads_per_warp: 32
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
    }"""}


def devices_of(topology: str) -> list[Any]:
    """Devices of a topology such as ``v5e:4x4``, ``v5p:2x2x2`` or ``h100:8``, for compilation only.

    Shapes of one chip, such as ``v5e:1x1``, are known too; a chip of v4 is one device (megacore), a
    chip of tpu7x is two. GPUs are those of one node.

    Raises:
      InputError: an unknown name, no ``libtpu``, or for GPUs no CUDA plugin.
    """
    if topology.partition(":")[0] not in CHIPS:
        raise InputError("topology", f"unknown chip in {topology!r}",
                         f"Name it as CHIP:AxB[xC], with a chip of {sorted(CHIPS)}")
    chip, _, sizes = topology.partition(":")
    if chip in _GPUS:
        return _gpus(chip, gpu_count(topology))
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip == "v4" else {}
    if sizes and set(sizes.split("x")) == {"1"}:  # By default a host has several chips.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options).devices)
    except Exception as error:
        told = str(error)
        first = (told.splitlines() or [type(error).__name__])[0]
        if _TAKEN.search(told):
            raise InputError("topology", f"another process on this machine uses libtpu ({first})",
                             "Wait until it ends; libtpu lets one process in at a time") from error
        raise InputError("topology", f"{topology!r} cannot be described ({first})",
                         'Install libtpu (pip install "fourd4d[tpu]") and check the shape'
                         ) from error


def gpu_count(topology: str) -> int:
    """The number in ``h100:8`` or ``gpu:8``. Raises InputError where there is none."""
    kind, _, number = topology.partition(":")
    if not number.isdigit() or int(number) < 1:
        raise InputError("topology", f"{topology} names no number of GPUs", f"Write {kind}:8")
    return int(number)


def _gpus(chip: str, number: int) -> list[Any]:
    try:
        return list(topologies.get_topology_desc(
            platform="cuda", topology=f"1x{number}x1", target_config=_GPUS[chip]).devices)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("topology", f"{chip}:{number} cannot be described ({first})",
                         "Install JAX's plugin (pip install 'fourd4d[cuda]'); no GPU is needed"
                         ) from error


def compiled_for(mesh: Mesh, lowered: Any) -> Any:
    """Compiles a program for a mesh of devices that are here, or of ``devices_of``."""
    device = mesh.devices.flat[0]
    absent = device.platform == "gpu" and device not in jax.devices()
    # Which of several kernels is fastest can only be tried on a GPU.
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0} if absent else None)
