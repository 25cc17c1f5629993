"""The outcome of each video, one line each: written as it is known, read back to resume."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from fourd4d.core.errors import InputError
from fourd4d.core.journal import Journal, Layout, read

NAME = "manifest.jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """The outcome of one video.

    Attributes:
      video_id: unique in the manifest.
      status: ``done``, ``empty`` (read, but nothing could be asked), ``failed``.
      reason: why it failed or is empty.
      dropped: number of questions dropped, by reason.
      samples: the samples it gave, as JSON values.
      drawing: what a report draws, by clip: camera spans, path, tracks (``build.drawing``).
      notes: number of texts a model was asked for that stayed the template's, by reason.
    """

    video_id: str
    status: Literal["done", "empty", "failed"]
    reason: str = ""
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    drawing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_entries(root: str | os.PathLike[str]) -> dict[str, Entry]:
    """Return the outcomes recorded under ``root``, by video; a line cut short is left out.

    Raises InputError when there is no manifest.
    """
    path = Path(root) / NAME
    if not path.is_file():
        raise InputError(path, "no such file", "Give a folder that synthesis wrote")
    return _by_video(read(path, _LAYOUT)[1])


def _entry(value: Any) -> Entry:
    return Entry(**{**value, "samples": tuple(value["samples"])})


def _by_video(entries: Iterable[Entry]) -> dict[str, Entry]:
    return {entry.video_id: entry for entry in entries}


_LAYOUT: Final = Layout("a manifest", row=_entry, header="run", run="configuration",
                        remedy="Delete the line; its video will be done again")


class Manifest:
    """The journal of a run: its first line names the run, each other line a video's outcome.

    A line cut short by a crash is dropped, so its video is done again.
    """

    def __init__(self, root: str | os.PathLike[str], run: Mapping[str, Any]):
        """Open or start the manifest of ``root``.

        Raises InputError when ``root`` holds the manifest of a run with another config, or another
        process writes it.
        """
        self._journal = Journal(Path(root) / NAME, _LAYOUT, {"run": dict(run)})
        self.entries = _by_video(self._journal.rows)

    def add(self, entry: Entry) -> None:
        """Record an outcome; it is on disk when this returns."""
        self._journal.append(dataclasses.asdict(entry))
        self.entries[entry.video_id] = entry

    def close(self) -> None:
        self._journal.close()
