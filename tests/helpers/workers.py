"""Work for processes that the system ends, and processes of one run."""

import os
import signal
import socket
from pathlib import Path


def coordinated(processes: int) -> list[dict[str, str]]:
    """Variables of each process of a run on this machine, over a port that is free now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [{"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes),
             "JAX_PROCESS_ID": str(index)} for index in range(processes)]


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
