"""Plain names for folders whose own names Orbax misreads."""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any

from etils import epath

from fourd4d.core.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]*")
_LONGEST = 1024  # Orbax adds names of its own; paths end at 4096 bytes.
_links: dict[str, tuple[Any, str]] = {}


def expanded(path: str | os.PathLike[str]) -> epath.Path:
    """The absolute path; ``~`` is the home, as in a shell. Links stay."""
    return epath.Path(os.path.expanduser(os.fspath(path))).absolute()


def plain(folder: epath.Path) -> epath.Path:
    """A path to ``folder`` that holds only letters, digits and ``_./+-``.

    Orbax takes ``[``, ``]``, ``*`` and ``?`` in a path for a pattern and other marks for parts of a
    URL: what it writes cannot be read again. Such a folder is made, and reached by a link in the
    folder for temporary files that lives as long as this process.

    Raises:
      InputError: a bucket with such a name, or nowhere to put the link.
    """
    name = os.fspath(folder)
    scheme, mark, rest = name.partition("://")
    if _PLAIN.fullmatch(rest if mark else name) and len(os.fsencode(name)) <= _LONGEST:
        return folder
    if mark:
        raise InputError(name, "checkpoints cannot be kept under this name",
                         "Use letters, digits, '_', '-', '+' and '.'")
    if name not in _links:
        base = next((place for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")
                     if _PLAIN.fullmatch(place) and os.access(place, os.W_OK)), None)
        if base is None:
            raise InputError(name, "checkpoints cannot be kept under this name, and there is no "
                             "folder for temporary files", "Use letters, digits, '_', '-' and '.'")
        holder = tempfile.TemporaryDirectory(prefix="fourd4d-", dir=base)
        _links[name] = holder, os.path.join(holder.name, "checkpoints")
    link = _links[name][1]
    if not os.path.islink(link):  # New, or tidied away during a long run.
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(name, link)
    return epath.Path(link)
