"""Files appear whole or not at all, and a full disk is told."""

import errno
import json
import os
import threading
import zipfile

import numpy as np
import pytest

from fourd4d.core import files
from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.core.files import full_disk_told, replacing


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


def test_json_that_is_none_is_told_in_one_line(tmp_path):
    deep, long = "[" * 100_000, "1" * 400
    for text, what in ((deep, "nested too deeply"), (f'{{"a": {long}}}', "number of 400 digits"),
                       ('{"a": 1e999}', "not finite"), ('{"a": NaN}', "not finite"),
                       ('{"a": -Infinity}', "not finite"), ("{", "malformed JSON"),
                       ("", "malformed JSON")):
        with pytest.raises(InputError, match=f"^here: .*{what}") as caught:
            files.parse_json(text, "here")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not UTF-8"):
        files.parse_json(b'"\xff"', "here")
    assert files.parse_json('{"a": 123456789012345678901234567890}', "here")["a"] > 1e29


def test_a_file_holds_a_json_object_or_is_told(tmp_path):
    path = tmp_path / "x.json"
    for text, message in [("{", "malformed JSON"), ("1" * 400, "number of 400 digits"),
                          ('{"a": ' + "[" * 100_000, "nested too deeply"), ("[]", "holds list"),
                          ('{"b": 1}', "holds no 'a'"), (None, "no such file")]:
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(InputError, match=message) as error:
            files.read_object(path, "Make it again", "Make it again", holding=("a",))
        assert str(error.value).startswith(f"{path}: ") and "Make it again" in str(error.value)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert files.read_object(path, "Make it again", holding=("a",)) == {"a": 1}


@pytest.mark.parametrize("damage",
                         ["cut", "flip", "text", "empty", "zip", "pickle", "folder", "big"])
def test_a_broken_array_file_is_told_in_one_line(tmp_path, damage, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, masks=np.arange(9000).reshape(9, -1), fps=2.0)
    assert set(files.read_arrays(path)) == {"masks", "fps"}
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        path.write_bytes(whole[:200] + bytes(b ^ 255 for b in whole[200:260]) + whole[260:])
    elif damage in ("text", "empty"):
        path.write_bytes(b"no archive" if damage == "text" else b"")
    elif damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("masks.npy", b"not an array")
    elif damage == "pickle":
        np.savez(path, masks=np.array([{}], object))
    elif damage == "big":
        monkeypatch.setattr(files, "MOST_ARRAY_BYTES", 1000)
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(InputError, match="a.npz: it is not a readable array file"):
        files.read_arrays(path)


@pytest.mark.parametrize("text, what", [
    ("[" * 101 + "]" * 101, "nested too deeply"), ('{"a":' * 101 + "1" + "}" * 101, "too deeply"),
    (r'["\ud800"]', "surrogate"), (r'{"\uDFFF": 1}', "surrogate"), (b'"\xed\xa0\x80"', "not UTF-8"),
])
def test_json_that_could_not_be_written_again_is_refused(text, what):
    with pytest.raises(InputError, match=what):
        files.parse_json(text, "here")


@pytest.mark.parametrize("text", [
    "[" * 100 + "]" * 100, r'"\ud83d\ude00"', '"' + "[" * 500 + '"', "[" + "[]," * 500 + "[]]",
    r'"\\ud800"', "1" * 300, '{"a": [1, -2.5, 1e300, null, true]}',
])
def test_json_is_read_as_the_library_reads_it(text):
    assert files.parse_json(text, "x") == json.loads(text)
    assert files.parse_json(b"\xef\xbb\xbf" + text.encode(), "x") == json.loads(text)
