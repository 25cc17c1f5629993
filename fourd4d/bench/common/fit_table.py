"""Every size of model on every machine, each compiled in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fourd4d.core.errors import InputError
from fourd4d.core.journal import Journal, Layout, read
from fourd4d.core.terminal import say

MACHINES: Final[Mapping[str, str]] = {
    "v5e-16": "v5e:4x4", "v5e-64": "v5e:8x8", "v6e-16": "v6e:4x4",
    # These are named by cores, two to a chip.
    "v5p-32": "v5p:2x2x4", "v5p-128": "v5p:4x4x4",
    "8 H100": "h100:8"}
TRAINERS: Final = ("rl", "dift")
SIZES: Final = ("3b", "7b", "32b", "72b")

# A part of a batch is 8 rows of DIFT; of 4DRL 16 prompts, 8 where the config has eight parts: so
# many devices may split rows. The key heads, 2, 4, 8 and 8 of them, bound ``tensor``.
_MESHES: Final[Mapping[str, Mapping[int, Mapping[str, str]]]] = {
    "dift": {
        8: dict.fromkeys(SIZES, "fsdp=8"),
        16: dict.fromkeys(SIZES, "fsdp=8,tensor=2"),
        64: {"3b": "fsdp=8,tensor=2,context=4", "7b": "fsdp=8,tensor=4,context=2",
             "32b": "fsdp=8,tensor=8", "72b": "fsdp=8,tensor=8"}},
    "rl": {
        8: dict.fromkeys(SIZES, "fsdp=8"),
        16: {"3b": "fsdp=16", "7b": "fsdp=8,tensor=2", "32b": "fsdp=8,tensor=2",
             "72b": "fsdp=8,tensor=2"},
        64: {"3b": "fsdp=16,tensor=2,context=2", "7b": "fsdp=16,tensor=4",
             "32b": "fsdp=8,tensor=8", "72b": "fsdp=8,tensor=8"}}}
_LAYOUT: Final = Layout("a table of fits", row=lambda row: {**row, "cell": row["cell"]},
                        place="file of --table")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trainer's config on one machine."""

    trainer: str
    size: str
    machine: str

    @property
    def name(self) -> str:
        return f"{self.trainer}_{self.size}@{self.machine.replace(' ', '-')}"

    @property
    def mesh(self) -> str:
        sizes = MACHINES[self.machine].partition(":")[2]
        devices = 1
        for size in sizes.split("x"):
            devices *= int(size)
        return _MESHES[self.trainer][devices][self.size]

    def command(self, result: Path) -> list[str]:
        """What compiles it, as a user would."""
        return [sys.executable, "-m", "fourd4d.bench", "fit",
                f"--config=configs/{self.trainer}_{self.size}.py", f"--config.mesh={self.mesh}",
                "--topology", MACHINES[self.machine], "--json", str(result)]


def cells() -> Iterator[Cell]:
    for size in SIZES:
        for machine in MACHINES:
            for trainer in TRAINERS:
                yield Cell(trainer, size, machine)


def fill(path: str, wanted: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compiles the cells that are not in the file yet; returns all of its rows.

    A cell that cannot be compiled says why in its row, and is tried again next time.

    Args:
      wanted: names of cells, in the order to compile them; all by default.

    Raises:
      InputError: an unknown name, or a file that is no such table.
    """
    known = {cell.name: cell for cell in cells()}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError("--cells", f"unknown cells {unknown}",
                         f"They are named TRAINER_SIZE@MACHINE, such as {next(iter(known))}; "
                         f"machines: {', '.join(MACHINES)}")
    with Journal(path, _LAYOUT) as journal:
        journal.keep_only(lambda row: "error" not in row)
        done = {row["cell"] for row in journal.rows}
        left = [name for name in wanted or known if name not in done]
        for number, name in enumerate(left, 1):
            say(f"{name} ({number} of {len(left)})", stderr=True)
            journal.append(_compiled(known[name]))
    return read(path, _LAYOUT)[1]


def _compiled(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": cell.name, "mesh": cell.mesh}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "fit.json"
        ran = subprocess.run(cell.command(result), capture_output=True, text=True, check=False)
        if ran.returncode or not result.exists():
            last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
            say(f"{cell.name}: {last}", stderr=True)
            return {**row, "error": last}
        found = json.loads(result.read_text(encoding="utf-8"))
    return {**row, "metrics": found["metrics"],
            "compile_seconds": found["context"].get("compile_seconds")}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as tables, one a trainer: what a device holds, and the least seconds of a step."""
    found = {row["cell"]: row for row in rows}
    lines = []
    for trainer in TRAINERS:
        lines += [f"| {trainer} | {' | '.join(MACHINES)} |", "|---" * (len(MACHINES) + 1) + "|"]
        for size in SIZES:
            texts = [_text(found.get(Cell(trainer, size, machine).name)) for machine in MACHINES]
            lines.append(f"| {size} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines).strip()


def _text(row: Mapping[str, Any] | None) -> str:
    if row is None or "error" in row:
        return "not compiled"
    metrics = row["metrics"]
    held = f"{metrics['hbm_used_bytes'] / 1e9:.1f} of {metrics['hbm_limit_bytes'] / 1e9:.1f} GB"
    if not metrics["fits"]:
        return f"{row['mesh']}: **{held}**"
    return f"{row['mesh']}: {held}, {metrics['roofline_seconds']:.3g} s"
