"""Append-only JSONL files that a stopped run goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told, parse_json, replacing
from fourd4d.core.storage import Mirror, as_path, is_remote
from fourd4d.core.terminal import say

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the lines of one sort of journal hold.

    Attributes:
      name: what messages call such a file, with its article: ``an evaluation log``.
      row: turns a line's value into a row; KeyError and TypeError say that it is not one.
      header: key that the first line must have; empty for a file without a header.
      run: what messages call that which headers tell apart.
      place: what a user changes to have another file: ``output folder``.
      remedy: what to do about a damaged line.
      ascii: write other characters as escapes.
      finite: refuse NaN and infinities where a file is read.
    """

    name: str
    row: Callable[[Any], Any] = lambda value: value
    header: str = ""
    run: str = "run"
    place: str = "output folder"
    remedy: str = "Delete the line"
    ascii: bool = False
    finite: bool = True

    def line(self, value: Any, *, allow_nan: bool = True) -> bytes:
        """Return the line that holds a JSON value.

        Raises TypeError or ValueError where no such line can hold it.
        """
        return (json.dumps(value, ensure_ascii=self.ascii, allow_nan=allow_nan) + "\n").encode()


def read(path: str | os.PathLike[str], layout: Layout) -> tuple[Any, list[Any]]:
    """Return header and rows of a journal that another process may be writing.

    The header is None where there is none yet; a line cut short at the end is left out.

    Raises InputError, naming file and line, for what is not a line of such a file.
    """
    header, rows = None, []
    path = as_path(path)
    for is_header, value, _ in _parsed(path, path, layout):
        if is_header:
            header = value
        else:
            rows.append(value)
    return header, rows


