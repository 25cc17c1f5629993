"""Metrics to TensorBoard event files and to JSON lines, under CLU's method names."""

from __future__ import annotations

import operator
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told
from fourd4d.core.journal import Journal, Layout
from fourd4d.core.storage import as_path, is_remote, send
from fourd4d.parallel import is_main

JSONL = "metrics.jsonl"


def _row(value: Any) -> Any:
    operator.index(value["step"])
    return value


_LAYOUT: Final = Layout("a file of metrics", row=_row, place="workdir", ascii=True, finite=False)


class MetricWriter:
    """Writes under ``directory`` on the main host; does nothing on the others.

    Event files come from tensorboardX; ``metrics.jsonl`` holds one object a call, with ``step``.
    For a directory in a bucket both are written locally, and sent now and then (``flush``).

    Args:
      directory: made if absent.
      start: first step of this run. What an earlier run wrote at or after it is dropped, because
        that run's steps are about to be repeated.

    Raises:
      InputError: the directory cannot be made or the disk is full.
    """

    def __init__(self, directory: str | os.PathLike[str], start: int = 0):
        self._events: Any = None
        self._lines: Journal | None = None
        self._path = as_path(directory) / JSONL
        self._events_folder: tempfile.TemporaryDirectory[str] | None = None
        self._sent: dict[str, int] = {}
        if not is_main():
            return
        from tensorboardX import SummaryWriter  # Slow to import.

        with full_disk_told(directory):
            try:
                if not is_remote(self._path):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise InputError(directory, f"no directory to write to ({error.strerror})",
                                 "Choose another workdir") from error
            # A host that was taken away may have left its lock behind on a network file system.
            self._lines = Journal(self._path, _LAYOUT, lock=False)
            self._lines.keep_only(lambda row: row["step"] < start)
            # Of a relative "gs:" and the like it would make a bucket.
            folder = str(self._path.parent.absolute())
            if is_remote(self._path):
                self._events_folder = tempfile.TemporaryDirectory(prefix="fourd4d-")
                folder = self._events_folder.name
            self._events = SummaryWriter(folder, purge_step=start or None)

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        assert self._lines is not None
        self._lines.append({"step": int(step), **values})

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Numbers at ``step``."""
        if self._lines is None:
            return
        values = {key: float(value) for key, value in scalars.items()}
        with full_disk_told(self._path):
            self._write(step, values)
            for key, value in values.items():
                self._events.add_scalar(key, value, step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Strings at ``step``, e.g. sampled responses."""
        if self._lines is None:
            return
        with full_disk_told(self._path):
            self._write(step, dict(texts))
            for key, text in texts.items():
                self._events.add_text(key, text, step)

    def flush(self, *, now: bool = False) -> None:
        """Has all on disk; in a bucket where it is time for it, or ``now``."""
        if self._lines is None:
            return
        with full_disk_told(self._path):
            self._events.flush()
            if self._lines.flush(now=now):
                self._send_events()

    def _send_events(self) -> None:
        if self._events_folder is None:
            return
        for file in sorted(Path(self._events_folder.name).iterdir()):
            size = file.stat().st_size
            if self._sent.get(file.name) != size:
                send(file, self._path.parent / file.name)
                self._sent[file.name] = size

    def close(self) -> None:
        if self._lines is None:
            return
        lines, self._lines = self._lines, None
        with full_disk_told(self._path):
            try:
                lines.close()
            finally:
                self._events.close()
                self._send_events()
                if self._events_folder is not None:
                    self._events_folder.cleanup()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
