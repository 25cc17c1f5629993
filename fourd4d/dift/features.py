"""A frozen vision encoder's features, computed once and kept on disk."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from fourd4d.core.batch import Batch, VisionFeatures, VisionInput
from fourd4d.core.errors import InputError
from fourd4d.core.storage import local_only
from fourd4d.data.feature_store import KEY, FeatureStore
from fourd4d.models import ModelConfig
from fourd4d.parallel import make_mesh, to_host, use
from fourd4d.train import TrainState
from fourd4d.train.resume import fingerprint


class CachedEncoder:
    """Puts features in the place of a host batch's patches; a context manager.

    Frame slots do not see each other, so each is encoded, and kept, by itself, under the hash of
    its patches, their coordinates and mask. What the store lacks is encoded on this host's own
    devices, a fixed number of slots at a time.

    Args:
      state: the training state, whose vision encoder must be frozen; its weights are copied.
      directory: of the stores; each encoder has a folder of its own below it.
      most_bytes: of this encoder's folder, over all hosts that share it.
      slots: encoded at a time; rounded up to a multiple of the devices.

    Raises:
      InputError: the vision encoder is trained, or the directory cannot be used.
    """

    def __init__(self, graphdef: Any, state: TrainState, config: ModelConfig,
                 directory: str | os.PathLike[str], most_bytes: int, slots: int = 16):
        if any(path[0] == "vision" for path, _ in nnx.to_flat_state(state.params)):
            raise InputError("config.data.feature_cache", "the vision encoder is trained",
                             "Leave it empty, or freeze vision/ (config.trainable)")
        self._mesh = make_mesh("data=-1", jax.local_devices())
        vision = nnx.merge(graphdef, state.params, state.frozen).vision
        graph, weights = nnx.split(vision)
        host = to_host(weights)
        self._about = {
            "weights": fingerprint(weights), "vision": dataclasses.asdict(config.vision),
            "dtype": config.dtype, "device": jax.local_devices()[0].device_kind,
            "precision": str(
                jax.config.jax_default_matmul_precision)}  # pyright: ignore[reportAttributeAccessIssue]
        whole = NamedSharding(self._mesh, PartitionSpec())
        self._weights = jax.tree.map(lambda x: jax.device_put(x, whole), host)
        self._encode = jax.jit(functools.partial(_encode, graph))
        self._directory = local_only(directory, "a cache of features").expanduser()
        self._most = most_bytes // jax.process_count()
        self._slots = -(-slots // self._mesh.size) * self._mesh.size
        self._store: FeatureStore | None = None
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.encoded = self.found = 0

    def __call__(self, batch: Batch) -> Batch:
        """The same batch with a ``VisionFeatures``."""
        vision = jax.tree.map(np.asarray, batch.vision)
        b, f = vision.mask.shape[:2]
        flat = jax.tree.map(lambda x: x.reshape(b * f, *x.shape[2:]), vision)
        if not b * f:
            return batch
        store = self._store = self._opened(flat) if self._store is None else self._store
        keys = list(self._pool.map(functools.partial(_key, flat), range(b * f)))
        first = {key: i for i, key in reversed(list(enumerate(keys)))}  # Alike slots are one.
        known = store.get(list(first))
        missing = [key for key in first if key not in known]
        self.found, self.encoded = self.found + len(known), self.encoded + len(missing)
        made: dict[bytes, np.ndarray] = {}
        for values in self._made(flat, [first[key] for key in missing]):
            made |= zip(missing[len(made):], values)
        store.put(made)
        known |= made
        features = np.stack([known[key] for key in keys])
        return dataclasses.replace(
            batch, vision=VisionFeatures(features.reshape(b, f, *features.shape[1:])))

    def _made(self, flat: VisionInput, places: list[int]) -> Iterator[np.ndarray]:
        """Features of these slots, some at a time."""
        rows = NamedSharding(self._mesh, PartitionSpec("data"))
        for start in range(0, len(places), self._slots):
            some = places[start : start + self._slots]
            padded = some + some[-1:] * (self._slots - len(some))
            part = jax.device_put(jax.tree.map(lambda x, at=padded: x[at][:, None], flat), rows)
            with use(self._mesh):
                yield np.asarray(self._encode(self._weights, part))[: len(some), 0]

    def _opened(self, flat: VisionInput) -> FeatureStore:
        """The store of this encoder, and of slots of this size."""
        some = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((self._slots, 1, *x.shape[1:]), x.dtype), flat)
        with use(self._mesh):
            made = jax.eval_shape(self._encode, self._weights, some)
        shape, dtype = made.shape[2:], made.dtype
        name = repr([*sorted(self._about.items()), shape, dtype.name])
        return FeatureStore(self._directory / hashlib.sha256(name.encode()).hexdigest()[:16],
                            self._about, shape, dtype, self._most)

    def __enter__(self) -> CachedEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._store is not None:
            self._store.flush()


def _encode(graph: Any, weights: Any, vision: VisionInput) -> jax.Array:
    return jnp.asarray(nnx.merge(graph, weights)(vision))


def _key(flat: VisionInput, slot: int) -> bytes:
    digest = hashlib.sha256()
    for leaf in (flat.patches, flat.coords, flat.mask):
        one = np.ascontiguousarray(leaf[slot])
        digest.update(f"{one.shape}{one.dtype}".encode())
        digest.update(one.view(np.uint8).reshape(-1).data)
    return digest.digest()[:KEY]
