"""Experiments: ``python -m fourd4d.experiments imagery --config=configs/experiments_imagery.py``.

``imagery`` trains the arms of ``experiments.arms`` with several seeds, evaluates each on the same
questions, and writes ``result.json`` and ``page.html`` below ``config.workdir``.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from fourd4d.config import fields
from fourd4d.config.commands import CONFIGS
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.errors import InputError
from fourd4d.core.storage import local_only
from fourd4d.core.terminal import plain_console
from fourd4d.experiments import imagery, report

NAMES = {"imagery": "experiments_imagery"}


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


HELP: Final = Help(fields.EXPERIMENTS)

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in NAMES:
        launch(main, str(CONFIGS / f"{NAMES[sys.argv.pop(1)]}.py"), about=HELP)
    else:
        sys.exit(f"python -m fourd4d.experiments: give the experiment's name first: "
                 f"{', '.join(NAMES)}")
