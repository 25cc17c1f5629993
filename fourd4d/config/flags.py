"""The command line: configs that open with every field they may have, and misspelt ones told."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from fourd4d.config.siblings import SHIPPED, importable
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models import ModelConfig

OPTIONAL: Final = {"model": ModelConfig, "protocol": ProtocolSpec}
"""Sections in which any field of a dataclass may be given; an entry point may name more."""

class Opened(flags.ArgumentParser):
    """Opens a config file; what is not set in ``sections`` may be set by a flag.

    Attributes:
      config: the config opened last.
      file: where it lies; empty before.
      sections: name of each, and the dataclass whose fields it may hold.
    """

    def __init__(self, opener: flags.ArgumentParser, sections: Mapping[str, type] = OPTIONAL):
        self._opener = opener
        self.sections = sections
        self.config: ConfigDict | None = None
        self.file = ""

    def flag_type(self) -> str:
        return "config file"

    def parse(self, path: str) -> ConfigDict:
        """Raises InputError where there is no such file."""
        file = str(path).split(":")[0]
        if not Path(file).is_file():
            raise InputError(file or "--config", "no such config file", "Give --config=FILE")
        with importable(file):
            Path(file).open("rb").close()  # The library would tell of it at the first use.
            config: Any = self._opener.parse(path)
        if not isinstance(config, ConfigDict):
            raise InputError(file, f"get_config() gives {type(config).__name__}",
                             "It must return a ConfigDict")
        for name, cls in self.sections.items():
            section: Any = config.get(name)
            if isinstance(section, ConfigDict):
                with section.unlocked():
                    _fill(section, cls)
        self.config, self.file = config, file
        return config


def define(values: flags.FlagValues, sections: Mapping[str, type] | None = None,
           words: Sequence[str] | None = None) -> Any:
    """The flag ``--config``; see ``Opened``.

    Args:
      sections: come besides those of ``OPTIONAL``.
      words: the command line that ``read_flags`` will be given, where it is not the process' own;
        the library looks there for the fields that it sets.
    """
    flag = config_flags.DEFINE_config_file(
        "config", None, "Config file.", values, sys_argv=None if words is None else list(words))
    values["config"].parser = Opened(values["config"].parser, {**OPTIONAL, **(sections or {})})
    return flag


def configs_of(module: str, folder: Path = SHIPPED) -> list[str]:
    """The configs whose docstring runs ``python -m module`` with them, or as its own default."""
    found = []
    for path in sorted(folder.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        given = "" if module == f"fourd4d.{path.stem}" else rf" .*--config=configs/{path.name}"
        if re.search(rf"python -m {re.escape(module)}(?![\w.]| [a-z]){given}", text):
            found.append(f"configs/{path.name}")
    return found


def is_named(argv: Iterable[str]) -> bool:
    """Return whether a command line names a config file."""
    return any(re.match(r"--?config(=|$)", word) for word in argv)


def read_flags(argv: Sequence[str], values: flags.FlagValues, default: str | None = None,
               module: str = "") -> list[str]:
    """Parse the command line; bad input ends the program with one line.

    Args:
      default: config of a command that names none.
      module: what runs, to say which configs are for it.
    """
    named = is_named(argv)
    if not named and default is not None:
        argv = [argv[0], f"--config={default}", *argv[1:]]
    elif not named and not any(re.match(r"--?help(full|short|xml)?$", word) for word in argv):
        known = configs_of(module)
        raise SystemExit(f"{f'python -m {module}' if module else 'config'}: no config is given. "
                         f"Give --config=FILE{', such as ' if known else ''}{', '.join(known)}.")
    try:
        return values(argv)
    except (AttributeError, KeyError, TypeError) as error:  # What ConfigDict raises.
        _stop(argv, values, error)
    except flags.Error as error:
        raise SystemExit(str(error)) from None


def _stop(argv: Sequence[str], values: flags.FlagValues, error: Exception) -> NoReturn:
    config = getattr(values["config"].parser, "config", None)
    bad = unknown_field(argv, config) if config is not None else None
    if bad is None:
        raise error
    raise SystemExit(str(bad)) from None


def unknown_field(argv: Sequence[str], config: ConfigDict) -> InputError | None:
    """The first ``--config.a.b`` that ``config`` has no place for, with the nearest known ones."""
    for argument in argv:
        found = re.match(r"--?(?:no)?config\.([^=\s]+)", argument)
        if not found:
            continue
        at: Any = config
        walked = "config"
        for part in found[1].split("."):
            if not isinstance(at, ConfigDict) or part not in at:
                return _unknown(config, at, walked, part)
            at, walked = at[part], f"{walked}.{part}"
    return None


def _unknown(config: ConfigDict, at: Any, walked: str, part: str) -> InputError:
    if not isinstance(at, ConfigDict):
        return InputError(f"{walked}.{part}", f"no such field: {walked} is a value",
                          f"Give --{walked}=VALUE")
    near = [f"{walked}.{key}" for key in difflib.get_close_matches(part, list(at), 3, 0.6)]
    for path in _paths(config):
        last = path.rpartition(".")[2]
        if path not in near and difflib.get_close_matches(part, [last], 1, 0.8):
            near.append(path)
    remedy = (f"Nearest: {', '.join(near[:4])}" if near else
              f"Known in {walked}: {', '.join(sorted(at)) or 'none'}")
    return InputError(f"{walked}.{part}", "no such field", remedy)


def _paths(section: Any, where: str = "config") -> Iterator[str]:
    for key in sorted(section):
        yield f"{where}.{key}"
        if isinstance(section[key], ConfigDict):
            yield from _paths(section[key], f"{where}.{key}")


def _fill(section: Any, cls: Any) -> None:
    """Adds an empty place for each field of ``cls`` that the section lacks."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = _plain(hints[field.name])
        if dataclasses.is_dataclass(kind):
            if section.get(field.name) is None:
                section[field.name] = ConfigDict()
            _fill(section[field.name], kind)
        elif field.name not in section:
            section[field.name] = placeholder(kind)


def _plain(hint: Any) -> Any:
    """The type of one value of a field: without None, Literal as its values' type."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return type(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return _plain(next(a for a in typing.get_args(hint) if a is not type(None)))
    return origin or hint


def only_given(config: ConfigDict, sections: Iterable[str] = ()) -> ConfigDict:
    """The config without the places that ``Opened`` added and nobody filled."""
    for name in (*OPTIONAL, *sections):
        section: Any = config.get(name)
        if isinstance(section, ConfigDict):
            with section.unlocked():
                _prune(section)
    return config


def _prune(section: Any) -> None:
    for key in list(section):
        value = section[key]
        if isinstance(value, ConfigDict):
            _prune(value)
        if value is None or (isinstance(value, ConfigDict) and not len(value)):
            del section[key]
