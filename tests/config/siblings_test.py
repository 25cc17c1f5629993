"""Configs open from any working directory, and so do a user's own copies of them."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from absl import flags

from fourd4d.config.flags import define, only_given, read_flags

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Opens a config from a folder in which nothing else can be imported."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() not in
                                      (ROOT, elsewhere)])
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)

    def parse(file, *arguments):
        values = flags.FlagValues()
        define(values)
        command = ["program", f"--config={file}", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        read_flags(command, values)
        return only_given(values.config)

    return parse


@pytest.mark.parametrize("name", NAMES)
def test_every_config_opens_from_elsewhere(name, parse):
    assert len(parse(ROOT / "configs" / f"{name}.py"))


@pytest.mark.parametrize("folder", ["my experiments", "exp/configs"])
def test_a_copied_folder_is_its_own(folder, parse, tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / folder)
    base = tmp_path / folder / "rl_3b.py"
    base.write_text(base.read_text().replace("config.seed = 0", "config.seed = 41"))
    path, known = list(sys.path), set(sys.modules)
    assert parse(base.with_name("rl_72b.py")).seed == 41
    assert parse(os.path.relpath(base.with_name("rl_tiny.py"))).seed == 41
    assert parse(ROOT / "configs" / "rl_tiny.py").seed == 0
    assert sys.path == path and not {n for n in set(sys.modules) - known if "configs" in n}


def test_one_file_may_build_on_a_shipped_config_of_its_name(parse, tmp_path):
    own = tmp_path / "rl_tiny.py"
    own.write_text("from configs import rl_tiny\n\n\ndef get_config():\n"
                   "    config = rl_tiny.get_config()\n    config.seed = 5\n    return config\n")
    assert parse(own).seed == 5


def test_folders_within_and_by_their_own_name(parse, tmp_path):
    folder = tmp_path / "configs" / "sweep"
    folder.mkdir(parents=True)
    tail = "\n\n\ndef get_config():\n    return base.get_config()\n"
    (tmp_path / "configs" / "base.py").write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict(dict(seed=6))\n")
    for text in ("from configs import base", "from configs.sweep import near as base",
                 "import near as base", "from sweep import near as base"):
        (folder / "near.py").write_text("from configs import base" + tail)
        (folder / "first.py").write_text(text + tail)
        assert parse(folder / "first.py").seed == 6, text


def test_nothing_is_shadowed(parse, tmp_path):
    (tmp_path / "json.py").write_text("raise AssertionError\n")
    (tmp_path / "mine.py").write_text(
        "import json\n\nimport ml_collections\n\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict(dict(text=json.dumps(1)))\n")
    known = sys.modules.pop("json")
    try:
        assert parse(tmp_path / "mine.py").text == "1"
    finally:
        sys.modules["json"] = known


@pytest.mark.parametrize("text, told", [
    ("def get_config():\n    return {}\n", "gives dict. It must return a ConfigDict"),
    (None, "no such config file. Give --config=FILE"),
])
def test_what_is_not_a_config_is_told(text, told, parse, tmp_path):
    if text is not None:
        (tmp_path / "odd.py").write_text(text)
    with pytest.raises(SystemExit, match=told):
        parse(tmp_path / "odd.py")
