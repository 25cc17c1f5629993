"""The terminal: what is printed is printed as it is."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that reads no markup and no emoji codes into text.

    Names of files and question types are data: ``[x]`` in a path stays ``[x]``.
    """
    return Console(stderr=stderr, width=width, markup=False, emoji=False)
