"""What produced a result: installed versions and the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import jax

_PACKAGES = ("fourd4d", "jax", "jaxlib", "libtpu", "flax", "numpy", "torch", "transformers")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS and Windows.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """``versions`` of the packages that are installed, and the ``machine``; JSON values."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = {"system": platform.platform(), "cores": os.cpu_count(),
               "python": platform.python_version(), "backend": jax.default_backend(),
               "device": jax.local_devices()[0].device_kind, "devices": jax.device_count()}
    return {"versions": versions, "machine": machine}
