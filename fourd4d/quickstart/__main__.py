"""Entry point of the quickstart: ``python -m fourd4d.quickstart``."""

from __future__ import annotations

from typing import Final

from fourd4d.config import fields
from fourd4d.config.commands import CONFIGS
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.quickstart.run import main

HELP: Final = Help(fields.QUICKSTART)

if __name__ == "__main__":
    launch(main, str(CONFIGS / "quickstart.py"), about=HELP)
