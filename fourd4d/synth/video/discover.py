"""Which files a run takes, and what each is called."""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError

SUFFIXES: Final = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .3gp .flv .wmv .ogv .gif".split())


def find_videos(source: str | os.PathLike[str]) -> dict[str, Path]:
    """Files by name, sorted: the file itself, or all video files below a folder.

    The name is the file's stem; where several files share one, the folders and the suffix are in
    it too. Raises InputError when there is nothing to take.
    """
    root = Path(source)
    if root.is_file():
        return {root.stem: root}
    if not str(source) or not root.is_dir():
        raise InputError("config.input", f"no such file or folder: {str(source)!r}",
                         "Give a video file or a folder of them")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
                   and not p.name.startswith("."))
    if not files:
        raise InputError(root, "no video files below this folder",
                         f"Known suffixes: {', '.join(sorted(SUFFIXES))}")
    stems = collections.Counter(p.stem for p in files)
    out: dict[str, Path] = {}
    for path in files:
        name = path.stem
        if stems[name] > 1:
            name = "-".join(path.relative_to(root).parts).replace(".", "-")
        while name in out:
            name += "-"
        out[name] = path
    return out
