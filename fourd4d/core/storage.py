"""Paths outside the local disk: ``gs://BUCKET/…``, through ``etils.epath``. No JAX here.

A bucket holds whole objects: none is appended to, renamed or locked, folders are parts of names.
So what is written appears whole by itself (``core.files.replacing``), and what grows is a local
file that is sent now and then (``Mirror``). Libraries that open files by name get a copy.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import posixpath
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import InputError, one_line

CACHE: Final = "FOURD4D_CACHE"
"""Environment variable: folder of the copies; by default ``fourd4d`` in the user's cache folder."""

_SCHEME: Final = re.compile(r"([a-z][a-z0-9]*)://")
_OTHERS: Final = ("s3", "az", "abfs", "hf", "hdfs", "http", "https", "file", "gcs")
_CHUNK: Final = 16 << 20
_SPACE: Final = 1 << 30  # Bytes of the disk that a copy leaves free.
_PAUSE, _SHARE = 15.0, 20  # Seconds between two sendings, and their part of the time: 1 / 20.


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads into a bucket."""
    return os.fspath(path).startswith("gs://")


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return the path that a text of a config or of the command line means.

    Below ``gs://`` it is a ``core.bucket_path.BucketPath``, whose methods are epath's.

    Raises:
      InputError: another scheme (``s3://``), no bucket, or no library that reads buckets.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1] not in ("gs", *_OTHERS):
        return path if isinstance(path, Path) else Path(text)
    if scheme[1] != "gs":
        raise InputError(text, f"{scheme[0]} paths cannot be used",
                         "Give a local path, or gs://BUCKET/FOLDER")
    if not text[len("gs://"):].strip("/").split("/")[0] or text.startswith("gs:///"):
        raise InputError(text, "it names no bucket", "Give gs://BUCKET/FOLDER")
    return _bucket_path()(text)


def home(path: str | os.PathLike[str]) -> Path:
    """As ``as_path``; ``~`` is the home, as in a shell, where there is such a user."""
    return as_path(path if is_remote(path) else os.path.expanduser(path))


@functools.cache
def _bucket_path() -> type[Path]:
    if not any(map(importlib.util.find_spec, ("gcsfs", "tensorflow"))):
        raise InputError("gs://", "no library that reads buckets is installed",
                         "Install it with: pip install 'fourd4d[gcs]'")
    if importlib.util.find_spec("fsspec"):
        import fsspec.config

        # Otherwise a listing is remembered for good, and what other processes write is not seen.
        for name in ("gcs", "gs"):
            fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    from fourd4d.core.bucket_path import BucketPath

    return BucketPath


def local_only(path: str | os.PathLike[str], what: str) -> Path:
    """Return a local path. Raises InputError, naming ``what`` lies there, for one in a bucket."""
    found = as_path(path)
    if is_remote(found):
        raise InputError(found, f"{what} cannot lie in a bucket",
                         "Give a local folder, and copy it with: gcloud storage cp -r")
    return found


def below(root: str, relative: str) -> str | None:
    """``root / relative`` in a bucket, or None where that leaves the root."""
    path = "gs://" + posixpath.normpath(posixpath.join(root, relative)[len("gs://"):].lstrip("/"))
    return path if path.startswith(root.rstrip("/") + "/") else None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Write, read and delete an object below a remote path; nothing to do for a local one.

    Raises InputError where that fails: no such bucket, no permission, no credentials.
    """
    if not is_remote(path):
        return
    probe, said = as_path(path) / f".writable-{uuid.uuid4().hex}", b"fourd4d"
    with _told(path, "nothing can be written there", "Check that the bucket exists and that this "
               "machine's account may write to it; to sign in: gcloud auth application-default "
               "login"):
        probe.write_bytes(said)
        if probe.read_bytes() != said:
            raise OSError("what was written is not what was read")
        probe.unlink()


@contextlib.contextmanager
def _told(path: object, what: str, remedy: str) -> Iterator[None]:
    """What a bucket's libraries raise has many types, and becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(path, f"{what} ({one_line(error)})", remedy) from error


def send(local: Path, target: str | os.PathLike[str]) -> None:
    """Write a file's content to a remote path, whole or not at all. Raises InputError."""
    with _told(target, "it cannot be written",
               "Check the bucket and the connection, then give the same command again"):
        as_path(target).write_bytes(local.read_bytes())


