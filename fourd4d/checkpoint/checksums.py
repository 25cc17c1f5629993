"""Checksums of a folder's files: written when it is complete, compared before it is read."""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from fourd4d.checkpoint.copying import WORKERS
from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json

NAME = "checksums.json"
_PIECE = 16 << 20
_REMEDY = "Restore another step, or copy the checkpoint again"


def write(folder: epath.Path) -> None:
    """Writes size and CRC-32 of every file below ``folder``, read back from where they lie."""
    names = sorted(str(path.relative_to(folder)) for path in _files(folder))
    with ThreadPoolExecutor(WORKERS) as pool:
        sums = list(pool.map(lambda name: _sum(folder / name), names))
    table = {name: {"size": size, "crc32": f"{crc:08x}"}
             for name, (size, crc) in zip(names, sums, strict=True)}
    (folder / NAME).write_text(json.dumps(table, indent=0))


def verify(folder: epath.Path) -> None:
    """Compares the files with their checksums; every process calls this, each reads its share.

    A folder without checksums passes, and so do files that were added to it.

    Raises:
      InputError: naming a file that is missing, cut or changed.
    """
    table = _table(folder)
    if table is None:
        return
    mine = sorted(table)[jax.process_index() :: jax.process_count()]
    with ThreadPoolExecutor(WORKERS) as pool:
        faults = [fault for fault in pool.map(
            lambda name: _fault(folder / name, table[name]), mine) if fault]
    bad = bool(faults)
    if jax.process_count() > 1:  # All raise, or none: the others would wait for this one.
        bad = bool(np.any(multihost_utils.process_allgather(np.array(bad))))
    if bad:
        raise faults[0] if faults else InputError(
            folder, "the checkpoint is damaged, as another process found", _REMEDY)


def _table(folder: epath.Path) -> dict[str, Any] | None:
    path = folder / NAME
    if not path.exists():
        return None
    try:
        table = parse_json(path.read_bytes(), path)
        for entry in table.values():
            entry["size"] = int(entry["size"])
            entry["crc32"] = int(entry["crc32"], 16)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"the checkpoint is damaged: unreadable checksums ({error})",
                         _REMEDY) from error
    return table


def _files(folder: epath.Path) -> Sequence[epath.Path]:
    found: list[epath.Path] = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _files(path)
        elif path.name != NAME:
            found.append(path)
    return found


def _sum(path: epath.Path) -> tuple[int, int]:
    """(bytes, CRC-32)."""
    size = crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


@functools.lru_cache(maxsize=65536)
def _known(path: str, size: int, changed: int) -> tuple[int, int]:
    # A model's parts are restored one after the other from the same files.
    del size, changed
    return _sum(epath.Path(path))


def _fault(path: epath.Path, want: dict[str, Any]) -> InputError | None:
    try:
        if "://" in os.fspath(path):
            size, crc = _sum(path)
        else:
            stat = os.stat(path)
            size, crc = _known(os.fspath(path), stat.st_size, stat.st_mtime_ns)
    except FileNotFoundError:
        return InputError(path, "the checkpoint is damaged: the file is missing", _REMEDY)
    except OSError as error:
        return InputError(path, f"cannot be read ({error.strerror or error})", _REMEDY)
    if size != want["size"]:
        return InputError(path, f"the checkpoint is damaged: {size} bytes where {want['size']} "
                          "were written", _REMEDY)
    if crc != want["crc32"]:
        return InputError(path, "the checkpoint is damaged: its bytes are not those that were "
                          "written", _REMEDY)
    return None
