"""``--help`` of a command: its config's fields, their values, and a line on each."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

_NAMES: Final = re.compile(r"((?:``)?\w+(?:``)?(?:, \w+)*): (.*)")
_MARKUP: Final = re.compile(r"``([^`]*)``")


def attributes(cls: type) -> dict[str, str]:
    """Return the text on each name under ``Attributes:`` in a class's docstring, in one line."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    for line in section.splitlines():
        if line.strip() and not line.startswith(" "):
            break  # The next section.
        match = _NAMES.fullmatch(line.strip())
        if match and not line.startswith("   "):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return {name: _MARKUP.sub(r"\1", text) for name, text in found.items()}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field as ``--help`` shows it.

    Attributes:
      name: as in ``--config.NAME=VALUE``.
      value: its value, as Python writes it; empty where the field is not set and has no default.
      text: one line on it; empty where there is none.
    """

    name: str
    value: str
    text: str


@dataclasses.dataclass(frozen=True)
class Help:
    """What a command can say of its config.

    Attributes:
      lines: a line on each field that no dataclass describes, by its name; see ``config.fields``.
      sections: the dataclass that describes a section, by the section's name; the empty name is
        the config itself.
      example: the config whose fields are shown when none is given; a name in ``configs/``.
    """

    lines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sections: Mapping[str, type] = dataclasses.field(default_factory=dict)
    example: str = ""


def fields(config: ConfigDict, about: Help, opened: Mapping[str, type]) -> Iterator[Field]:
    """Yield the fields of a config.

    Args:
      opened: sections whose fields have their dataclass's defaults where the config is silent.
    """
    sections = {**about.sections, **opened}
    top = attributes(sections[""]) if "" in sections else {}
    for key in config:
        if isinstance(config[key], ConfigDict) and key not in about.lines:
            yield from _fields(config[key], f"{key}.", sections.get(key), about.lines,
                               key in opened)
        else:
            yield Field(key, repr(_plain(config[key])), about.lines.get(key) or top.get(key, ""))


def _fields(section: Any, where: str, cls: Any, lines: Mapping[str, str], defaults: bool
            ) -> Iterator[Field]:
    texts = attributes(cls) if cls else {}
    unset = {f.name: f.default for f in dataclasses.fields(cls)} if cls and defaults else {}
    hints = typing.get_type_hints(cls) if cls else {}
    for key in section:
        name, value = f"{where}{key}", section[key]
        if isinstance(value, ConfigDict) and name not in lines:
            yield from _fields(value, f"{name}.", _dataclass(hints.get(key)), lines, defaults)
            continue
        value = unset.get(key) if value is None else _plain(value)
        yield Field(name, "" if value is None else repr(value),
                    lines.get(name) or texts.get(key, ""))


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _dataclass(hint: Any) -> Any:
    kinds = [hint, *typing.get_args(hint)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def asked(argv: Sequence[str]) -> bool:
    """Return whether a command line asks for help."""
    return any(re.fullmatch(r"-h|--?help(short)?", word) for word in argv)


def show(console: Console, module: str, text: str, configs: Sequence[str]) -> None:
    """Print what a command does, how it is called, and the configs for it."""
    console.print(_MARKUP.sub(r"\1", inspect.cleandoc(text)), soft_wrap=True)
    console.print(f"\nusage: python -m {module} --config=FILE [--config.FIELD=VALUE …]",
                  soft_wrap=True)
    if configs:
        console.print(f"configs: {', '.join(configs)}", soft_wrap=True)


def show_fields(console: Console, file: str, found: Iterable[Field]) -> None:
    """Print the fields of a config file as a table."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("field", overflow="fold", max_width=44)
    table.add_column("what it is")
    for field in found:
        name = f"{field.name} = {field.value}" if field.value else field.name
        table.add_row(f"  {name}", _first_sentence(field.text))
    console.print(f"\nFields of {file}; what has no value here has that of the checkpoint or the "
                  "preset:", soft_wrap=True)
    console.print(table)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!e\.g)\.(?= |$)", text)[0]
