"""Files appear whole or not at all, and a full disk is told."""

import errno
import os
import threading

import pytest

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
