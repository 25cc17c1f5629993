"""Text for a person: printed as it is, and a reader who has left ends no run."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final, TextIO

from rich.console import Console

_LEFT: Final = (errno.EPIPE, errno.EIO)  # A pipe's reader has gone, a terminal has.


class _PlainConsole(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True
        _silence(sys.stderr if self.stderr else sys.stdout)


def plain_console(stderr: bool = False, **options: Any) -> Console:
    """A console for tables and bars that takes no text for markup, emoji or numbers to colour.

    Args:
      options: as of ``rich.console.Console``.
    """
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False, **options)


def say(*lines: object, stderr: bool = False) -> None:
    """Prints lines, whatever characters they hold, each whole and at once.

    What nobody reads any more (``| head``) is not printed. Characters that the terminal cannot show
    are printed as escapes.
    """
    file: TextIO | None = sys.stderr if stderr else sys.stdout
    if file is None:
        return
    text = "".join(f"{line}\n" for line in lines)
    encoding = file.encoding or "utf-8"
    try:
        text.encode(encoding, file.errors or "strict")
    except UnicodeEncodeError:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        if error.errno not in _LEFT:
            raise
        _silence(file)


def _silence(file: TextIO | None) -> None:
    """Sends what else is printed there, the buffer's rest included, nowhere."""
    if file is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
