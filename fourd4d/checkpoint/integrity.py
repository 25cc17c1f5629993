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
from fourd4d.core.files import parse_json

NAME: Final = "checksums.json"
_CHUNK: Final = 16 << 20
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./+-]*")
_LONGEST: Final = 1024  # Orbax adds names of its own; paths end at 4096 bytes.


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
    """Return the absolute path; ``~`` is the home, as in a shell, where there is such a user."""
    return epath.Path(os.path.expanduser(os.fspath(directory))).absolute()


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
    if "://" in name:
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
    """Write size and CRC-32 of every file of a step beside them; the first process does."""
    if jax.process_index():
        return
    value = dict(zip(names := _files(step), _map(functools.partial(_sum, step), names)))
    temporary = step / f".{NAME}.tmp"
    temporary.write_text(json.dumps(value))
    temporary.rename(step / NAME)


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
        if found != value[name]:
            return f"{name} {'is missing' if found is None else 'is not as it was saved'}"
    return ""


def _files(step: epath.Path) -> list[str]:
    root = os.fspath(step)
    return sorted(os.path.relpath(os.path.join(folder, name), root)
                  for folder, _, names in os.walk(root) for name in names
                  if NAME not in name)


def _sum(step: epath.Path, name: str) -> list[int] | None:
    """Size and CRC-32, or None where there is no such file."""
    size = total = 0
    try:
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
