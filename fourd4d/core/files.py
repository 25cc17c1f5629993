"""Files that appear whole or not at all, and JSON objects. No JAX here: data workers use it too."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import DiskFullError, InputError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the libraries say whose errors carry no number.
_FULL_WORDS: Final = ("No space left", "Disk quota exceeded", "File too large", "ENOSPC")


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


def read_object(path: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError: no such file (``remedy``), or no object."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", remedy)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"malformed JSON ({error})", "Mend it") from error
    if not isinstance(value, dict):
        raise InputError(path, "no JSON object", "Mend it")
    return value
