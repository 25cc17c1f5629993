"""The journal: what is appended stands there after any end, and is taken up again."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fourd4d.core import journal
from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.core.journal import Journal, Layout, read

LAYOUT = Layout("a log of tests", row=lambda value: (value["key"], value["n"]), header="run",
                place="folder")
HEADER = {"run": {"seed": 0, "model": {"size": 3}}}
FIRST = '{"run": {"seed": 0, "model": {"size": 3}}}\n'


def row(key, n=0):
    return {"key": key, "n": n}


@pytest.fixture
def path(tmp_path):
    """A journal of two rows in a folder that was not there."""
    path = tmp_path / "new" / "log.jsonl"
    with Journal(path, LAYOUT, HEADER) as log:
        assert log.rows == []
        log.append(row("a"), row("ü", 1))
        log.append()
    return path


def test_the_file_is_one_json_value_a_line(path):
    assert path.read_text() == FIRST + '{"key": "a", "n": 0}\n{"key": "ü", "n": 1}\n'
    plain = Layout("a log", ascii=True)
    with Journal(path.with_name("plain"), plain) as log:
        log.append({"text": "ü"})
    assert path.with_name("plain").read_text() == '{"text": "\\u00fc"}\n'


@pytest.mark.parametrize("header, rest", [(HEADER, {"run": {"seed": 0, "model": {"size": 3}}}),
                                          ({"run": [(1, 2)]}, {"run": [[1, 2]]})])
def test_it_is_taken_up_again(tmp_path, header, rest):
    path = tmp_path / "log.jsonl"
    for number in range(3):
        with Journal(path, LAYOUT, header) as log:
            assert log.rows == [("r", n) for n in range(number)]
            log.append(row("r", number))
    assert read(path, LAYOUT) == (rest, [("r", 0), ("r", 1), ("r", 2)])


@pytest.mark.parametrize("cut", ['{"key": "b", "n"', '{"key": "b", "n": 2}', "\0\0\0", '"\xc3'])
def test_a_torn_last_line_is_cut_off(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole + cut.encode("latin-1"))
    assert read(path, LAYOUT)[1] == [("a", 0), ("ü", 1)]
    with Journal(path, LAYOUT, HEADER) as log:
        assert log.rows == [("a", 0), ("ü", 1)] and path.read_bytes() == whole
        log.append(row("b", 2))
    assert path.read_bytes() == whole + b'{"key": "b", "n": 2}\n'


@pytest.mark.parametrize("size", range(0, len(FIRST), 7))
def test_a_torn_header_is_written_again(path, size):
    path.write_text(FIRST[:size])
    assert read(path, LAYOUT) == (None, [])
    with Journal(path, LAYOUT, HEADER) as log:
        assert log.rows == []
    assert path.read_text() == FIRST


@pytest.mark.parametrize("other, told", [
    ({"seed": 1, "model": {"size": 3}}, "seed was 0, is 1"),
    ({"seed": 0, "model": {"size": 7}}, "model.size was 3, is 7"),
    ({"seed": 0, "model": None}, "model was {'size': 3}, is None"),
    ({"seed": 0, "model": {"size": 3}, "more": "x" * 999}, "more was None, is 'xxx"),
])
def test_another_run_is_refused_by_name(path, other, told):
    before = path.read_bytes()
    with pytest.raises(InputError) as error:
        Journal(path, LAYOUT, {"run": other})
    assert f"{path}: it belongs to another run ({told}" in str(error.value)
    assert "Choose another folder, or delete this file." in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path)) and path.read_bytes() == before
    with pytest.raises(InputError, match=r"another run \(run.seed was 0, is 1\)"):
        Journal(path.with_name("wide"), LAYOUT, {**HEADER, "weights": "w"}).close()
        Journal(path.with_name("wide"), LAYOUT, {"run": {**HEADER["run"], "seed": 1},
                                                "weights": "w"})


@pytest.mark.parametrize("text, number", [
    ('{"step": 1}\n', 1), ("words\n", 1), ("[]\n", 1), ("words without an end", 1),
    (FIRST + '{"key": "a"}\n' + '{"key": "a", "n": 0}\n', 2), (FIRST + "\n", 2),
    (FIRST + '{"key": "a", "n": 0}\n' + '{"key": "b", "n": NaN}\n', 3), (FIRST + "7\n", 2),
])
def test_what_is_not_a_journal_is_told_and_left_alone(tmp_path, text, number):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"log\.jsonl:{number}: .*Delete the line"):
        Journal(path, LAYOUT, HEADER)
    assert path.read_text() == text


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "\udce9", object()],
                         ids=["nan", "inf", "surrogate", "object"])
def test_what_could_not_be_read_again_is_not_written(path, value):
    before = path.read_text()
    with Journal(path, LAYOUT, HEADER) as log:
        with pytest.raises((TypeError, ValueError)):
            log.append(row("c"), {"key": "d", "n": value})
        assert path.read_text() == before
        log.append(row("c"))
    assert path.read_text() == before + '{"key": "c", "n": 0}\n'


def test_numbers_of_a_layout_may_be_infinite(tmp_path):
    path, layout = tmp_path / "log.jsonl", Layout("a log", finite=False)
    with Journal(path, layout) as log:
        log.append({"loss": float("inf")})
    assert read(path, layout) == (None, [{"loss": float("inf")}])
    with pytest.raises(InputError, match="not finite"):
        read(path, Layout("a log"))


def test_one_writer_at_a_time(path):
    with Journal(path, LAYOUT, HEADER) as log:
        with pytest.raises(InputError, match="another process writes a log of tests there. Wait"):
            Journal(path, LAYOUT, HEADER)
        assert len(read(path, LAYOUT)[1]) == 2  # Reading needs no lock.
        log.keep_only(lambda row: row[0] == "a")
        with pytest.raises(InputError, match="another process writes"):  # Nor is it lost.
            Journal(path, LAYOUT, HEADER)
        with Journal(path, LAYOUT, HEADER, lock=False) as other:
            assert other.rows == [("a", 0)]
    Journal(path, LAYOUT, HEADER).close()


def test_a_lock_ends_with_its_journal_though_a_worker_holds_the_file(path):
    log = Journal(path, LAYOUT, HEADER)
    ready, done = os.pipe()
    worker = os.fork()
    if not worker:
        os.close(done)
        os.read(ready, 1)
        os._exit(0)
    log.close()
    try:
        Journal(path, LAYOUT, HEADER).close()
    finally:
        os.close(done)
        os.waitpid(worker, 0)


def test_who_waited_for_a_file_that_was_replaced_writes_the_new_one(path, monkeypatch):
    real, swapped = fcntl.flock, []

    def late(file, how):
        if not swapped:  # Between opening and locking, another process replaces the file.
            swapped.append(path.with_name("draft"))
            swapped[0].write_text(FIRST)
            os.replace(swapped[0], path)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Journal(path, LAYOUT, HEADER) as log:
        assert log.rows == []
        log.append(row("c"))
    assert path.read_text() == FIRST + '{"key": "c", "n": 0}\n'


def test_a_file_system_without_locks_is_told(path, monkeypatch, capfd):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    log = Journal(path, LAYOUT, HEADER)
    assert "log.jsonl: it cannot be locked (No locks available). Let no other" in (
        capfd.readouterr().err)
    monkeypatch.undo()
    log.append(row("c"))
    log.close()
    assert len(read(path, LAYOUT)[1]) == 3


def test_rows_are_taken_out_whole_or_not_at_all(path, monkeypatch):
    with Journal(path, LAYOUT, HEADER) as log:
        inode = path.stat().st_ino
        log.keep_only(lambda row: True)
        assert path.stat().st_ino == inode  # Nothing to do, nothing written.
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            log.keep_only(lambda row: row[0] == "a")
        assert len(read(path, LAYOUT)[1]) == 2 and os.listdir(path.parent) == ["log.jsonl"]
        log.keep_only(lambda row: row[0] == "a")
        assert log.rows == [("a", 0)]
        log.append(row("c"))
    assert path.read_text() == FIRST + '{"key": "a", "n": 0}\n{"key": "c", "n": 0}\n'


def test_a_full_disk_costs_no_row_before_it(path, file_limit):
    with Journal(path, LAYOUT, HEADER) as log:
        whole = path.read_bytes()
        file_limit(len(whole) + 9)
        with pytest.raises(DiskFullError, match=r"log\.jsonl: no space left on the disk"):
            log.append(row("c"))
        file_limit(None)
        assert path.read_bytes() == whole
        log.append(row("c"))
    assert read(path, LAYOUT)[1][2:] == [("c", 0)]


@pytest.mark.parametrize("sync", [False, True])
def test_rows_are_synced_where_that_is_asked(path, sync, monkeypatch):
    calls = []
    monkeypatch.setattr(journal.os, "fsync", calls.append)
    with Journal(path, LAYOUT, HEADER, sync=sync) as log:
        log.append(row("c"), row("d"))
    assert len(calls) == sync


WRITER = """
import sys
from fourd4d.core.journal import Journal, Layout
log = Journal(sys.argv[1], Layout("a log", header="run"), {"run": 1})
print(len(log.rows), flush=True)
number = len(log.rows)
while True:
    log.append({"n": number, "text": "x" * 300})
    number += 1
"""


def test_a_kill_leaves_whole_rows_and_no_lock(tmp_path):
    path, found = tmp_path / "log.jsonl", []
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        found.append(int(writer.stdout.readline()))
        size = path.stat().st_size
        while path.stat().st_size < size + 20_000:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert found[0] == 0 and found[1] >= 60
    header, rows = read(path, Layout("a log", header="run"))
    assert header == {"run": 1} and [r["n"] for r in rows] == list(range(len(rows)))
    assert all(json.loads(line) for line in path.read_text().splitlines()[:-1])
