"""Progress of a run on the terminal: a live bar, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fourd4d.core.terminal import plain_console
from fourd4d.parallel import is_main

_ORDER = ("loss", "text_loss", "imagery_loss", "reward", "accuracy", "tokens_per_second")


def summary(scalars: Mapping[str, float]) -> str:
    """The few numbers worth a glance, in a fixed order."""
    names = [k for k in _ORDER if k in scalars] or sorted(scalars)[:3]
    return "  ".join(f"{k} {scalars[k]:.4g}" for k in names)


class Progress:
    """A context manager; ``update`` shows the step and its numbers on the main host."""

    def __init__(self, name: str, first: int, total: int, show: bool = True,
                 console: Console | None = None):
        self._name, self._first, self._total = name, first, total
        self._show = show and is_main()
        self._console = console or plain_console(stderr=True)
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._show and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[numbers]}", markup=False),
                console=self._console)
            self._task = self._bar.add_task(
                self._name, total=self._total, completed=self._first, numbers="")
            self._bar.start()
        return self

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=summary(scalars))
        elif self._show:
            self._console.print(f"{self._name} {step}/{self._total}  {summary(scalars)}",
                                highlight=False, soft_wrap=True)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
