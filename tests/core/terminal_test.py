"""What is printed is printed as it is, and whoever stops reading ends nothing."""

import os
import subprocess
import sys

import pytest

PRINTS = """
from rich.table import Table
from fourd4d.core.terminal import plain_console, say
table = Table("type")
table.add_row({text!r})
plain_console(stderr={stderr}, width=200).print(table)
say({text!r}, stderr={stderr})
open({done!r}, "w").close()
"""


def run(tmp_path, word, to_stderr=False, **options):
    code = PRINTS.format(text=word, stderr=to_stderr, done=os.fspath(tmp_path / "done"))
    return subprocess.run([sys.executable, "-c", code], **options)


@pytest.mark.parametrize("text", ["[/b]", "[x] b", "[bold]", "\\[", ":smile:", "a" * 150,
                                  "[link=http://x]y[/link]", "3.5 %"])
def test_text_is_printed_as_it_is(tmp_path, text):
    done = run(tmp_path, text, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(text) == 2, done
    assert done.stdout.endswith(f"\n{text}\n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_characters_the_terminal_lacks_are_escaped(tmp_path, encoding):
    code = "from fourd4d.core.terminal import say\nsay('ü\\udcff', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"})
    assert done.returncode == 0 and done.stdout.endswith(b"\\udcff\n1\n"), done


@pytest.mark.parametrize("stderr", [False, True])
def test_a_reader_who_left_ends_nothing(tmp_path, stderr):
    reader, writer = os.pipe()
    os.close(reader)
    other = {"stdout" if stderr else "stderr": subprocess.PIPE}
    done = run(tmp_path, "word", stderr, **{"stderr" if stderr else "stdout": writer}, **other)
    os.close(writer)
    assert done.returncode == 0 and (tmp_path / "done").exists(), done
    assert not (done.stdout or done.stderr), done
