"""Accelerators: memory and peak rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

GIB: Final = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a topology.

    Attributes:
      hbm_bytes: usable memory.
      peak_flops: dense bfloat16 operations a second.
      bandwidth: bytes read from that memory a second.
      ici: bytes sent to other chips a second, over all links, one way.
    """

    hbm_bytes: int
    peak_flops: float
    bandwidth: float
    ici: float


# Memory as the compiler grants it; the others as published.
CHIPS: Final[Mapping[str, Chip]] = {
    "v4": Chip(int(30.75 * GIB), 275e12, 1228e9, 300e9),
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 600e9),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1640e9, 400e9),
    "h100": Chip(80 * 10**9, 989e12, 3350e9, 450e9),  # Sent by NVLink.
    # Its topology lists the two cores of a chip.
    "tpu7x": Chip(int(94.75 * GIB), 2307e12 / 2, 7380e9 / 2, 600e9 / 2),
}

# By what a device calls itself; "TPU v4" is a whole chip.
PEAKS: Final[Mapping[str, float]] = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12,
    "TPU v4": 2 * CHIPS["v4"].peak_flops, "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops, "TPU v6 lite": CHIPS["v6e"].peak_flops}

# Bytes of memory a second of GPUs, by what they call themselves.
BANDWIDTHS: Final[Mapping[str, float]] = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12}