def _parsed(path: Path, name: Path, layout: Layout) -> Iterator[tuple[bool, Any, bytes]]:
    """Of every whole line: whether it is the header, what it holds, its bytes.

    Args:
      name: what errors call the file.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            where = f"{name}:{number}"
            value = parse_json(line, where, layout.remedy, finite=layout.finite)
            is_header = bool(layout.header) and number == 1
            try:
                if is_header:
                    value[layout.header]
                else:
                    value = layout.row(value)
            except (KeyError, TypeError) as error:
                raise _foreign(where, layout) from error
            yield is_header, value, line


def _foreign(where: str, layout: Layout) -> InputError:
    return InputError(where, f"it is not a line of {layout.name}",
                      f"{layout.remedy}, or choose another {layout.place}")


def _difference(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields that differ, as ``a.b was 1, is 2``."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {_SHORT.repr(old)}, is {_SHORT.repr(new)}"]
    return [line for key in sorted({*old, *new}) for line in _difference(
        old.get(key), new.get(key), f"{where}.{key}" if where else key)]


class Journal:
    """An open journal: rows are appended as they come about, and found again after a stop.

    A line that a kill left half-written is cut off when the file is opened again. One process at a
    time may hold a journal, by a lock on the file that ends with the process. In a bucket, which
    has neither appending nor locks, the file is sent anew now and then (``core.storage.Mirror``).

    Attributes:
      path: the file.
      rows: those that stood in the file when it was opened, less what ``keep_only`` took out.
    """

    def __init__(self, path: str | os.PathLike[str], layout: Layout,
                 header: Mapping[str, Any] | None = None, *, lock: bool = True,
                 sync: bool = False):
        """Open or start the journal at ``path``; folders are made as needed.

        Args:
          header: JSON value of the first line; the same when the journal is opened again.
          lock: whether to hold the file against other processes.
          sync: whether rows shall outlast a crash of the machine, not only of the process.

        Raises:
          InputError: the file has another header, is damaged, is not such a journal (it is left as
            it is), or another process holds it.
        """
        self.path, self._layout, self._sync = as_path(path), layout, sync
        self._mirror = Mirror(self.path) if is_remote(self.path) else None
        self._local = self.path if self._mirror is None else self._mirror.local
        self._lock = lock and self._mirror is None  # A mirror's file is this process's own.
        self._header: Any = None if header is None else json.loads(json.dumps(header))
        self.rows: list[Any] = []
        with full_disk_told(self.path):
            self._local.parent.mkdir(parents=True, exist_ok=True)
        self._file: io.FileIO | None = self._opened()
        try:
            self._resume(self._file)
        except BaseException:
            self.close()
            raise

    def _opened(self) -> io.FileIO:
        while True:
            file = self._local.open("a+b", buffering=0)
            try:
                if not self._lock:
                    return file
                self._take(file)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._local)):
                    return file
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()  # Another process has just put a new file in its place.

    def _take(self, file: io.FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(self.path, f"another process writes {self._layout.name} there",
                             f"Wait for it, or choose another {self._layout.place}") from error
        except OSError as error:  # Some network file systems have no locks.
            say(f"{self.path}: it cannot be locked ({error.strerror}). Let no other process "
                "write there.", stderr=True)

    def _resume(self, file: io.FileIO) -> None:
        whole = 0
        for is_header, value, line in _parsed(self._local, self.path, self._layout):
            whole += len(line)
            if not is_header:
                self.rows.append(value)
            elif value != self._header:
                raise InputError(
                    self.path, f"it belongs to another {self._layout.run} "
                    f"({', '.join(self._difference(value)[:3])})",
                    f"Choose another {self._layout.place}, or delete this file")
        first = b"" if self._header is None else self._layout.line(self._header)
        file.seek(whole)
        if not whole and first and not first.startswith(file.read()):
            raise _foreign(f"{self.path}:1", self._layout)
        file.truncate(whole)
        if not whole and first:
            self._write(first)

    def _difference(self, found: Any) -> list[str]:
        only = {self._layout.header}
        if set(found) == set(self._header) == only:  # Its own name says nothing then.
            return _difference(*(header[self._layout.header] for header in (found, self._header)))
        return _difference(found, self._header)

    def append(self, *rows: Any) -> None:
        """Write rows, JSON values: a kill of this process no longer takes them away.

        Raises DiskFullError, or TypeError or ValueError where a row could not be read again; then
        none of them is in the file.
        """
        if rows:
            self._write(b"".join([self._layout.line(row, allow_nan=not self._layout.finite)
                                  for row in rows]))
            self.flush()

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        before = self._file.seek(0, os.SEEK_END)
        with full_disk_told(self.path):
            try:
                while lines:
                    lines = lines[self._file.write(lines):]
                if self._sync:
                    os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(before)  # What follows must not go on in half a line.
                raise

    def keep_only(self, wanted: Callable[[Any], bool]) -> None:
        """Take the rows out that are not ``wanted``; a kill leaves the old file or the new one."""
        kept = [parsed for parsed in _parsed(self._local, self.path, self._layout)
                if parsed[0] or wanted(parsed[1])]
        rows = [value for is_header, value, _ in kept if not is_header]
        if len(rows) == len(self.rows):
            return
        with contextlib.ExitStack() as stack:
            with replacing(self._local) as draft:
                draft.write_bytes(b"".join(line for _, _, line in kept))
                new = stack.enter_context(draft.open("a+b", buffering=0))
                if self._lock:
                    self._take(new)
            stack.pop_all()
        self._release()
        self._file, self.rows = new, rows

    def flush(self, *, now: bool = False) -> bool:
        """Send the rows to the bucket that holds the file, where it is time or ``now``.

        Returns:
          Whether it was time; rows in a local file are there already.
        """
        due = self._mirror is not None and (now or self._mirror.due())
        if self._mirror is not None:
            self._mirror.send(now=now)
        return due

    def close(self) -> None:
        """Let go of the file; another may open it."""
        try:
            self._release()
        finally:
            mirror, self._mirror = self._mirror, None
            if mirror is not None:
                mirror.close()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        if self._lock:
            fcntl.flock(file, fcntl.LOCK_UN)  # A forked worker may hold a copy of the file.
        with full_disk_told(self.path):
            file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
