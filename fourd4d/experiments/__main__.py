"""Experiments: ``python -m fourd4d.experiments imagery --config=configs/experiments_imagery.py``.

``imagery`` trains the arms of ``experiments.arms`` with several seeds, evaluates each on the same
questions, and writes ``result.json`` and ``page.html`` below ``config.workdir``. ``rows`` only
writes the rows that arms learn from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from fourd4d.config import fields
from fourd4d.config.commands import CONFIGS
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.errors import InputError
from fourd4d.core.storage import local_only
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import JsonlSource
from fourd4d.experiments import imagery, report
from fourd4d.experiments.arms import chosen, write_lesson, write_rows


def main(config: Any) -> None:
    """Runs what is missing, then writes and shows the table of what there is."""
    console = plain_console()
    failed = imagery.carry_out(config, console)
    workdir = local_only(config.workdir, "the experiments' folder").expanduser().resolve()
    result = report.summarise(workdir, imagery.runs(config), failed,
                              imagery.Ledger(workdir).done)
    report.write(result, workdir)
    report.show(result, workdir, console)
    if failed:
        raise InputError(", ".join(failed), "failed; the table is of the others",
                         "Fix the cause; the same command goes on from here")


def main_rows(config: Any) -> None:
    """Writes ``ARM.jsonl`` for each arm, and says where the paths of its rows start.

    With ``config.together``, writes one ``lesson.jsonl`` for all of them.
    """
    for field in ("data", "output"):
        if not config[field]:
            raise InputError(f"config.{field}", "nothing given", f"Give --config.{field}=…")
    console, arms = plain_console(), chosen(config.arms)
    output = local_only(config.output, "rows that are written")
    pause = imagery.pause_of(config) if any(arm.paused for arm in arms) else ""
    source = JsonlSource(config.data, config.root or None)
    if config.together:
        path = output / "lesson.jsonl"
        count = write_lesson(arms, source, path, config.aloud, pause)
        console.print(f"{path}: {count} rows; root {source.root}", highlight=False, soft_wrap=True)
        return
    for arm in arms:
        path = output / f"{arm.name}.jsonl"
        root = write_rows(arm, source, path, config.aloud, pause)
        console.print(f"{path}: {len(source)} rows; root {root}", highlight=False, soft_wrap=True)


HELP: Final = Help(fields.EXPERIMENTS)
NAMES: Final[dict[str, tuple[Callable[[Any], None], str]]] = {
    "imagery": (main, "experiments_imagery"), "rows": (main_rows, "experiments_rows")}
"""Words after ``python -m fourd4d.experiments``: what runs, and with which config by default."""

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in NAMES:
        run, default = NAMES[word := sys.argv.pop(1)]
        launch(run, str(CONFIGS / f"{default}.py"), about=HELP, command=word)
    else:
        sys.exit(f"python -m fourd4d.experiments: give the experiment's name first: "
                 f"{', '.join(NAMES)}")
