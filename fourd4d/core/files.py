"""Files that appear whole or not at all, and JSON objects. No JAX here: data workers use it too."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well, else removed.

    Folders are made as needed. Readers see the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    except ValueError as error:
        raise InputError(path, f"malformed JSON ({error})", "Mend it") from error
    if not isinstance(value, dict):
        raise InputError(path, "no JSON object", "Mend it")
    return value
