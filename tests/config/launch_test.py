"""What ends a command ends it with one line."""

import os
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from fourd4d.config.launch import field_of
from fourd4d.core.errors import InputError
from fourd4d.core.files import file_errors_told

MAIN = """
from pathlib import Path
from fourd4d.config.launch import launch
def run(config):
    Path(config.workdir, "logs").mkdir(parents=True)
launch(run)
"""


def test_a_folder_that_cannot_be_used_is_one_line_with_its_field(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    config = tmp_path / "mine.py"
    config.write_text("import ml_collections\n\n\ndef get_config():\n"
                      "    return ml_collections.ConfigDict(dict(workdir='', title='x'))\n")

    done = subprocess.run(
        [sys.executable, "-c", MAIN, f"--config={config}", f"--config.workdir={taken}/[below]"],
        capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (f"{taken}/[below]/logs: it cannot be used (Not a directory). Choose "
                           "another config.workdir, or change its permissions.\n")


@pytest.mark.parametrize("file, name", [
    ("/a/b", "config.data.path"), ("/a/b/c", "config.data.path"), ("/a", "config.data.path"),
    ("/a/b/run/x", "config.workdir"), ("rel/x", "config.out"), ("/c", "")])
def test_the_field_that_leads_to_a_file_is_found(file, name):
    config = ConfigDict(dict(data=dict(path="/a/b", root=""), workdir="/a/b/run", out="rel",
                             steps=3, names=("x",)))
    assert field_of(file, config) == name


def test_errors_that_name_no_file_pass():
    with pytest.raises(OSError, match="odd") as found:
        with file_errors_told():
            raise OSError(5, "odd")
    assert not isinstance(found.value, InputError)
    with pytest.raises(InputError, match=r"^/a: it cannot be used \(Permission denied\)"):
        with file_errors_told():
            raise PermissionError(13, os.strerror(13), "/a")
