"""What README and docs tell to type works: commands, flags, config fields, files, links."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import absl.app
import absl.flags
import pytest
from dependencies_test import requirements

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What stands for a reader's own, where a command looks at it.
STANDS_FOR = {"--config=FILE": "--config=configs/dift_tiny.py"}


def lines(text: str) -> list[str]:
    """Whole lines of code, and code within the text, each on one line."""
    found, prose, fenced = [], [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or (line.startswith("    ") and line.strip()):
            found.append(line.strip())
        else:
            prose.append(line)
    found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", "\n".join(prose))]
    return [line.replace("\\|", "|") for line in found]


def commands(start: str) -> list[tuple[str, str]]:
    """(page, command) of every different one that begins so."""
    return sorted({(str(page.relative_to(ROOT)), line)
                   for page in PAGES for line in lines(page.read_text(encoding="utf-8"))
                   if line.startswith(start)})


class Parsed(BaseException):
    """The command line was understood; nothing ran."""


@pytest.fixture
def only_parsed(monkeypatch):
    """``python -m`` up to where its command line is understood."""
    import argparse

    parse = argparse.ArgumentParser.parse_args

    def parsed(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    def run(main, flags_parser):
        flags_parser(sys.argv)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(absl.app, "run", run)
    monkeypatch.chdir(ROOT)

    def understood(words: list[str]) -> None:
        monkeypatch.setattr(absl.flags, "FLAGS", absl.flags.FlagValues())
        monkeypatch.setattr(sys, "argv", [words[0], *words[1:]])
        with pytest.raises(Parsed):
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)

    return understood


def words_of(command: str) -> list[str]:
    """Module and arguments, with something in place of what stands for a reader's own."""
    words = [word for word in shlex.split(command)[2:] if word not in ("…", "...")]
    if words[0] == "fourd4d.bench" and words[1] == "NAME":
        words[1] = "replay"
    return [STANDS_FOR.get(word, word).replace(".py:ARM", ".py:imagery") for word in words]


@pytest.mark.parametrize("page, command", commands("python -m fourd4d."))
def test_a_command_is_understood(only_parsed, page, command):
    words = words_of(command)
    if words == ["fourd4d.quickstart"] or len(words) > 1:
        only_parsed(words)
    else:  # A name in a sentence.
        __import__(words[0])


def test_there_are_commands_and_a_misspelt_one_is_noticed(only_parsed):
    assert len(commands("python -m fourd4d.")) > 30
    for bad in ("fourd4d.dift --config=configs/dift_tiny.py --config.stepz=3",
                "fourd4d.dift --config=configs/absent.py", "fourd4d.bench repaly",
                "fourd4d.convert a b --two hf", "fourd4d.eval compare a",
                "fourd4d.synth report", "fourd4d.dift --config=configs/dift_tiny.py --dryrun"):
        with pytest.raises(SystemExit):
            only_parsed(bad.split())


def test_python_minus_m_lists_every_command_of_the_docs(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fourd4d"])
    runpy.run_module("fourd4d", run_name="__main__", alter_sys=True)
    told = capsys.readouterr().out
    assert "python -m fourd4d.train_page" in told
    missing = {words_of(command)[0] for _, command in commands("python -m fourd4d.")
               if "bench.full_size" not in command}
    assert {name for name in missing if f"python -m {name}" not in told} == set()


@pytest.mark.parametrize("page, command", commands("pip install"))
def test_an_extra_exists(page, command):
    extras = {name for group in re.findall(r"\[([\w,]+)\]", command) for name in group.split(",")}
    assert extras <= set(requirements()[1]), page


def test_what_else_is_typed_is_there():
    """Scripts and test files by their path; every config by name."""
    for page, command in [*commands("launch/"), *commands("pytest "), *commands("bash ")]:
        for word in shlex.split(command.partition("#")[0]):
            if re.match(r"(launch|tests|\.ci)/", word):
                assert (ROOT / word).exists(), f"{page}: {word}"
    for page in PAGES:
        for name in re.findall(r"configs/(\w+)\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / "configs" / f"{name}.py").is_file(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_the_messages_of_the_troubleshooting_page_are_in_the_code():
    """What is quoted there is what the package says, up to what it fills in."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)`", page.partition("## What no message tells")[0], re.M)
    assert len(quoted) >= 20
    source = " ".join(path.read_text(encoding="utf-8")
                      for path in (ROOT / "fourd4d").rglob("*.py"))
    source = re.sub(r"\"\s+f?\"", "", source)  # Strings that go on in the next line.
    for message in quoted:
        for part in re.split(r"\d+|…|\. (?=[A-Z])", message.replace("\\|", "|")):
            assert part.strip(" .:") in source, f"{message}: {part!r}"
