"""Config files that import their siblings, from any working directory."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGE: Final = "configs"
"""By this name a config imports its siblings: ``from configs import rl_tiny``."""

SHIPPED: Final = Path(__file__).resolve().parents[2] / PACKAGE
"""The repository's own configs; absent from an installed wheel."""


@contextlib.contextmanager
def importable(file: str | os.PathLike[str]) -> Iterator[None]:
    """While a config file is loaded, ``configs`` is the folder that it lies in.

    Looked through in turn: the file's folder, those above it up to one named ``configs``, the
    shipped configs. A file never finds itself, so that it may build on a shipped config of its own
    name. Modules in the file's folder, and that folder by its own name, can be imported too unless
    something else has that name. What was imported as ``configs`` before is back afterwards.
    """
    file = Path(file).resolve()
    finder = _Finder(file)
    known = dict(sys.modules)
    before = {name: module for name, module in known.items() if _is_config(name)}
    for name in before:
        del sys.modules[name]
    after = [os.fspath(file.parent), os.fspath(file.parent.parent)]  # Nothing is shadowed.
    sys.meta_path.insert(0, finder)
    sys.path += after
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for folder in after:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
        for name, module in list(sys.modules.items()):
            if _is_config(name) or (name not in known and _folder(module) == file.parent):
                del sys.modules[name]
        sys.modules.update(before)


def _is_config(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _folder(module: ModuleType) -> Path | None:
    origin = getattr(module, "__file__", None)
    return Path(origin).parent if origin else None


def _folders(file: Path) -> list[Path]:
    """Where the siblings of a config file are looked for, in order."""
    above = [file.parent, *file.parent.parents]
    top = next((i for i, folder in enumerate(above) if folder.name == PACKAGE), 0)
    return [*above[: top + 1], SHIPPED]


class _Finder:
    """Finds the package ``configs`` of one config file and its modules."""

    def __init__(self, file: Path):
        self.file, self.folders = file, _folders(file)

    def find_spec(self, name: str, path: Iterable[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        del target
        if name == PACKAGE:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [os.fspath(f) for f in self.folders if f.is_dir()]
            return spec
        if name.rpartition(".")[0] != PACKAGE:
            return None
        for folder in path or ():
            found = importlib.machinery.PathFinder.find_spec(name, [folder])
            if found is not None and (found.origin is None or Path(found.origin) != self.file):
                return found
        return None

