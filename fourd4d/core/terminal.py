"""The terminal: what is printed is printed as it is, and a reader who has left ends no run."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final

from rich.console import Console

_LEFT: Final = (errno.EPIPE, errno.EIO)  # A pipe's reader has gone, a terminal has.


class _PlainConsole(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True
        _silence(sys.stderr if self.stderr else sys.stdout)


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that reads no markup and no emoji codes into text.

    Names of files and question types are data: ``[x]`` in a path stays ``[x]``. What nobody reads
    any more (``| head``) is not printed; characters that the terminal lacks are escaped.
    """
    _escape_what_is_lacking(sys.stderr if stderr else sys.stdout)
    return _PlainConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say(*lines: object, stderr: bool = False) -> None:
    """Print lines whole and at once, under the rules of ``plain_console``."""
    file = sys.stderr if stderr else sys.stdout
    if file is None:
        return
    _escape_what_is_lacking(file)
    try:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
    except OSError as error:
        if error.errno not in _LEFT:
            raise
        _silence(file)


def _escape_what_is_lacking(file: Any) -> None:
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(errors="backslashreplace")


def _silence(file: Any) -> None:
    """Sends what else is printed there, the buffer's rest included, nowhere."""
    if file is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
