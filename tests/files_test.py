"""Files appear whole or not at all."""

import os

import pytest

from fourd4d.core.files import replacing


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == path.parent
    with replacing(os.fspath(path)) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and os.listdir(path.parent) == ["x.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyError):
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]
