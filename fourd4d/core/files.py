"""Files that appear whole or not at all, and JSON objects. No JAX here: data workers use it too."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import DiskFullError, InputError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the libraries say whose errors carry no number.
_FULL_WORDS: Final = ("No space left", "Disk quota exceeded", "File too large", "ENOSPC")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def is_disk_full(error: Exception) -> bool:
    """Whether a full disk or quota, or a file that may not grow, is behind an error."""
    return getattr(error, "errno", None) in _FULL or any(w in str(error) for w in _FULL_WORDS)


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
def unreadable_told(where: object) -> Iterator[None]:
    """A file or folder that may not be read becomes an InputError; other errors pass."""
    try:
        yield
    except PermissionError as error:
        raise InputError(error.filename or where, f"cannot be read ({error.strerror})",
                         "Allow yourself to read it, or give another") from error


@contextlib.contextmanager
def file_errors_told(field_of: Callable[[str], str] = lambda file: "") -> Iterator[None]:
    """A file or folder that cannot be used becomes an InputError; errors that name none pass.

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
        raise InputError(file, f"{error.strerror or error}{f' ({field})' if field else ''}",
                         f"Fix it, or give another {field or 'path'}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well, else removed.

    Folders are made as needed. Readers see the old file or the new one, never a part; of several
    processes or threads that write one file at once, the last to finish wins. Raises DiskFullError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def parse_json(data: bytes | str, where: object, remedy: str = "Fix it", *,
               finite: bool = True, levels: int = 100) -> Any:
    """The value of a JSON text that comes from outside; bytes are UTF-8, with or without a mark.

    What it gives can be copied, and written as JSON and UTF-8 again; its numbers fit a float.

    Args:
      finite: False lets NaN and Infinity pass, which this package's own logs may hold.
      levels: most objects and lists inside each other.

    Raises:
      InputError: naming ``where``: not UTF-8, malformed, too deep, a number that is too large,
        NaN or Infinity, or a text with half a surrogate pair.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8-sig")
        value = json.loads(text, parse_int=_int, parse_float=_float if finite else float,
                           parse_constant=_constant if finite else float)
        if text.count("[") + text.count("{") > levels and _deeper(value, levels):
            raise RecursionError
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f" at line {error.lineno}, column {error.colno}"
        raise InputError(where, f"malformed JSON ({error.msg}{place})", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(where, f"not UTF-8 text ({error.reason})",
                         "Save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError(where, "malformed JSON (half a surrogate pair in a text)",
                         remedy) from error
    except RecursionError:
        raise InputError(where, f"malformed JSON (nested more than {levels} levels deep)",
                         remedy) from None
    except ValueError as error:
        raise InputError(where, f"malformed JSON ({error})", remedy) from None
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"a number is too large: {_short(text)}")
    return value


def _int(text: str) -> int:
    if len(text) > 300:  # Python refuses to convert thousands of digits.
        _float(text)
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:12]}… ({len(text)} characters)"


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level if isinstance(outer, list | dict)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return any(isinstance(value, list | dict) for value in level)


def read_json(path: str | os.PathLike[str], remedy: str = "Fix it") -> Any:
    """The JSON value in a file. Raises InputError: unreadable, or as ``parse_json``."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from error
    return parse_json(data, path)


def read_object(path: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      InputError: no such file (``remedy`` says what to do), not an object, or as ``parse_json``.
    """
    if not Path(path).is_file():
        raise InputError(path, "no such file", remedy)
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(path, f"not a JSON object but {type(value).__name__}", "Fix it")
    return value
