"""What README and docs tell to type works: commands, flags, config fields, files, links."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest import mock

import absl.app
import absl.flags
import numpy as np
import pytest
from dependencies_test import requirements

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")),
         *(ROOT / "fourd4d" / "models" / "assets" / name / "README.md"
           for name in ("tiny_base", "tiny_imagery"))]
# What stands for a reader's own, where a command looks at it.
STANDS_FOR = {"--config=FILE": "--config=configs/dift_tiny.py",
              "--config=…": "--config=configs/dift_tiny.py"}
PROGRAMS = ("python", "pip", "pytest", "bash", "sbatch", "gcloud", "hf", "tensorboard", "jupytext",
            "git", "curl", "docker")
LAUNCHERS = {"launch/gpu_train.sh": 0, "launch/tpu_train.sh": 2}  # Words before the command.
# What no parser of the package reads: where it is run, or why it is not.
ELSEWHERE = {
    "python -m venv .venv && . .venv/bin/activate": ".ci/run makes its environment so",
    "pre-commit install": "needs a checkout of one's own, whose hooks it changes",
    'python -c "import jax; print(jax.devices())"': "test_jax_tells_its_devices",
    "python -m lmms_eval --model fourd4d": "tests/eval/lmms_test.py, where lmms-eval is",
    "python -m lmms_eval --model openai": "tests/serve/lmms_eval_test.py, where lmms-eval is",
    "tensorboard --logdir runs": "TensorBoard's own; tests/train/loop_test.py reads its files",
    "hf auth login": "asks for a key of the Hugging Face hub",
}


def parts(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(language, lines) of each block of code, and the code within the text, on one line each.

    The language of an indented block, and of a fenced one without, is the empty string.
    """
    blocks, prose, fence = list[tuple[str, str]](), list[str](), None
    before = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line[3:].strip()
            if fence is not None:
                blocks.append((fence, ""))
        elif fence is not None or (line.startswith("    ") and line.strip()):
            if fence is None and not (before.startswith("    ") and before.strip()):
                blocks.append(("", ""))
            language, code = blocks[-1]
            blocks[-1] = language, code + (line if fence is not None else line[4:]) + "\n"
        else:
            prose.append(line)
        before = line
    within = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", "\n".join(prose))]
    return blocks, [code.replace("\\|", "|") for code in within]


def typed(line: str) -> str:
    """A line without the comment behind it, and without variables or ``sbatch`` before it."""
    return re.sub(r"^(?:[A-Z_]+=\S+ )+|^sbatch (?:--\S+ )+", "",
                  re.sub(r"\s+#.*", "", line.strip()))


def lines(text: str) -> list[str]:
    """What is typed: lines of blocks without a language, and code within the text."""
    blocks, within = parts(text)
    found = [line for language, code in blocks if not language for line in code.splitlines()]
    return [one for one in map(typed, [*found, *within]) if one]


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
    if command.startswith("launch/"):
        script, *words = shlex.split(command)
        words = words[LAUNCHERS[script] :]
        words[0] = f"fourd4d.{words[0]}"
    if words[0] == "fourd4d.bench" and words[1] == "NAME":
        words[1] = "replay"
    return [STANDS_FOR.get(word, word).replace(".py:ARM", ".py:imagery") for word in words]


@pytest.mark.parametrize("page, command", [
    *commands("python -m fourd4d."), *(one for one in commands("launch/") if " " in one[1])])
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


def claimed(line: str) -> bool:
    """Whether a test of this file, or what ``ELSEWHERE`` names, knows the command."""
    words = line.split()
    if words[:2] == ["pip", "install"] or line == "python -m fourd4d":
        return True
    if words[0] in ("pytest", "bash", "launch/gpu_train.sh", "launch/tpu_train.sh"):
        return True
    return line.startswith(("python -m fourd4d.", *ELSEWHERE))


def test_no_command_is_left_out():
    """Every line of a block without a language, and what within the text begins like a command."""
    left = []
    for page in PAGES:
        blocks, within = parts(page.read_text(encoding="utf-8"))
        left += [(page.name, line) for language, code in blocks if not language
                 for line in map(typed, code.splitlines()) if line and not claimed(line)]
        left += [(page.name, line) for line in map(typed, within)
                 if re.match(rf"({'|'.join(PROGRAMS)}) ", line) and not claimed(line)]
        assert {language for language, _ in blocks} <= {"", "python", "json"}, page
    assert left == []
    assert not claimed("sbatch job.sh") and not claimed("python script.py")
    known = [line for page in PAGES for line in lines(page.read_text(encoding="utf-8"))]
    assert [start for start in ELSEWHERE
            if not any(line.startswith(start) for line in known)] == []
    for reason in ELSEWHERE.values():
        for name in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / name).is_file(), name


def test_jax_tells_its_devices(capsys):
    (line,) = {line for page in PAGES for line in lines(page.read_text(encoding="utf-8"))
               if line.startswith("python -c")}
    exec(compile(shlex.split(line)[2], "docs", "exec"), {})
    assert "CpuDevice" in capsys.readouterr().out


def blocks_of(language: str) -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), code) for page in PAGES
            for own, code in parts(page.read_text(encoding="utf-8"))[0] if own == language]


@pytest.mark.parametrize("page, code", [
    one for one in blocks_of("python") if "fourd4d.load(" in one[1]])
def test_python_on_a_page_runs(page, code):
    """With a stand-in for the checkpoint that takes what the real one takes."""
    import fourd4d
    from fourd4d.api import Answer, Answerer

    thinker = mock.create_autospec(Answerer, instance=True)
    thinker.answer.return_value = Answer("", "A", np.zeros((0, 4), np.float32), False)
    with mock.patch.object(fourd4d, "load", mock.create_autospec(
            fourd4d.load, return_value=thinker)) as load:
        exec(compile(code, page, "exec"), {})
    load.assert_called_once()
    thinker.answer.assert_called_once()


def test_other_python_on_the_pages_is_run_where_it_says():
    """What is not run above: OpenAI's client by the server's test, the card by the export's."""
    others = [(page, code) for page, code in blocks_of("python") if "fourd4d.load(" not in code]
    run = {"openai.OpenAI(": "tests/serve/server_test.py", "custom_generate=here":
           "tests/pretrained/custom_generate_test.py", "def brief(": ""}
    for page, code in others:
        (name,) = {name for mark, name in run.items() if mark in code} or {"nowhere"}
        assert not name or (ROOT / name).is_file(), page
        ast.parse(code)
        if "def brief(" in code:
            names: dict = {}
            exec(code, names)
            assert names["brief"](None, "x" * 399) == 1.0 and names["brief"](None, "x" * 400) == 0.0


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
