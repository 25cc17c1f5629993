"""Checksums of a checkpoint's files, and paths that Orbax can take."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import json
import os
import re
import shutil
import tempfile
import zlib
from typing import Final

import jax
from etils import epath

from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json, replacing
from fourd4d.core.storage import as_path, files_below, home, is_remote

NAME: Final = "checksums.json"
_CHUNK: Final = 16 << 20
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./+-]*")
_LONGEST: Final = 1024  # Orbax adds names of its own; paths end at 4096 bytes.


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
    """Return the absolute path; ``~`` is the home, as in a shell, where there is such a user."""
    path = home(directory)
    # Of a path in a bucket epath would make one below the working directory (etils 1.15).
    return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()


def plain_path(directory: str | os.PathLike[str]) -> epath.Path:
    """Return a path to the directory that holds only letters, digits and ``_./+-``.

    Orbax looks for its own files by pattern below the directory, and in ``exp[lr=1e-4]`` finds none
    (orbax-checkpoint 0.12); of ``gs:/`` inside a path it makes a bucket. A link from a temporary
    folder stands for such a directory. Call this before each use: in a long run the folder may be
    tidied away, and is made again.

    Raises:
      InputError: there is no temporary folder with a plain name.
    """
    path = absolute(directory)
    name = os.fspath(path)
    if is_remote(name):
        return path
    if _PLAIN.fullmatch(name) and len(name) <= _LONGEST:
        return path
    link = _link_of(name)
    if not os.path.islink(link):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(name, link)
    return epath.Path(link)


@functools.cache
def _link_of(directory: str) -> str:
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _PLAIN.fullmatch(base) and os.access(base, os.W_OK):
            folder = tempfile.mkdtemp(prefix="fourd4d-", dir=base)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return os.path.join(folder, "checkpoints")
    raise InputError(directory, "checkpoints cannot be kept under this name without a temporary "
                     "folder", "Use letters, digits, '_', '-' and '.', or set TMPDIR")


def write_checksums(step: epath.Path) -> None:
    """Write size and CRC-32 of every file of a step beside them; the first process does.

    In a bucket only the sizes: the store keeps checksums of its own, and to make ours would fetch
    the whole checkpoint.
    """
    if jax.process_index():
        return
    value = dict(zip(names := _files(step), _map(functools.partial(_sum, step), names)))
    with replacing(step / NAME) as temporary:
        temporary.write_text(json.dumps(value))


def damage(step: epath.Path) -> str:
    """Return which file changed since it was saved and how, or an empty text.

    A step without checksums (of an earlier version) passes. Each process reads its share. Raises
    InputError where the checksums themselves cannot be read.
    """
    path = step / NAME
    if not path.exists():
        return ""
    value = parse_json(path.read_bytes(), path, "Use another step")
    names = sorted(value)[jax.process_index() :: jax.process_count()]
    for name, found in zip(names, _map(functools.partial(_sum, step), names), strict=True):
        if found is None or not _same(found, value[name]):
            return f"{name} {'is missing' if found is None else 'is not as it was saved'}"
    return ""


def _same(found: list[int | None], saved: list[int | None]) -> bool:
    """Whether they agree in what both know."""
    return all(a == b for a, b in zip(found, saved, strict=True) if a is not None and b is not None)


def _files(step: epath.Path) -> list[str]:
    return [name for name in files_below(as_path(step))
            if NAME not in name.rpartition("/")[-1]]


def _sum(step: epath.Path, name: str) -> list[int | None] | None:
    """Size and CRC-32 (None in a bucket), or None where there is no such file."""
    size = total = 0
    try:
        if is_remote(step):
            return [(step / name).stat().length, None]
        with (step / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                size, total = size + len(chunk), zlib.crc32(chunk, total)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return [size, total]


def _map(call, names):
    # CRC-32 leaves the interpreter's lock, so threads share the cores.
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(call, names))
