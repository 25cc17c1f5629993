"""Rows that cannot be read: left out, named and counted, and a limit to how many may be."""

from __future__ import annotations

import dataclasses
import sys

from absl import logging

from fourd4d.core.errors import InputError

SHARE = 0.01
"""Rows in a row of data that may be left out, by default."""


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that raised.

    Attributes:
      where: its file and line (or record).
      what: what was raised, in words.
    """

    where: str
    what: str

    @staticmethod
    def of(error: Exception, where: str) -> BadRow:
        """Names the row; an ``InputError`` about it names it already."""
        if isinstance(error, InputError):
            text = str(error)
            inside = text.startswith(where)
            return BadRow(where, text.removeprefix(where).lstrip(": ") if inside else text)
        words = (str(error).strip() or "no message").splitlines()[0]
        return BadRow(where, f"{type(error).__name__}: {words}")


class Tally:
    """Counts the rows left out; logs each once.

    Args:
      share: of all rows that may be left out. One row always may, unless this is 0.
      rows: of one pass over the data.
      count: left out before.
    """

    def __init__(self, share: float, rows: int, count: int = 0):
        if not 0 <= share < 1:
            raise InputError("data.bad_rows", f"{share} of the rows", "Use 0 or more, below 1")
        self._share, self._rows, self.count = share, rows, count
        self._named: set[str] = set()
        self._first: BadRow | None = None

    def add(self, bad: BadRow, drawn: int) -> None:
        """Leaves a row out. Raises InputError when that is one too many.

        Args:
          drawn: rows looked at until now, this one included.
        """
        self.count += 1
        self._first = self._first or bad
        if bad.where not in self._named:
            self._named.add(bad.where)
            logging.warning("left out: %s: %s", bad.where, bad.what)
        among = min(max(drawn, self._rows), sys.maxsize)
        allowed = max(1.0, self._share * among) if self._share else 0.0
        if self.count > allowed:
            raise InputError(
                self._first.where, f"{self._first.what.rstrip('.')} (the first of {self.count} "
                f"rows that cannot be used, of {among})",
                f"Fix or delete these rows, or raise data.bad_rows (now {self._share:g})")