def files_below(path: Path) -> list[str]:
    """Names of all files below a folder, local or remote, relative to it, sorted."""
    found = []
    for entry in path.iterdir():
        if entry.is_dir():
            found += [f"{entry.name}/{name}" for name in files_below(entry)]
        else:
            found.append(entry.name)
    return sorted(found)


@contextlib.contextmanager
def local_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A local path itself; of a remote file, a copy for the time of the block.

    Raises InputError where there is no such remote file or it cannot be read.
    """
    source = as_path(path)
    if not is_remote(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="fourd4d-") as folder:
        yield _fetch(source, Path(folder) / source.name)


def local_copy(path: str | os.PathLike[str]) -> Path:
    """A local path itself; of a remote file or folder, a copy that is kept and used again.

    Files are told apart by their path, size and time of change. Copies lie below
    ``$FOURD4D_CACHE``.

    Raises InputError: no such remote path, it cannot be read, or the disk lacks the space.
    """
    source = as_path(path)
    if not is_remote(source):
        return source
    with _told(source, "it cannot be read", "Check the path, and that this machine's account may "
               "read it"):
        names = files_below(source) if source.is_dir() else [""]
        if not names or (names == [""] and not source.exists()):
            raise InputError(source, "no such file or folder", "Check the path")
        stats: dict[str, Any] = {name: _part(source, name).stat() for name in names}
    versions = [(name, stat.length, stat.mtime) for name, stat in stats.items()]
    digest = hashlib.sha256(repr((os.fspath(source), versions)).encode()).hexdigest()[:24]
    target = _cache() / digest / source.name
    missing = {name: stat.length for name, stat in stats.items()
               if not _part(target, name).exists()}
    if missing:
        target.parent.mkdir(parents=True, exist_ok=True)
        free, need = shutil.disk_usage(target.parent).free, sum(missing.values())
        if free < need + _SPACE:
            raise InputError(source, f"a copy takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
                             f"free in {_cache()}", f"Set {CACHE} to a folder with more space, or "
                             "mount the bucket with gcsfuse")
    for name in missing:
        _fetch(_part(source, name), _part(target, name))
    return target


def _part(path: Path, name: str) -> Path:
    return path / name if name else path


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get(CACHE) or os.path.join(base, "fourd4d"))


def _fetch(source: Path, target: Path) -> Path:
    draft = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _told(source, "it cannot be read", "Check the path and the connection"):
            with source.open("rb") as stream, draft.open("wb") as out:
                shutil.copyfileobj(stream, out, _CHUNK)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


class Mirror:
    """A local file that grows, and its remote copy, which is sent anew now and then.

    A kill loses what came since the last ``send``; ``close`` sends the rest.

    Attributes:
      target: the remote file.
      local: its stand-in, with the target's content at the beginning.
    """

    def __init__(self, target: Path):
        """Raises InputError where the target is there and cannot be read."""
        self.target = target
        self._folder = tempfile.TemporaryDirectory(prefix="fourd4d-")
        self.local = Path(self._folder.name) / target.name
        self._next = 0.0
        with _told(target, "it cannot be read", "Check that the bucket exists and that this "
                   "machine's account may use it"):
            if target.exists():
                self.local.write_bytes(target.read_bytes())
            self._left = self._seen()
        self._sent = self._size()

    def due(self) -> bool:
        """Whether enough time has passed since the last sending."""
        return time.monotonic() >= self._next

    def send(self, *, now: bool = False) -> None:
        """Send the file where it is due, or ``now``.

        Raises InputError where that fails, or another process has written the target.
        """
        size = self._size()
        if size == self._sent or not (now or self.due()):
            return
        began = time.monotonic()
        if self._seen() != self._left:
            raise InputError(self.target, "another process writes there",
                             "Wait for it, or choose another folder")
        send(self.local, self.target)
        self._left, self._sent = self._seen(), size
        self._next = time.monotonic() + max(_PAUSE, _SHARE * (time.monotonic() - began))

    def close(self) -> None:
        """Send what is new, and remove the stand-in."""
        try:
            self.send(now=True)
        finally:
            self._folder.cleanup()

    def _size(self) -> Any:
        try:
            stat = os.stat(self.local)
        except FileNotFoundError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _seen(self) -> Any:
        try:
            stat: Any = self.target.stat()
        except FileNotFoundError:
            return None
        return stat.length, stat.mtime
