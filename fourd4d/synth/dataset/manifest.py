"""One line a video: what became of it. Written as it happens, read back to resume."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told, parse_json

NAME = "manifest.jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """The outcome of one video.

    Attributes:
      video_id: unique in the manifest.
      status: ``done``, ``empty`` (sound, but nothing could be asked), ``failed``.
      reason: why it failed or is empty.
      dropped: number of questions dropped, by reason.
      samples: the samples it gave, as JSON values.
      drawing: what a report draws, by clip: camera spans, path, tracks (``build.drawing``).
      notes: words that a model was asked for and that stayed the template's, by reason.
    """

    video_id: str
    status: Literal["done", "empty", "failed"]
    reason: str = ""
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    drawing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_entries(root: str | os.PathLike[str]) -> dict[str, Entry]:
    """The outcomes recorded under ``root``; a line cut short is left out.

    Raises InputError when there is no manifest.
    """
    path = Path(root) / NAME
    if not path.is_file():
        raise InputError(path, "no such file", "Give a folder that synthesis wrote")
    return _parse(path)[1]


def _parse(path: Path) -> tuple[Mapping[str, Any] | None, dict[str, Entry], int]:
    """The run, the entries, and the number of sound bytes."""
    run, entries, sound = None, {}, 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                value = parse_json(line, f"{path}:{number}")
                if number == 1:
                    run = value["run"]
                else:
                    entry = Entry(**{**value, "samples": tuple(value["samples"])})
                    entries[entry.video_id] = entry
            except InputError:
                raise
            except (KeyError, TypeError) as error:
                raise InputError(f"{path}:{number}", f"no manifest line ({error})",
                                 "Delete the line; its video will be done again") from error
            sound += len(line)
    return run, entries, sound


class Manifest:
    """Append-only record of a run, one JSON object a line; the first line names the run.

    A line cut short by a crash is dropped, so its video is done again.
    """

    def __init__(self, root: str | os.PathLike[str], run: Mapping[str, Any]):
        """Opens or starts the manifest of ``root``.

        Raises InputError when ``root`` holds the manifest of a run with another config.
        """
        self._path = Path(root) / NAME
        self.entries: dict[str, Entry] = {}
        head = json.loads(json.dumps(dict(run)))
        sound = 0
        if self._path.is_file():
            old, self.entries, sound = _parse(self._path)
            if old is not None and old != head:
                raise InputError(self._path, "this folder holds data of another configuration: "
                                 f"{_difference(old, head)}",
                                 "Choose another output folder, or delete this one")
            os.truncate(self._path, sound)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        if sound == 0:
            self._line({"run": head})

    def add(self, entry: Entry) -> None:
        """Records an outcome; it is on disk when this returns."""
        self._line(dataclasses.asdict(entry))
        self.entries[entry.video_id] = entry

    def _line(self, value: Mapping[str, Any]) -> None:
        with full_disk_told(self._path):
            self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        with full_disk_told(self._path):
            self._file.close()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    return ", ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in keys[:3])
