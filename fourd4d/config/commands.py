"""The project's own commands as stages of a longer run."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from fourd4d.core.errors import InputError

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CONFIGS: Final = REPOSITORY / "configs"
# Two CPU devices share a step better than one step shares two cores.
_CPU: Final = {"JAX_NUM_CPU_DEVICES": "2"}
# glibc hands freed memory back, and faults it in again, at every step: a fifth of the time. Where
# every step asks for the same it may keep it; sampling would let it grow without end.
_HOARD: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0",
                 "MALLOC_TRIM_THRESHOLD_": str(2**34)}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command. ``name`` is its log's too.

    Attributes:
      package: ``python -m fourd4d.PACKAGE``.
      config: name of a file in ``configs/``, or a path; an argument may follow a colon.
      fields: what differs from the config.
      verb: a word before the flags, for packages with several commands.
    """

    name: str
    package: str
    config: str
    fields: dict[str, Any]
    verb: str = ""

    def command(self) -> list[str]:
        return [sys.executable, *self._words(str(self._file()))]

    def shown(self) -> str:
        """The command as a user would type it."""
        file = self._file()
        short = file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file
        return shlex.join(["python", *self._words(str(short))])

    def _file(self) -> Path:
        name, colon, argument = self.config.partition(":")
        path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
        return path.with_name(f"{path.name}{colon}{argument}")

    def _words(self, config: str) -> list[str]:
        return ["-m", f"fourd4d.{self.package}", *filter(None, [self.verb]), f"--config={config}",
                *(f"--config.{key}={value}" for key, value in self.fields.items())]


def run_stage(stage: Stage, workdir: Path, console: Console) -> float:
    """Runs one command; its output goes to a log. Returns seconds.

    Raises:
      InputError: the command failed; the end of its log is in the message.
    """
    log = workdir / "logs" / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = _CPU | (_HOARD if stage.package == "dift" else {}) | os.environ | {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(workdir / "compiled")),
        # Stages share programs; also the many that take less than a second each.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": os.environ.get(
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1"),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")])),
    }
    began = time.monotonic()
    with log.open("w") as out, console.status(Text(f"{stage.name} …  (tail -f {log})")):
        code = subprocess.run(stage.command(), stdout=out, stderr=subprocess.STDOUT,
                              env=environment).returncode
    seconds = time.monotonic() - began
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise InputError(log, f"the stage {stage.name!r} failed (exit {code}):\n{tail}\n",
                         "Fix the cause; the same command goes on from here")
    return seconds
