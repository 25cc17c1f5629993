"""Work for processes that the system ends."""

import os
import signal
from pathlib import Path


def ended_once(folder: str, start: int, count: int) -> tuple[int, int]:
    """The arguments back; the first process to take the second part ends."""
    mark = Path(folder) / "ended"
    if start == 8 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return start, count


def ended_always(folder: str, start: int, count: int) -> tuple[int, int]:
    """As ``ended_once``, whenever it is asked."""
    if start == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return start, count
