"""``--help`` of every command says what may be given, with defaults and a line on each."""

import argparse
import dataclasses
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from fourd4d.__main__ import COMMANDS, main
from fourd4d.bench.__main__ import BENCHES
from fourd4d.config import help, launch
from fourd4d.config.flags import configs_of, define, read_flags
from fourd4d.config.help import Help, attributes
from fourd4d.dift.step import DiftSpec
from fourd4d.synth.tools import cli

ROOT = Path(__file__).parents[2]
WITH_CONFIG = ("quickstart", "synth", "dift", "rl", "eval")
WITH_VERB = {"eval probe": "eval.probes", "experiments imagery": "experiments",
             "experiments rows": "experiments"}


@dataclasses.dataclass(frozen=True)
class Inner:
    """An inner one.

    Attributes:
      depth: metres; see ``Outer``.
    """

    depth: float = 2.0


@dataclasses.dataclass(frozen=True)
class Outer:
    """A thing.

    Attributes:
      width, height: pixels, e.g. 64.
        Both are even: always.
      inner: a part.

    Raises:
      InputError: bad: values.
    """

    width: int = 3
    height: int = 4
    inner: Inner = Inner()
    more: int = 0


def test_attributes_are_read_from_docstrings():
    both = "pixels, e.g. 64. Both are even: always."
    assert attributes(Outer) == {"width": both, "height": both, "inner": "a part."}
    assert attributes(Inner) == {"depth": "metres; see Outer."}
    assert attributes(int) == {}


def test_fields_have_values_and_lines():
    config = ConfigDict({"seed": 1, "part": {"width": 5, "height": None, "inner": {"depth": None}},
                         "free": {"a": {"b": 2}}})
    about = Help({"seed": "of all.", "free.a": "any."}, {"part": Outer})
    found = [dataclasses.astuple(field) for field in help.fields(config, about, {})]
    both = attributes(Outer)["width"]
    assert found == [("free.a", "{'b': 2}", "any."), ("part.height", "", both),
                     ("part.inner.depth", "", "metres; see Outer."), ("part.width", "5", both),
                     ("seed", "1", "of all.")]
    opened = {f.name: f.value for f in help.fields(config, about, {"part": Outer})}
    assert opened["part.height"] == "4" and opened["part.inner.depth"] == "2.0"


def listed():
    return [(command, config) for command in WITH_CONFIG
            for config in configs_of(f"fourd4d.{command}")] + [
        (package, config) for command, package in WITH_VERB.items()
        for config in configs_of(f"fourd4d.{command}")]


def test_every_config_is_of_a_command():
    assert sorted(config for _, config in listed()) == sorted(
        f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("command, config", listed())
def test_every_field_of_every_config_has_a_line(command, config, monkeypatch):
    about = importlib.import_module(f"fourd4d.{command}.__main__").HELP
    opened = {"dift": DiftSpec} if command == "dift" else {}
    values = flags.FlagValues()
    flag = define(values, opened)
    monkeypatch.setattr(sys, "argv", argv := ["x", f"--config={ROOT / config}"])
    read_flags(argv, values)
    found = list(help.fields(flag.value, about, opened))
    assert [field.name for field in found if not field.text] == []
    assert len(found) == len({field.name for field in found}) > 6


def output(command, capfd, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    # Only that module: with its package anew, others would keep another one than is imported.
    monkeypatch.delitem(sys.modules, f"fourd4d.{command}.__main__", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"fourd4d.{command}", run_name="__main__", alter_sys=True)
    assert not end.value.code
    return capfd.readouterr().out


EXAMPLES = {"quickstart": "train_clips = 640", "synth": "digest.fps = 2.0",
            "dift": "optimizer.learning_rate = 1e-05", "rl": "rl.group = 8",
            "eval": "eval.max_tokens = 512"}


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", WITH_CONFIG)
def test_help_lists_the_fields_of_a_config(command, flag, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    text = output(command, capfd, monkeypatch, flag)
    assert re.search(rf"^  {re.escape(EXAMPLES[command])} +[a-zA-Z]", text, re.MULTILINE)
    assert f"usage: python -m fourd4d.{command} --config=FILE" in text
    assert all(config in text for config in configs_of(f"fourd4d.{command}"))
    assert list(tmp_path.iterdir()) == []  # Nothing ran.


def test_help_is_of_the_config_that_is_given(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    given = f"--config={ROOT / 'configs' / 'dift_tiny.py'}"
    text = output("dift", capfd, monkeypatch, given, "--help", "--config.batch=7")
    assert "  batch = 7 " in text and "dift.self_feed_passes = 2 " in text
    assert "optimizer.learning_rate = 0.0007" in text and "model.unroll = 3 " in text


def test_help_without_configs_says_how_to_call(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "SHIPPED", tmp_path)  # As in an installed wheel.
    text = output("rl", capfd, monkeypatch, "--help")
    assert "usage: python -m fourd4d.rl --config=FILE" in text and "Fields of" not in text


def parsers():
    for name in BENCHES:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"fourd4d.bench.{name}").arguments(parser)
        yield f"bench {name}", parser
    for name, arguments in cli._ARGUMENTS.items():
        arguments(parser := argparse.ArgumentParser())
        yield f"synth {name}", parser


@pytest.mark.parametrize("name, parser", parsers())
def test_every_argument_has_a_line(name, parser):
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("command", ["bench", "convert", "serve"])
def test_commands_without_a_config_have_help(command, capfd, monkeypatch):
    text = output(command, capfd, monkeypatch, "--help")
    assert f"usage: python -m fourd4d.{command}" in text
    if command == "convert":
        assert "(default: refuse)" in text


def test_the_list_of_commands_is_complete(capfd, monkeypatch):
    entries = {path.parent.name for path in (ROOT / "fourd4d").glob("*/__main__.py")}
    scripts = {path.stem for path in (ROOT / "fourd4d").glob("*.py")
               if '__name__ == "__main__"' in path.read_text() and path.stem != "__main__"}
    assert {name.split()[0] for name in COMMANDS} == entries | scripts
    assert entries - {"bench", "experiments", "serve"} == set(WITH_CONFIG)
    monkeypatch.setenv("COLUMNS", "200")
    main()
    text = capfd.readouterr().out
    for name, line in COMMANDS.items():
        assert re.search(rf"python -m fourd4d\.{name} +{re.escape(line)}", text)


@pytest.mark.parametrize("command", [c for c in WITH_CONFIG if c != "quickstart"])
def test_a_command_without_a_config_says_which_to_give(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [command])
    values = flags.FlagValues()
    define(values)
    with pytest.raises(SystemExit) as end:
        read_flags([command], values, module=f"fourd4d.{command}")
    line = str(end.value)
    assert f"python -m fourd4d.{command}: no config is given. Give --config=FILE" in line
    assert "\n" not in line
    assert all(config in line for config in configs_of(f"fourd4d.{command}"))
