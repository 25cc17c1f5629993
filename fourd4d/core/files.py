"""Files that appear whole or not at all, and JSON objects. No JAX here: data workers use it too."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fourd4d.core.errors import DiskFullError, InputError, text_of
from fourd4d.core.storage import as_path, is_remote, send

# Deeper values, copied or written again, come to Python's own limit.
_LEVELS: Final = 100
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
MOST_ARRAY_BYTES: Final = 16 << 30
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the libraries say whose errors carry no number.
_FULL_WORDS: Final = ("No space left", "Disk quota exceeded", "File too large", "ENOSPC")


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or quota, or a file that may not grow, is behind an error."""
    return (isinstance(error, DiskFullError) or getattr(error, "errno", None) in _FULL
            or any(words in text_of(error) for words in _FULL_WORDS))


@contextlib.contextmanager
def full_disk_told(where: object) -> Iterator[None]:
    """A full disk becomes a DiskFullError that says so; other errors pass."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(where, "no space left on the disk",
                            "Free some space, then give the same command again") from error


@contextlib.contextmanager
def file_errors_told(field_of: Callable[[str], str] = lambda file: "") -> Iterator[None]:
    """Turn a file or folder that cannot be used into an InputError; errors that name none pass.

    Args:
      field_of: the flag or field that a file comes from, named in the error; empty for none.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str | bytes):
            raise
        file = os.fsdecode(error.filename)
        field = field_of(file)
        raise InputError(file, f"it cannot be used ({error.strerror or error})",
                         f"Choose another {field or 'path'}, or change its permissions") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well, else removed.

    Folders are made as needed. Readers see the old file or the new one, never a part; of several
    processes or threads that write one file at once, the last to finish wins. For a file in a
    bucket it is a local name, sent at the end. Raises DiskFullError, and InputError where a bucket
    takes nothing.
    """
    path = as_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="fourd4d-") as folder, full_disk_told(folder):
            draft = Path(folder) / path.name
            yield draft
            send(draft, path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_arrays(path: str | os.PathLike[str], remedy: str = "Give a NumPy archive"
                ) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name, or of an npy file under the empty name.

    Raises InputError for whatever else is there: a broken or truncated file, pickled objects, more
    than ``MOST_ARRAY_BYTES``.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
            if total > MOST_ARRAY_BYTES:
                raise ValueError(f"{total / 1e9:.1f} GB of arrays")
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return {"": data}
        with data:
            stored = {key: data[key] for key in data.files}
        for key, value in stored.items():
            if not isinstance(value, np.ndarray):  # Any other member comes as its bytes.
                raise ValueError(f"{key!r} is not an array")
        return stored
    except Exception as error:  # zipfile, zlib and NumPy have many of their own.
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(path, f"it is not a readable array file ({what})", remedy) from error


def parse_json(text: str | bytes, where: object, remedy: str = "Fix or delete it", *,
               finite: bool = True) -> Any:
    """Return the JSON value in a text.

    It can be copied, and written as JSON and as UTF-8 again. Bytes may begin with a byte order
    mark. Unless ``finite``, the words NaN, Infinity and -Infinity are numbers.

    Raises InputError, naming ``where``, for anything else: malformed text, more than 100 levels,
    a number too large to be one, NaN and infinities, half a surrogate pair, bytes not UTF-8.
    """
    try:
        text = text if isinstance(text, str) else bytes(text).decode("utf-8-sig")
        value = json.loads(text, parse_int=_integer, parse_float=_finite,
                           parse_constant=_finite if finite else None)
        if text.count("[") + text.count("{") > _LEVELS and _deeper(value, _LEVELS):
            raise RecursionError
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError as error:
        raise InputError(where, "the JSON is nested too deeply", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(where, f"it is not UTF-8 text ({error.reason})",
                         "Save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError(where, "malformed JSON (half a surrogate pair in a text)",
                         remedy) from error
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(where, f"malformed JSON ({what})", remedy) from error


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level if isinstance(outer, list | dict)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return any(isinstance(value, list | dict) for value in level)


def _integer(digits: str) -> int:
    if len(digits) > 300:  # More than any float holds.
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is not finite")
    return value


@contextlib.contextmanager
def readable(where: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses to read becomes an InputError that names the file."""
    try:
        yield
    except OSError as error:
        what = {errno.EISDIR: "it is a folder"}.get(
            error.errno or 0, f"it cannot be read ({error.strerror or error})")
        raise InputError(error.filename or where, what, "Check its permissions" if error.errno in (
            errno.EACCES, errno.EPERM) else "Copy it again") from error


def read_object(path: str | os.PathLike[str], remedy: str, damaged: str = "Fix or delete it", *,
                holding: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file.

    Raises InputError, naming the file: there is none (``remedy``), it is not JSON (``parse_json``),
    not an object, or has not the keys ``holding`` (``damaged``).
    """
    path = as_path(path)
    with readable(path):
        if path.is_dir():
            raise InputError(path, "it is a folder, not a file", remedy)
        if not path.is_file():
            raise InputError(path, "no such file", remedy)
        data = path.read_bytes()
    value = parse_json(data, path, damaged)
    if not isinstance(value, dict):
        raise InputError(path, f"it holds {type(value).__name__}, not a JSON object", damaged)
    if lacking := [key for key in holding if key not in value]:
        raise InputError(path, f"it holds no {', '.join(map(repr, lacking))}", damaged)
    return value
