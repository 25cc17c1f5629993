"""Eight fake CPU devices for every test; nothing here imports JAX before they are asked for."""

import atexit
import gc
import importlib.util
import mmap
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

DEVICES = 8


def set_flag(flag: str, value: object) -> None:
    """Sets XLA's flag, unless the caller has."""
    flags = os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{flag}={value}".strip()


def has_flag(flag: str) -> bool:
    """Whether this XLA has the flag: one that it has not ends the process."""
    found = importlib.util.find_spec("jaxlib")
    library = Path(found.origin or "").parent / "libjax_common.so" if found else Path()
    if not library.is_file():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        return code.find(b"\0" + flag.encode() + b"\0") >= 0


set_flag("xla_force_host_platform_device_count", DEVICES)
os.environ["JAX_PLATFORMS"] = "cpu"
# The same step is built by many tests, most of them in one file: each test process keeps what it
# compiles in a folder of its own (two may not write one), unless the caller names one.
_OWN = "FOURD4D_TESTS_COMPILED"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ or _OWN in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ[_OWN] = tempfile.mkdtemp(
        prefix="fourd4d-compiled-")
    atexit.register(shutil.rmtree, os.environ[_OWN], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.4")
# Compiling is most of the time, and what is compiled runs on a few numbers. XLA's older emitters
# compile in half the time, if nothing is optimized.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and has_flag("xla_cpu_use_fusion_emitters"):
    set_flag("xla_cpu_use_fusion_emitters", "false")
gc.set_threshold(50_000, 20, 100)  # What has been compiled is a large heap to look through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_report_header() -> str:
    return f"fourd4d: {DEVICES} fake CPU devices, python {sys.version.split()[0]}"


@pytest.fixture(scope="session")
def devices():
    """The eight fake devices. Fewer is a failure: a sharding test must never be skipped."""
    import jax

    found = jax.devices()
    assert len(found) >= DEVICES, f"{len(found)} devices; JAX started before tests/conftest.py"
    return found[:DEVICES]


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Lets compiled programs go before the kernel refuses this process another memory map.

    Each holds about six; at the limit (65,530 by default) XLA does not raise but dies, while it
    compiles, reads or writes its cache.
    """
    yield
    if "jax" in sys.modules and memory_maps() > map_limit() // 2:
        import jax

        jax.clear_caches()
        gc.collect()


def memory_maps():
    """How many this process has; 0 where that is not told."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def map_limit():
    limit = Path("/proc/sys/vm/max_map_count")
    return int(limit.read_text()) if limit.exists() else 65_530


@pytest.fixture
def file_limit():
    """Sets the most bytes that a file may hold: writing more fails as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size or before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def highest_precision():
    """Matrix products in full float32, for comparisons with another framework."""
    import jax

    with jax.default_matmul_precision("highest"):
        yield
