"""The body of an entry point."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from absl import app, flags, logging

from fourd4d.config import help
from fourd4d.config.flags import configs_of, define, is_named, only_given, read_flags
from fourd4d.config.help import Help
from fourd4d.config.siblings import SHIPPED
from fourd4d.core.errors import InputError
from fourd4d.core.files import file_errors_told, full_disk_told
from fourd4d.core.terminal import plain_console
from fourd4d.parallel import ending_together
from fourd4d.train import NonFiniteError

_NOTHING: Final = Help()
_PLAIN: Final = (InputError, NonFiniteError)  # Told in a line.
DRY_RUN: Final = ("tell parameters, memory, operations, time and the first batch; train and write "
                  "nothing")
TOPOLOGY: Final = "of --dry_run: a machine that need not be here, as v5p:2x2x2 or h100:8"


def launch(run: Callable[[Any], Any], default: str | None = None,
           sections: Mapping[str, type] | None = None, about: Help = _NOTHING,
           command: str = "", dry: Callable[[Any, str], Any] | None = None) -> None:
    """The body of an entry point: reads ``--config``, runs, and says bad input in one line.

    So do a full disk, a file or folder that cannot be used, and a run that diverged.

    Args:
      run: takes the locked config.
      default: config file when the command names none.
      sections: sections of the config in which any field of a dataclass may be given.
      about: what ``--help`` says of the fields.
      command: the word after the module on the command line, if any.
      dry: runs instead under ``--dry_run``, with the config and the value of ``--topology``; it
        writes nothing.
    """
    if help.asked(sys.argv[1:]):
        tell(default, sections or {}, about, dry is not None)
        sys.exit(0)
    flag = define(flags.FLAGS, sections)
    if dry is not None:
        flags.DEFINE_bool("dry_run", False, DRY_RUN, flags.FLAGS)
        flags.DEFINE_string("topology", "", TOPOLOGY, flags.FLAGS)

    def main(argv: Sequence[str]) -> None:
        del argv
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax reports every array.
        config = only_given(flag.value, sections or ())
        try:
            with (ending_together(_PLAIN), file_errors_told(lambda file: field_of(file, config)),
                  full_disk_told("output")):
                if dry is not None and flags.FLAGS["dry_run"].value:
                    dry(config, str(flags.FLAGS["topology"].value))
                elif dry is not None and flags.FLAGS["topology"].value:
                    raise InputError("--topology", "this run is not a dry run", "Add --dry_run")
                else:
                    run(config)
        except _PLAIN as error:
            sys.exit(str(error))

    app.run(main, flags_parser=lambda argv: read_flags(
        argv, flags.FLAGS, default, f"{_module()} {command}".strip()))


def tell(default: str | None, sections: Mapping[str, type], about: Help,
         dry: bool = False) -> None:
    """Print the help of the command that runs, with the fields of the config that is given.

    Without one these are the fields of ``default``, or of ``about.example``.
    """
    console, module = plain_console(), _module()
    help.show(console, module, sys.modules["__main__"].__doc__ or "", configs_of(module))
    if dry:
        console.print(f"--dry_run: {DRY_RUN}; --topology: {TOPOLOGY}", soft_wrap=True)
    example = SHIPPED / f"{about.example}.py"
    if default is None and about.example and example.is_file():
        default = str(example)
    values = flags.FlagValues()
    flag = define(values, sections)
    argv = [word for word in sys.argv if not help.asked([word])]
    if default is None and not is_named(argv):
        return  # The configs are not there, as in an installed wheel.
    read_flags(argv, values, default, module)
    opened: Any = values["config"].parser
    file = min(opened.file, os.path.relpath(opened.file), key=len)
    help.show_fields(console, file, help.fields(flag.value, about, sections))


def _module() -> str:
    """The module that runs: ``fourd4d.dift`` for its ``__main__``."""
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else spec.name.removesuffix(".__main__")


def field_of(file: str, config: Any) -> str:
    """The config's field whose value leads to a file, as ``config.a.b``; empty for none."""
    file = os.path.abspath(file)
    values = [(os.path.abspath(value), name) for name, value in _texts(config, "config") if value]
    above = [(len(value), name) for value, name in values if _holds(value, file)]
    below = [(-len(value), name) for value, name in values if _holds(file, value)]
    return max(above or below, default=(0, ""))[1]


def _texts(section: Any, where: str) -> Iterator[tuple[str, str]]:
    for key in section:
        value = section[key]
        if hasattr(value, "keys"):
            yield from _texts(value, f"{where}.{key}")
        elif isinstance(value, str):
            yield f"{where}.{key}", value


def _holds(folder: str, file: str) -> bool:
    return os.path.commonpath([folder, file]) == folder
