"""Accelerators: memory and peak rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

# Dense bfloat16 operations a second, as published, by what a device calls itself.
PEAKS: Final[Mapping[str, float]] = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12, "TPU v4": 275e12, "TPU v5p": 459e12,
    "TPU v5 lite": 197e12, "TPU v6 lite": 918e12}

GIB: Final = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a topology: usable memory, and dense bfloat16 operations a second."""

    hbm_bytes: int
    peak_flops: float


# Memory as the compiler grants it; operations as published.
CHIPS: Final[Mapping[str, Chip]] = {
    "v4": Chip(int(30.75 * GIB), 275e12),
    "v5e": Chip(int(15.75 * GIB), 197e12),
    "v5p": Chip(int(95.74 * GIB), 459e12),
    "v6e": Chip(int(31.25 * GIB), 918e12),
    "tpu7x": Chip(int(94.75 * GIB), 2307e12 / 2),  # Its topology lists the two cores of a chip.
}
