"""The body of an entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from fourd4d.config.flags import define, only_given, read_flags
from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told
from fourd4d.train import NonFiniteError


def launch(run: Callable[[Any], Any], default: str | None = None,
           sections: Mapping[str, type] | None = None) -> None:
    """The body of an entry point: reads ``--config``, runs, and says bad input in one line.

    A full disk and a diverged run are told so too.

    Args:
      run: takes the locked config.
      default: config file when the command names none.
      sections: sections of the config in which any field of a dataclass may be given.
    """
    flag = define(flags.FLAGS, sections)

    def main(argv: Sequence[str]) -> None:
        del argv
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax reports every array.
        try:
            with full_disk_told("output"):
                run(only_given(flag.value, sections or ()))
        except (InputError, NonFiniteError) as error:
            sys.exit(str(error))
        except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
            sys.exit(f"{error.filename}: it cannot be used ({error.strerror}). Choose another "
                     "path, or change its permissions.")

    app.run(main, flags_parser=lambda argv: read_flags(
        argv, flags.FLAGS, default, _module()))


def _module() -> str:
    """The module that runs: ``fourd4d.dift`` for its ``__main__``."""
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else spec.name.removesuffix(".__main__")
