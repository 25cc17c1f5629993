"""Files appear whole or not at all, a full disk is reported, and JSON is checked as it is read."""

import errno
import json
import math
import os
import sys
import threading

import pytest

from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.core.files import full_disk_told, parse_json, read_json, read_object, replacing


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


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path):
    """Each holds its draft open while the others write and rename theirs."""
    path, gate, failed = tmp_path / "x.txt", threading.Barrier(4, timeout=10), []

    def write(text):
        try:
            with replacing(path) as temporary:
                gate.wait()
                temporary.write_text(text)
                gate.wait()
        except Exception as error:
            failed.append(error)

    texts = [letter * 1000 for letter in "abcd"]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_text() in texts and os.listdir(tmp_path) == ["x.txt"]


def test_a_full_disk_is_told_by_the_files_name_and_leaves_the_old_one(tmp_path, file_limit):
    path = tmp_path / "x.txt"
    path.write_text("old")
    file_limit(1000)
    with pytest.raises(DiskFullError, match=r"x\.txt: no space left on the disk\. Free some space"):
        with replacing(path) as temporary:
            temporary.write_bytes(b"x" * 4000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error, told", [
    (OSError(errno.ENOSPC, "x"), True), (OSError(errno.EDQUOT, "x"), True),
    (RuntimeError("write() failed: No space left on device; at byte 3"), True),
    (OSError(errno.EIO, "x"), False), (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
    (InputError("row 3", "No space left between its words"), False),
])
def test_only_a_full_disk_is_told_as_one(error, told):
    with pytest.raises(DiskFullError if told else type(error)) as caught:
        with full_disk_told("out"):
            raise error
    assert told == (type(caught.value) is DiskFullError)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("data, what", [
    ("1" * 400, "a number is too large: 111111111111… (400 characters)"),
    ('{"a": -' + "1" * 5000 + "}", "a number is too large"), ("[1e999]", "too large: 1e999"),
    ("[NaN]", "NaN is not a JSON number"), ('{"a": -Infinity}', "-Infinity is not"),
    ("[" * 100_000, "nested more than 100 levels"), (nested(101), "nested more than 100 levels"),
    ('{"a":' * 101 + "1" + "}" * 101, "nested more than 100 levels"),
    (r'["\ud800"]', "surrogate"), (r'{"\uDFFF": 1}', "surrogate"),
    ('{"a":\n 1,}', "malformed JSON (Illegal trailing comma" if sys.version_info >= (3, 13)
     else "at line 2, column 4"), ("", "malformed JSON"), ("[1] 2", "malformed JSON (Extra data"),
    (b'"\xff"', "not UTF-8"), (b'"\xed\xa0\x80"', "not UTF-8"),
])
def test_json_that_cannot_be_used_is_refused_in_one_line(data, what):
    with pytest.raises(InputError) as error:
        parse_json(data, "x.jsonl:3", "Fix the line")
    assert str(error.value).startswith("x.jsonl:3: ") and what in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("text", [
    '{"a": [1, -2.5, 1e300, "x", null, true]}', "1" * 300, nested(100), r'"\ud83d\ude00"',
    '"' + "[" * 500 + '"', "[" + "[]," * 500 + "[]]", r'"\\ud800"',
])
def test_json_is_read_as_the_library_reads_it(text):
    assert parse_json(text, "x") == json.loads(text)
    assert parse_json(text.encode(), "x") == parse_json(b"\xef\xbb\xbf" + text.encode(), "x")


def test_own_logs_may_hold_nan():
    assert math.isnan(parse_json("[NaN]", "x", finite=False)[0])
    assert parse_json("[-Infinity, 1e999]", "x", finite=False) == [-math.inf, math.inf]
    with pytest.raises(InputError, match="too large"):
        parse_json("1" * 400, "x", finite=False)


def test_json_files_name_themselves(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match=r"config\.json: no such file\. Give it\."):
        read_object(path, "Give it")
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]
    with pytest.raises(InputError, match=r"config\.json: not a JSON object but list"):
        read_object(path, "Give it")
    path.write_text("1" * 400)
    with pytest.raises(InputError, match=r"config\.json: malformed JSON \(a number is too large"):
        read_object(path, "Give it")
    with pytest.raises(InputError, match=f"{tmp_path.name}: cannot be read"):
        read_json(tmp_path)
