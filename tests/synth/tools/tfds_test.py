"""The format of TFDS files is settled before anything is made."""

import importlib.util

import pytest

from fourd4d.core.errors import InputError
from fourd4d.synth.tools.tfds import with_format


def test_array_record_unless_another_format_is_named(monkeypatch):
    assert with_format(["videos", "--beam"])[-1] == "--file_format=array_record"
    for words in (["videos", "--file_format=array_record"],
                  ["videos", "--file_format", "array_record"], ["--help"]):
        assert with_format(words) == words
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for words in (["videos", "--file_format=tfrecord"], ["videos", "--file_format", "riegeli"]):
        with pytest.raises(InputError, match="not installed.*array_record"):
            with_format(words)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert with_format(["--file_format=tfrecord"]) == ["--file_format=tfrecord"]
