"""Hugging Face safetensors directories, read and written leaf by leaf.

The format (github.com/huggingface/safetensors): 8 bytes with the header's length, the header as
JSON (name → dtype, shape, byte range), the bytes. Several shards have an index beside them.
Files are memory-mapped and copied piece by piece, on several threads. Reading takes, beside the
arrays themselves, the host memory of one parameter's part on one device (none on a CPU, which keeps
what is read) and of a few pieces of the file; writing takes a layer or two of one parameter (none
on a CPU) and a few pieces.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import functools
import json
import math
import mmap
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from fourd4d.checkpoint.copying import WORKERS, ahead, bits, blocks, copy, empty, finite
from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json, read_object, readable, replacing
from fourd4d.core.weight_map import Entry, KeyTable

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_DTYPES: Mapping[str, Any] = {
    "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
DEQUANTIZE = ("Give the unquantized model, or dequantize it with transformers "
              "(model.dequantize()) and save that")
_OTHERS = (
    (("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"),
     "pickle checkpoint ({}): unpickling runs code from the file, so it is not read",
     "Where you trust it, load it with transformers and "
     "save_pretrained(..., safe_serialization=True)"),
    (("*.gguf", "*.ggml"), "weights as GGUF ({}), which are not read",
     "Give the Hugging Face directory that they were made from"),
    (("*.h5", "*.msgpack", "*.onnx", "*.npz"), "weights of another framework ({})",
     "Load them with transformers and save_pretrained(..., safe_serialization=True)"),
)
_SHARD = re.compile(r"-\d+-of-0*(\d+)\.safetensors$")
_QUANTIZED = re.compile(
    r"(?P<gptq>\.(qweight|qzeros|g_idx)$)|(?P<bnb>\.(absmax|quant_map|nested_absmax|SCB)$"
    r"|\.quant_state\.)|(?P<packed>\.(weight_packed|weight_shape|weight_zero_point)$)"
    r"|(?P<fp8>\.(weight_scale|weight_scale_inv|weight_scale_2|input_scale)$)")
_METHODS = {"gptq": "GPTQ or AWQ", "bnb": "bitsandbytes", "packed": "compressed-tensors",
            "fp8": "FP8"}
_ADAPTED = re.compile(r"^base_model\.model\.|\.lora_(A|B|embedding_A|embedding_B)\b")
_HEADER_LIMIT = 100 << 20
_ALIGN = 64  # Bytes; tensors start there.
_PIECE = 16 << 20  # Bytes copied or written at once.
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _header(file: Path) -> list[Tensor]:
    """Raises InputError on a file that is unreadable, truncated or not a safetensors file."""
    with readable(file):
        size = file.stat().st_size
        with file.open("rb") as stream:
            begin = stream.read(8)
            if begin == b"version ":
                raise InputError(file, "it is a Git LFS pointer, not the file", "Run git lfs pull")
            length = int.from_bytes(begin, "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise InputError(file, f"{size} bytes hold no whole header", "Copy the shard again")
            text = stream.read(length)
    try:
        header = parse_json(text, file)
        header.pop("__metadata__", None)
        found = [Tensor(key, file, str(item["dtype"]), tuple(map(operator.index, item["shape"])),
                        *(8 + length + operator.index(at) for at in item["data_offsets"]))
                 for key, item in header.items()]
    except (InputError, KeyError, TypeError, AttributeError) as error:
        what = f" ({error.what})" if isinstance(error, InputError) else ""
        raise InputError(file, f"its header is not a safetensors header{what}",
                         "Copy the shard again") from error
    if any(not 8 + length <= tensor.start <= tensor.stop for tensor in found):
        raise InputError(file, "its header speaks of data outside the file",
                         "Copy the shard again")
    end = max((tensor.stop for tensor in found), default=8 + length)
    if end > size:
        raise InputError(file, f"truncated: {size} bytes, its header speaks of {end:.15g}",
                         "Copy the shard again")
    found.sort(key=lambda tensor: (tensor.start, tensor.stop))
    at, before = 8 + length, "its header"
    for tensor in found:
        if tensor.start < at:
            raise InputError(file, f"tensors {before!r} and {tensor.key!r} share bytes",
                             "Copy the shard again")
        if tensor.start > at:
            raise InputError(file, f"{tensor.start - at} bytes before {tensor.key!r} belong to no "
                             "tensor", "Copy the shard again")
        at, before = tensor.stop, tensor.key
    if at < size:
        raise InputError(file, f"its last {size - at} bytes belong to no tensor",
                         "Copy the shard again")
    for tensor in found:
        item = _DTYPES.get(tensor.dtype)
        if item is not None and tensor.stop - tensor.start != math.prod(
                tensor.shape) * item.itemsize:
            raise InputError(file, f"tensor {tensor.key!r} has {tensor.stop - tensor.start} bytes "
                             f"for shape {list(tensor.shape)} {tensor.dtype}",
                             "Copy the shard again")
    return found


def check_kind(directory: str | os.PathLike[str]) -> None:
    """Raises InputError for a directory whose weights are of another kind, or an adapter's."""
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(directory, "no such directory", "Give a Hugging Face model directory")
    with readable(directory):
        names = sorted(path.name for path in directory.iterdir())
    adapters = [name for name in names if name == "adapter_config.json"
                or name.startswith("adapter_model") or name.startswith("adapter_")
                and name.endswith((".safetensors", ".bin"))]
    tensors = [name for name in names if name.endswith(".safetensors") and name not in adapters]
    if adapters:
        raise InputError(directory / adapters[0], "an adapter lies here, which would not be used"
                         if tensors else "this is an adapter, without the model it changes",
                         "Merge it into its model with peft's merge_and_unload and save that"
                         + (", or remove it" if tensors else ""))
    if tensors or INDEX in names:
        return
    for patterns, what, remedy in _OTHERS:
        found = [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise InputError(directory, f"{what.format(', '.join(found[:3]) + more)}", remedy)


def open_directory(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor of a directory's shards by name; headers only are read.

    Raises:
      InputError: no safetensors (a pickle is refused), a missing, truncated or unreadable shard, an
        index that disagrees with its shards, or files of two models.
    """
    directory = Path(directory)
    check_kind(directory)
    index, expected = directory / INDEX, None
    for file in (index, directory / SINGLE):
        if file.is_dir():
            raise InputError(file, "it is a folder, not a file", "Copy the file again")
    if index.is_file():
        value = read_object(index, "Copy it again")
        try:
            expected = value["weight_map"]
            names = sorted(set(expected.values()))
            outside = [name for name in names if Path(name).name != name]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(index, "no index of shards", "Copy it again") from error
        if outside:
            raise InputError(index, f"shards {outside} lie outside the directory",
                             "Name files beside the index")
        lacking = [name for name in names if not (directory / name).is_file()]
        if lacking:
            raise InputError(directory, f"shards are missing: {', '.join(lacking)}",
                             "Copy them into the directory")
        if SINGLE not in names and (directory / SINGLE).is_file():
            raise InputError(directory, f"{SINGLE}, and {INDEX} of other files",
                             "Remove the one that is not meant; transformers reads the first")
        files = [directory / name for name in names]
    elif (directory / SINGLE).is_file():
        files = [directory / SINGLE]
    else:
        files = sorted(file for file in directory.glob("*.safetensors") if file.is_file())
        if len(files) > 1:
            raise InputError(directory, f"{len(files)} safetensors files and no {INDEX}",
                             "Copy the index too")
        if files and (shard := _SHARD.search(files[0].name)) and int(shard[1]) > 1:
            raise InputError(directory, f"{files[0].name} alone, and no {INDEX}",
                             "Copy all shards and the index")
    if not files:
        broken = sorted(file.name for file in directory.glob("*.safetensors") if file.is_symlink())
        raise InputError(directory, f"links to no file: {', '.join(broken)}" if broken else
                         "no safetensors files", "Download the files again" if broken else
                         f"Give a directory with {SINGLE}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in _header(file):
            if tensor.key in tensors:
                raise InputError(file, f"tensor {tensor.key!r} is in another shard too",
                                 "Remove one")
            tensors[tensor.key] = tensor
    if expected is not None:
        wrong = sorted(key for key, name in expected.items()
                       if key not in tensors or tensors[key].file.name != name)
        if wrong:
            raise InputError(index, f"tensors are not where it says: {', '.join(wrong[:8])}",
                             "Copy index and shards from one source")
    _check_plain(tensors)
    return tensors


def _check_plain(tensors: Mapping[str, Tensor]) -> None:
    """Raises InputError on tensors that are quantized, or an adapter's."""
    for key, tensor in tensors.items():
        found = _QUANTIZED.search(key)
        method = (next(name for name, value in found.groupdict().items() if value) if found
                  else "fp8" if tensor.dtype.startswith("F8_") else "")
        if method:
            raise InputError(tensor.file, f"the weights are quantized ({_METHODS[method]}): "
                             f"{key!r}, {tensor.dtype}", DEQUANTIZE)
        if _ADAPTED.search(key):
            raise InputError(tensor.file, f"{key!r} is an adapter's",
                             "Merge it with peft's merge_and_unload and save the model")


class _Files:
    """Memory maps of shards, read by several threads.

    What is to be read is asked for ahead; pages are given back once they are copied.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._maps: dict[Path, tuple[mmap.mmap, int]] = {}

    def array(self, tensor: Tensor) -> np.ndarray:
        if tensor.file not in self._maps:
            with readable(tensor.file), tensor.file.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[tensor.file] = mapped, np.frombuffer(mapped, np.uint8).ctypes.data
        return np.frombuffer(self._maps[tensor.file][0], _DTYPES[tensor.dtype],
                             math.prod(tensor.shape), tensor.start).reshape(tensor.shape)

    def _advise(self, advice: int, tensor: Tensor, view: np.ndarray) -> None:
        mapped, base = self._maps[tensor.file]
        low, high = np.lib.array_utils.byte_bounds(view)
        start = (low - base) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(advice, start, high - base - start)

    def each(self, action: Callable[[Tensor, np.ndarray, np.ndarray], T],
             pieces: Sequence[tuple[Tensor, np.ndarray, np.ndarray]]) -> Iterator[T]:
        """``action(tensor, view, other)`` for pieces, given in the files' order, of tensors."""

        def one(number: int) -> T:
            for tensor, view, _ in pieces[number + WORKERS : number + WORKERS + 1]:
                self._advise(mmap.MADV_WILLNEED, tensor, view)
            result = action(*pieces[number])
            self._advise(mmap.MADV_DONTNEED, *pieces[number][:2])
            return result

        for tensor, view, _ in pieces[:WORKERS]:
            self._advise(mmap.MADV_WILLNEED, tensor, view)
        return self._pool.map(one, range(len(pieces)))


def _mismatches(tensors: Mapping[str, Tensor], table: KeyTable,
                leaves: Mapping[tuple[str, ...], Any]) -> list[str]:
    """One line for each missing, unused or misshapen tensor, and each of a wrong dtype."""
    lines, used = [], {copy for copy, _ in table.copies}
    for entry in table.entries:
        shape = leaves[entry.path].shape
        wanted = entry.file_shape(shape)
        for key in entry.layer_keys(shape):
            if key in used and entry.part[0]:
                continue
            used.add(key)
            if key not in tensors:
                lines.append(f"{key}: missing, wanted {list(wanted)}")
            elif tensors[key].shape != wanted:
                lines.append(f"{key}: shape {list(tensors[key].shape)}, wanted {list(wanted)}")
            elif tensors[key].dtype not in _DTYPES:
                lines.append(f"{key}: dtype {tensors[key].dtype} in {tensors[key].file.name}, "
                             f"wanted one of {', '.join(sorted(_DTYPES))}")
    lines += [f"{key}: unused, shape {list(tensors[key].shape)}"
              for key in tensors if key not in used]
    return sorted(lines)


def _check_leaves(table: KeyTable, leaves: Mapping[tuple[str, ...], Any]) -> None:
    paths = table.paths()
    if paths != set(leaves):
        names = ["/".join(path) for path in sorted(paths ^ set(leaves))]
        raise ValueError(f"key table and state disagree on {names}")


def read_hf(directory: str | os.PathLike[str], table: KeyTable, abstract: Any, *,
            check_finite: bool = True) -> Any:
    """The state ``abstract`` filled from a directory, each leaf straight onto its sharding.

    Args:
      table: has an entry for each leaf, and none else.
      abstract: ``nnx.State`` of ``jax.ShapeDtypeStruct`` leaves; without a sharding a leaf goes
        to the first device. Values are cast to the leaf's dtype.
      check_finite: refuse tensors with NaN or infinities.

    Raises:
      InputError: as ``open_directory``; or with every missing, unused, misshapen and wrongly typed
        tensor, before anything is read; or naming a tensor that is not finite.
    """
    leaves: dict[Any, Any] = dict(nnx.to_flat_state(abstract))
    _check_leaves(table, leaves)
    tensors = _renamed(directory, table)
    lines = _mismatches(tensors, table, leaves)
    if lines:
        raise InputError(directory, f"{len(lines)} tensors do not fit the model:\n  "
                         + "\n  ".join(lines), "Check that config.json belongs to the weights")
    filled = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        files = _Files(pool)
        for twin, original in table.copies:
            if twin in tensors and not _same(files, tensors[twin], tensors[original]):
                raise InputError(directory, f"the config ties {twin} to {original}, but they "
                                 "differ", "Set tie_word_embeddings to false in config.json")
        for entry in table.entries:
            leaf = leaves[entry.path]
            filled[entry.path] = leaf.replace(
                _read_leaf(entry, leaf, tensors, files, check_finite))
    return nnx.from_flat_state(filled)


def _same(files: _Files, left: Tensor, right: Tensor) -> bool:
    a, b = files.array(left), files.array(right)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    pieces = [(left, a[at], b[at]) for at in blocks(a, _PIECE)]
    return all(files.each(lambda _, mine, other: np.array_equal(bits(mine), bits(other)), pieces))


def _renamed(directory: str | os.PathLike[str], table: KeyTable) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, tensor in open_directory(directory).items():
        name = table.rename(key)
        if table.ignores(name):
            continue
        if name in tensors:
            raise InputError(directory, f"{key!r} and {tensors[name].key!r} are both {name!r}",
                             "Keep the tensors of one naming")
        tensors[name] = tensor
    return tensors


def _read_leaf(entry: Entry, leaf: Any, tensors: Mapping[str, Tensor], files: _Files,
               check_finite: bool) -> jax.Array:
    value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    shape, dtype = value.shape, value.dtype
    keys = entry.layer_keys(shape)

    def fill(tensor: Tensor, view: np.ndarray, out: np.ndarray) -> None:
        copy(out, view)
        if check_finite and not finite(out):
            raise InputError(tensor.file, f"tensor {tensor.key!r} has NaN or infinite values"
                             f" (as {out.dtype})", "The checkpoint is damaged; use another")

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        index = index or (slice(None),) * len(shape)
        sizes = [len(range(*s.indices(n))) for s, n in zip(index, shape, strict=True)]
        out = empty(sizes, dtype)
        parts = zip(keys[index[0]], out, strict=True) if entry.stacked else [(keys[0], out)]
        pieces = []
        for key, own in parts:
            view = entry.view(files.array(tensors[key]), shape)[index[entry.stacked :]]
            pieces += [(tensors[key], view[cut], own[cut]) for cut in blocks(view, _PIECE)]
        collections.deque(files.each(fill, pieces), maxlen=0)
        return out

    sharding = getattr(value, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    array = jax.make_array_from_callback(shape, sharding, part)
    return jax.block_until_ready(array)


def write_hf(directory: str | os.PathLike[str], table: KeyTable, state: Any, *,
             dtype: Any = None, shard_bytes: int = 5 << 30) -> list[Path]:
    """Writes ``state`` under the table's names; one file, or shards and their index.

    Parameters come to the host one layer at a time. Every file is written under another name and
    renamed when whole, the index last. Of several processes, all of which must call this, the
    first one writes.

    Args:
      dtype: of the file's tensors; each parameter's own by default.
      shard_bytes: most bytes of a shard that holds more than one tensor.

    Returns:
      The files of tensors.
    """
    leaves: dict[Any, Any] = dict(nnx.to_flat_state(state))
    _check_leaves(table, leaves)
    directory, first = Path(directory), jax.process_index() == 0
    plan = _plan(table, leaves, dtype)
    shards: list[list[_Planned]] = [[]]
    for item in plan:
        if shards[-1] and sum(i.bytes for i in shards[-1]) + item.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(item)
    single = len(shards) == 1
    names = [SINGLE] if single else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
                                     for i in range(len(shards))]
    if first:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / INDEX).unlink(missing_ok=True)  # Without it, no mixture of shards is read.
        for stale in directory.glob("*.safetensors"):
            if stale.name not in names:
                stale.unlink()
    for name, items in zip(names, shards, strict=True):
        if first:
            _write_file(directory / name, items, leaves)
        else:  # Only its share of gathering.
            collections.deque(_pieces(items, leaves), maxlen=0)
    if first and not single:
        weight_map = {item.key: name for name, items in zip(names, shards, strict=True)
                      for item in items}
        index = {"metadata": {"total_size": sum(item.bytes for item in plan)},
                 "weight_map": dict(sorted(weight_map.items()))}
        with replacing(directory / INDEX) as partial:
            partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    multihost_utils.sync_global_devices("write_hf")
    return [directory / name for name in names]


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A file tensor to be written: the entries whose parts make it up, and its layer."""

    key: str
    entries: tuple[Entry, ...]
    layer: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _plan(table: KeyTable, leaves: Mapping[tuple[str, ...], Any], dtype: Any) -> list[_Planned]:
    together: dict[str, list[tuple[Entry, int]]] = {}
    for entry in table.entries:
        for layer, key in enumerate(entry.layer_keys(leaves[entry.path].shape)):
            together.setdefault(key, []).append((entry, layer))
    plan = []
    for key, parts in together.items():
        entries = tuple(entry for entry, _ in sorted(parts, key=lambda item: item[0].part))
        leaf = leaves[entries[0].path]
        kind = np.dtype(dtype or leaf.dtype)
        if kind not in _NAMES:
            raise InputError("export", f"dtype {kind} of {key}",
                             "Use float32, float16 or bfloat16")
        plan.append(_Planned(key, entries, parts[0][1], entries[0].file_shape(leaf.shape), kind))
    return plan


def _pieces(items: Sequence[_Planned], leaves: Mapping[tuple[str, ...], Any]
            ) -> Iterator[tuple[np.ndarray, Any]]:
    """Views of what makes up file tensors, in order, and the dtype each is wanted in."""
    for item in items:
        for entry in item.entries:
            leaf = leaves[entry.path]
            array = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            own = entry.unview(_on_host(array, item.layer if entry.stacked else None), array.shape)
            rows = max(1, _PIECE * len(own) // (own.size * item.dtype.itemsize))
            for start in range(0, len(own), rows):
                yield own[start : start + rows], item.dtype


def _packed(piece: tuple[np.ndarray, Any]) -> memoryview:
    view, dtype = piece
    packed = np.empty(view.shape, dtype)
    copy(packed, view)
    return packed.reshape(-1).view(np.uint8).data


@functools.cache
def _gather(sharding: Any, layer: bool) -> Any:
    def one(array: Any, index: Any) -> Any:
        return jax.lax.dynamic_index_in_dim(array, index, keepdims=False) if layer else array

    everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.jit(one, out_shardings=everywhere)


def _on_host(array: Any, layer: int | None) -> np.ndarray:
    """The array, or one layer of it, in this process's memory."""
    if isinstance(array, jax.Array) and len(array.devices()) == 1:
        (device,) = array.devices()
        if device.platform == "cpu":
            array = np.asarray(array)  # The device's own memory.
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array if layer is None else array[layer])
    whole = _gather(array.sharding, layer is not None)(array, layer or 0)
    return np.asarray(whole.addressable_data(0))


def _write_file(file: Path, items: list[_Planned], leaves: Mapping[tuple[str, ...], Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for item in items:
        header[item.key] = {"dtype": _NAMES[item.dtype], "shape": list(item.shape),
                            "data_offsets": [at, at + item.bytes]}
        at += item.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    try:
        with (replacing(file) as partial, partial.open("wb") as stream,
              ThreadPoolExecutor(WORKERS) as pool):
            stream.write(len(text).to_bytes(8, "little") + text)
            for piece in ahead(pool, _packed, _pieces(items, leaves)):
                stream.write(piece)
    except OSError as error:
        raise InputError(file, f"cannot be written ({error.strerror})",
                         "Choose another directory") from error
