"""Which files a run takes, and what each is called."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError

SUFFIXES: Final = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .3gp .flv .wmv .ogv .gif".split())
# A stem that is a name as it is: nothing that a clip's number or a digest could end.
_PLAIN: Final = re.compile(r"(?!.*(?:_\d{4}|-[0-9a-f]{8})$)\w(?:[\w .+()-]*[\w)])?")


def find_videos(source: str | os.PathLike[str]) -> dict[str, Path]:
    """Return files by name, in the order of their paths: the file itself, or all below a folder.

    Links are followed, each file is taken once. See ``name_of`` for names. Raises InputError when
    there is nothing to take.
    """
    root = Path(source)
    if root.is_file():
        return {name_of(root.name): root}
    if not str(source) or not root.is_dir():
        raise InputError("config.input", f"no such file or folder: {str(source)!r}",
                         "Give a video file or a folder of them")
    files = {relative: root / relative for relative in _relative_paths(root)}
    if not files:
        raise InputError(root, "no video files below this folder",
                         f"Known suffixes: {', '.join(sorted(SUFFIXES))}")
    return {name_of(relative): path for relative, path in files.items()}


def name_of(relative: str) -> str:
    """Return the name of a video by its path below the folder, whatever else lies there.

    A plain ``NAME.mp4`` in the folder itself is called NAME. Any other file has a digest of its
    path in its name, so that no two files, and no clip of another, are called the same.
    """
    stem, suffix = os.path.splitext(relative)
    if suffix == ".mp4" and _PLAIN.fullmatch(stem):
        return stem
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    words = re.sub(r"[^\w.+-]+", "-", stem.encode("utf-8", "replace").decode()).strip("-.")[-80:]
    return f"{words or 'video'}-{digest}"


def other_names(path: Path, root: Path) -> tuple[str, ...]:
    """Return what else files that belong to a video may be called: its path without the suffix."""
    inside = path.relative_to(root) if path != root and path.is_relative_to(root) else path.name
    return (os.path.splitext(inside)[0],)


def named_before(source: str | os.PathLike[str], known: Iterable[str]) -> str | None:
    """Return a name among ``known`` that an earlier version gave to a file of another name now."""
    taken = find_videos(source)
    for name, path in taken.items():
        root = Path(source)
        inside = path.relative_to(root) if path != root else Path(path.name)
        for old in (path.stem, "-".join(inside.parts).replace(".", "-")):
            if old != name and old in known and old not in taken:
                return old
    return None


def _relative_paths(root: Path) -> Iterator[str]:
    """Video files below a folder, sorted; real ones before links to them, each once."""
    found: list[tuple[bool, str, str]] = []
    _walk(os.fspath(root), "", False, (), found)
    real: dict[str, str] = {}
    for _, relative, target in sorted(found):
        real.setdefault(target, relative)
    yield from sorted(real.values())


def _walk(folder: str, relative: str, linked: bool, above: tuple[str, ...],
          found: list[tuple[bool, str, str]]) -> None:
    here = os.path.realpath(folder)
    if here in above:  # A link to a folder that holds it.
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(folder, f"it cannot be listed ({error.strerror})",
                         "Check its permissions") from error
    for entry in entries:
        inside = os.path.join(relative, entry.name)
        through = linked or entry.is_symlink()
        # A link to nothing is taken too, and then fails by its name; os.path passes over loops.
        if os.path.isdir(entry.path):
            _walk(entry.path, inside, through, (*above, here), found)
        elif (not entry.name.startswith(".")
              and (os.path.isfile(entry.path) or not os.path.exists(entry.path))
              and os.path.splitext(entry.name)[1].lower() in SUFFIXES):
            found.append((through, inside, os.path.realpath(entry.path)))
