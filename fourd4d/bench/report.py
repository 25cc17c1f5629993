"""What every benchmark hands back, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

_PACKAGES = ("fourd4d", "jax", "jaxlib", "libtpu", "flax", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Result:
    """A benchmark's name, its numbers, and what they depend on."""

    bench: str
    metrics: Mapping[str, float | int]
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"bench": self.bench, "metrics": dict(self.metrics),
                "context": {**environment(), **self.context}}


def environment() -> dict[str, Any]:
    """Versions of what is installed, and the machine."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = {"system": platform.platform(), "cores": os.cpu_count(),
               "python": platform.python_version(), "backend": jax.default_backend(),
               "devices": jax.device_count()}
    return {"versions": versions, "machine": machine}


def show(result: Result, console: Console | None = None) -> None:
    """Prints the numbers."""
    table = Table(title=result.bench)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in result.metrics.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
    (console or Console(width=100)).print(table)


def write(result: Result, path: str | os.PathLike[str]) -> None:
    """One JSON object, in place at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
