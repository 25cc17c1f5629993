"""Cosine maps of shown items on disk, so that a resumed evaluation draws the same page."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fourd4d.core.files import replacing
from fourd4d.core.storage import as_path

Maps = Float[np.ndarray, "2 R slots rows columns"]


class MapStore:
    """One ``.npz`` file per item below ``directory``; item keys need not be file names."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = as_path(directory)

    def save(self, key: str, maps: Sequence[Maps]) -> None:
        """Plain and centred cosines of each mental image, kept in half precision."""
        arrays: Any = {f"{i:03d}": m.astype(np.float16) for i, m in enumerate(maps)}
        with replacing(self._path(key)) as temporary, temporary.open("wb") as out:
            np.savez_compressed(out, **arrays)

    def load(self, key: str) -> list[Maps]:
        """What was saved in float32; empty when nothing was."""
        path = self._path(key)
        if not path.exists():
            return []
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return [file[name].astype(np.float32) for name in sorted(file.files)]

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
