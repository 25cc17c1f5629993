"""What a program needs of the devices' memory, and what is free."""

from __future__ import annotations

import resource
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import text_of

_SHARE: Final = 0.9  # Of the free memory; the rest is for what is not counted.
_CGROUP: Final = Path("/sys/fs/cgroup")


class MemoryNeeded(MemoryError):
    """A program that the devices have no room for. It was not run."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a device or of the host, was asked for in vain."""
    text = text_of(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or (
        "out of memory" in text.lower())


def needed_bytes(function: Any, *args: Any) -> int:
    """Temporaries and results of a jitted function's program on each device; 0 where unknown.

    Compiles it; a call with the same arguments compiles nothing anew.
    """
    if not hasattr(function, "lower"):
        return 0
    analysis = function.lower(*args).compile().memory_analysis()
    if analysis is None:
        return 0
    return int(analysis.temp_size_in_bytes) + int(analysis.output_size_in_bytes)


def check_room(needed: int, devices: Sequence[Any]) -> None:
    """Raises MemoryNeeded where each of ``devices`` lacks ``needed`` bytes for a program."""
    free = free_bytes(devices)
    if free is not None and needed > _SHARE * free:
        raise MemoryNeeded(f"{needed / 1e9:.3g} GB of memory are needed, {free / 1e9:.3g} are free")


class Room:
    """Checks that devices have room for programs; what each needs is found out once.

    Args:
      devices: that all programs run on.
    """

    def __init__(self, devices: Sequence[Any]):
        self._devices = list(devices)
        self._needed: dict[Hashable, int] = {}

    def check(self, program: Hashable, function: Any, *args: Any) -> None:
        """Raises MemoryNeeded where a jitted function's program would not fit.

        Args:
          program: tells its shapes and static arguments from others.
        """
        if program not in self._needed:
            self._needed[program] = needed_bytes(function, *args)
        check_room(self._needed[program], self._devices)


def free_bytes(devices: Sequence[Any]) -> int | None:
    """What is free on the fullest of these devices, bytes; None where unknown.

    CPU devices have equal parts of what the host, its control group and the process' limit leave.
    """
    stats = [device.memory_stats() or {} for device in devices]
    known = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
    if known:
        return max(min(known), 0)
    if any(device.platform != "cpu" for device in devices):
        return None
    host = [value for value in (_available(), _left_to_process(), _left_to_group())
            if value is not None]
    return max(min(host), 0) // max(len(devices), 1) if host else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines
                    if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _left_to_process() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return limit
    return limit - pages * resource.getpagesize()


def _left_to_group() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        rows = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(rows.get("inactive_file", 0))
    except (OSError, ValueError):  # No control group, or "max": no limit.
        return None
