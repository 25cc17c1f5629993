"""Rows that cannot be used: left out, named and counted, and how many may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging

from fourd4d.core.errors import InputError, asks_to_stop, one_line


@dataclasses.dataclass(frozen=True)
class Failed:
    """A row that was left out: file and line, and why."""

    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FailureLimit:
    """How many rows of an epoch may be left out: so many, or this share, whichever is more.

    Attributes:
      rows: of each process.
      share: of the process's rows, from 0 to below 1. With both 0 the first one ends the run.
    """

    rows: int = 10
    share: float = 0.01

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise InputError("config.data.max_failed_rows", f"{self.rows} rows", "Use 0 or more")
        if not 0 <= self.share < 1:
            raise InputError("config.data.max_failed_share", f"{self.share} of the rows",
                             "Use 0 or more, below 1")

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> FailureLimit:
        """Return what the config's section ``data`` says; the defaults where it says nothing."""
        return cls(data.get("max_failed_rows", cls.rows), data.get("max_failed_share", cls.share))

    def check(self, failed: int, among: int, last: Failed) -> None:
        """Raise InputError, naming the last one, where ``failed`` rows of ``among`` are too many.
        """
        if failed > max(self.rows, self.share * among):
            raise InputError(
                last.where, f"{failed} rows of {among} failed, this one last: {last.reason}",
                f"Fix the data or its root, or raise config.data.max_failed_rows (now {self.rows}) "
                f"or config.data.max_failed_share (now {self.share:g})")


def failed_row(error: BaseException, where: str) -> Failed:
    """Return what is said of a row that raised ``error``. Raises what asks for the run's end."""
    if asks_to_stop(error):
        raise error
    if isinstance(error, InputError):
        return Failed(error.where, f"{error.what}. {error.remedy}".strip(". "))
    return Failed(where, one_line(error))


class Tally:
    """Counts a process's rows that failed, names each once, and ends a run with too many.

    Args:
      epoch: rows of an epoch on this process.
      batch: rows of a batch.
      passed, failed: rows before these, and how many of them failed.
      epoch_failed: how many of them in the epoch that goes on.
    """

    def __init__(self, limit: FailureLimit, epoch: int, batch: int, passed: int = 0,
                 failed: int = 0, epoch_failed: int = 0):
        self._limit, self._epoch = limit, max(epoch, 1)
        self._batch = batch
        self.passed, self.failed, self.epoch_failed = passed, failed, epoch_failed
        self._named: set[str] = set()

    def add(self, failed: Failed | None) -> None:
        """Count one row. Raises InputError where too many failed."""
        if self.passed % self._epoch == 0:
            self.epoch_failed = 0
        self.passed += 1
        if failed is None:
            return
        self.failed += 1
        self.epoch_failed += 1
        self.name(failed)
        self._limit.check(self.epoch_failed, self._epoch, failed)
        # None that can be used: a wrong root, or nothing but bad rows.
        if self.failed == self.passed >= min(self._epoch, max(self._limit.rows, self._batch) + 1):
            raise InputError(failed.where, f"all {self.passed} rows so far failed, this one last: "
                             f"{failed.reason}", "Fix the data or its root")

    def name(self, failed: Failed) -> None:
        """Name a row in the log, once."""
        if failed.where not in self._named:
            self._named.add(failed.where)
            logging.warning("left out: %s: %s", failed.where, failed.reason)
