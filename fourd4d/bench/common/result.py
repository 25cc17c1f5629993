"""What every benchmark hands back, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fourd4d.core.environment import environment
from fourd4d.core.files import replacing
from fourd4d.core.terminal import plain_console


@dataclasses.dataclass(frozen=True)
class Result:
    """A benchmark's name, its numbers, and what they depend on."""

    bench: str
    metrics: Mapping[str, float | int]
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"bench": self.bench, "metrics": dict(self.metrics),
                "context": {**environment(), **self.context}}


def show(result: Result, console: Console | None = None) -> None:
    """Prints the numbers."""
    table = Table(title=result.bench)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in result.metrics.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
    (console or plain_console(width=100)).print(table)


def write(result: Result, path: str | os.PathLike[str]) -> None:
    """One JSON object, in place at once."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
