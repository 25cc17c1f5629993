"""Several hosts: starting them, and batches from and to each host's memory."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from fourd4d.core.errors import InputError, text_of
from fourd4d.parallel.rules import DEFAULT_RULES, Rules

# Arrays whose axes are not (batch, …). Everything else is split by its rows only.
BATCH_AXES: Final[dict[str, tuple[str | None, ...]]] = {
    "tokens": ("batch", "length"),
    "positions": (None, "batch", "length"),
    "segment_ids": ("batch", "length"),
    "text_weights": ("batch", "length"),
    "vision_index": ("batch", "length"),
    "latent_index": ("batch", "length"),
    "speaks": ("batch", "length"),
    "given": ("batch", "length"),
}


HEARTBEAT: Final = 30
"""Seconds after which a silent process counts as gone, and the others are ended."""
# What a collective or the coordination service says when another process is gone.
_UNMISTAKABLE: Final = ("Gloo", "Barrier failed")  # Also inside an error of a plain type.
_GONE: Final = (*_UNMISTAKABLE, "Connection closed by peer", "Connection reset by peer",
                "Connection refused", "Socket closed", "heartbeat", "coordination service")


def start(coordinator: str | None = None, processes: int | None = None,
          index: int | None = None) -> None:
    """Joins this process to the others; nothing to do on a single host.

    Call it before anything touches a device. TPU pods and Slurm or Open MPI jobs are recognised by
    their environment; elsewhere give the coordinator's ``host:port``, the number of processes and
    this one's index, or set ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID``.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ
    launched = (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or int(environment.get("SLURM_NTASKS", "1")) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    )
    if coordinator is None and not launched:
        return
    if processes is None and "JAX_NUM_PROCESSES" in environment:
        processes = int(environment["JAX_NUM_PROCESSES"])
    if index is None and "JAX_PROCESS_ID" in environment:
        index = int(environment["JAX_PROCESS_ID"])
    jax.distributed.initialize(coordinator, processes, index,
                               heartbeat_timeout_seconds=HEARTBEAT)


@contextlib.contextmanager
def ending_together(plain: tuple[type[Exception], ...] = (InputError,)) -> Iterator[None]:
    """A process that fails ends at once, so that the others notice; alone, nothing happens.

    An orderly end would wait for processes that wait for this one. That another one is gone is told
    in a line, and so are errors of the ``plain`` types; others with their traceback.
    """
    try:
        yield
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        gone = _UNMISTAKABLE if isinstance(error, plain) else _GONE
        if any(words in text_of(error) for words in gone):
            told = f"{error}\n" if isinstance(error, plain) else ""
            told += ("another process of this run has ended. Look at what it said; the same "
                     "command goes on from the last checkpoint.")
        else:
            told = str(error) if isinstance(error, plain) else traceback.format_exc()
        print(told, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def is_main() -> bool:
    """True on the one host that writes files and prints."""
    return jax.process_index() == 0


def batch_axes(path: Any, ndim: int) -> tuple[str | None, ...]:
    """Logical axes of a batch's leaf at a key path: rows first, except in ``positions``."""
    name = getattr(path[-1], "name", getattr(path[-1], "key", None)) if path else None
    axes = BATCH_AXES.get(str(name))
    if axes is not None and len(axes) == ndim:
        return axes
    return ("batch", *(None,) * (ndim - 1)) if ndim else ()


def batch_shardings(batch: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Shardings of a global batch (arrays or shapes): rows over ``data`` and ``fsdp``."""
    return jax.tree.map_with_path(
        lambda path, x: NamedSharding(mesh, rules.spec(
            batch_axes(path, len(x.shape)), x.shape, dict(mesh.shape),
            f"batch{jax.tree_util.keystr(path)}", activation=True)),
        batch)


def host_to_global(batch: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """This host's rows become its part of one global batch.

    Every host gives the same number of rows, in process order. Scalars are replicated and must be
    equal on all hosts.

    Raises:
      InputError: the global number of rows does not divide over the mesh.
    """
    processes = jax.process_count()

    def place(path: Any, x: Any) -> jax.Array:
        x = np.asarray(x)
        axes = batch_axes(path, x.ndim)
        shape = tuple(n * processes if name == "batch" else n
                      for name, n in zip(axes, x.shape, strict=True))
        where = f"batch{jax.tree_util.keystr(path)}"
        spec = rules.spec(axes, shape, dict(mesh.shape), where, activation=True)
        sharding = NamedSharding(mesh, spec)
        if processes == 1:
            return jax.device_put(x, sharding)
        rows = axes.index("batch") if "batch" in axes else None
        if rows is not None and spec[rows] is None:
            raise InputError(where, f"{processes} hosts, but no mesh axis splits the rows",
                             "Give the mesh a data or fsdp axis over the hosts")
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map_with_path(place, batch)


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy on every host. All hosts must call it together."""

    def fetch(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(jax.device_get(x))

    return jax.tree.map(fetch, tree)
