"""What was saved can be read: under any name; damage afterwards is named."""

import collections
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fourd4d.checkpoint import (
    CheckpointManager,
    checksums,
    orbax,
    plain_paths,
    processor_dir,
    read_specs,
    restore_params,
)
from fourd4d.core.errors import InputError

STATE = {"params": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "step": jnp.int32(7)}
NAMES = [
    "exp[lr=1e-4]", "a[b", "a]b", "[!x]", "all*", "what?", "{a,b}", "with space", " lead", "100%",
    "%41", "a:b", "C:", "a#b", "a&b", "a;b", "$HOME", "a'b", 'a"b', "a\\b", "a\tb", "a\nb", "a@b",
    "Bahn-Übung", "e\u0301", "动态", "🎥", "-x", "--config", "~", "~nobody", ".hidden", "a..b",
    "1", "x.orbax-checkpoint-tmp", "gs:", "file:", "n" * 255,
]  # fmt: skip


class Counter:
    at = 3

    def get_state(self) -> dict:
        return {"at": self.at}

    def set_state(self, state: dict) -> None:
        self.at = state["at"]


def processor(folder: str) -> None:
    (Path(folder) / "file").write_text("x")


def save(folder, state=None, **kwargs) -> None:
    with CheckpointManager(folder, processor=processor, **kwargs) as manager:
        manager.save(1, state or STATE, Counter(), {"name": "odd"})


def check(folder) -> None:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)
    with CheckpointManager(folder) as manager:
        assert manager.latest() == 1
        found = manager.restore(abstract, Counter())
    params = restore_params(folder, abstract["params"])
    for got in (found.state["params"], params):
        np.testing.assert_array_equal(got["kernel"], STATE["params"]["kernel"])
    assert found.specs == read_specs(folder) == {"name": "odd"}
    assert (processor_dir(folder) / "file").read_text() == "x"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_folders_of_any_name_hold_checkpoints(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / name / "checkpoints")
    check(tmp_path / name / "checkpoints")
    check(os.path.join(tmp_path, name, "checkpoints", ""))
    check(os.path.join(".", name, "checkpoints"))
    os.rename(tmp_path / name, tmp_path / "renamed")
    check(tmp_path / "renamed" / "checkpoints")


def test_folders_by_other_ways(tmp_path, monkeypatch):
    odd = tmp_path / "a[b]"
    odd.mkdir()
    (tmp_path / "link[1]").symlink_to(odd, target_is_directory=True)
    save(tmp_path / "link[1]" / "deep" / "er")
    check(odd / "deep" / "er")
    deep = tmp_path.joinpath(*("d" * 200,) * 10)
    save(deep)
    check(deep)
    monkeypatch.setenv("HOME", str(odd))
    save("~/mine")
    check(odd / "mine")
    check("~/mine")
    monkeypatch.chdir(odd)
    shutil.rmtree(odd / "mine")
    save("mine")
    check(odd / "mine")


def test_folders_that_cannot_be_are_refused_at_once(tmp_path, monkeypatch):
    for folder in (tmp_path / ("n" * 256), tmp_path.joinpath(*("d" * 200,) * 30)):
        with pytest.raises(InputError, match="cannot be opened.*File name too long"):
            CheckpointManager(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file, not a directory"):
        CheckpointManager(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be opened"):
        CheckpointManager(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot be kept under this name"):
        plain_paths.plain(orbax.epath.Path("gs://bucket/a[b]"))
    assert os.fspath(plain_paths.plain(orbax.epath.Path("gs://bucket/a"))) == "gs://bucket/a"
    monkeypatch.setattr(plain_paths.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no folder for temporary files"):
        CheckpointManager(tmp_path / "[never seen]")


def test_a_link_that_was_tidied_away_is_made_again(tmp_path):
    with CheckpointManager(tmp_path / "a[b]", processor=processor) as manager:
        manager.save(0, STATE, Counter(), {"name": "odd"})
        shutil.rmtree(os.path.dirname(plain_paths.plain(manager.directory)))
        manager.save(1, STATE, Counter(), {"name": "odd"})
    check(tmp_path / "a[b]")


def test_an_array_that_lacks_a_part_is_missing(saved):
    folder = orbax.epath.Path(saved / "1" / "state")
    assert orbax._missing(folder) == []
    keys = orbax._keys

    def lacking(store):
        return collections.Counter({name: n - (name == b"params.kernel")
                                    for name, n in keys(store).items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax, "_keys", lacking)
        assert orbax._missing(folder) == ["params.kernel"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_arrays_that_were_not_written_are_noticed(tmp_path, monkeypatch, asynchronous):
    """As where Orbax misreads a folder's name: it says that all is well."""
    save(tmp_path, STATE)
    with CheckpointManager(tmp_path, asynchronous=asynchronous) as manager:
        monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", lambda *_: None)
        with pytest.raises(InputError, match=r"not written .*arrays cannot be read.*1 is intact"):
            manager.save(2, STATE, Counter())
            manager.wait()
        assert manager.steps() == [1]
    monkeypatch.undo()
    check(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "processor"]


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size
                  and p.name != "commit_success.txt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(folder)
    return folder


def copy(saved: Path, target: Path) -> Path:
    shutil.copytree(saved, target / "run")
    return target / "run"


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_named_wherever_it_is(saved, tmp_path):
    names = [p.relative_to(saved) for part in ("state", "data", "specs")
             for p in files(saved / "1" / part)]
    assert len(names) >= 9
    run = copy(saved, tmp_path)
    check(run)
    for name in names:
        before = (run / name).read_bytes()
        for place in (0, len(before) // 2, -1):
            flip(run / name, place)
            with pytest.raises(InputError) as error:
                check(run)
            told = "damaged" in str(error.value) or "unreadable" in str(error.value)
            assert told and str(run / "1") in str(error.value), (name, str(error.value))
            if "checksums" not in name.name and "METADATA" not in name.name:
                assert str(run / name) in str(error.value)
            (run / name).write_bytes(before)
    check(run)


@pytest.mark.parametrize("harm, words", [
    (lambda p: p.unlink(), "the file is missing"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes where"),
    (lambda p: p.write_bytes(p.read_bytes() + b"x"), "bytes where"),
    (lambda p: p.write_bytes(b""), "0 bytes where"),
])
def test_missing_and_cut_files_are_named(saved, tmp_path, harm, words):
    run = copy(saved, tmp_path)
    path = max(files(run / "1" / "state" / "ocdbt.process_0" / "d"), key=lambda p: p.stat().st_size)
    harm(path)
    with pytest.raises(InputError, match=words) as error:
        check(run)
    assert str(path) in str(error.value) and "Restore another step" in str(error.value)


def test_files_beside_and_old_checkpoints_are_no_damage(saved, tmp_path):
    run = copy(saved, tmp_path)
    for part in ("state", "data", "specs"):
        (run / "1" / part / ".DS_Store").write_bytes(b"x")
    check(run)
    for path in run.rglob(checksums.NAME):
        path.unlink()
    check(run)


def test_checksums_that_cannot_be_read_are_named(saved, tmp_path):
    run = copy(saved, tmp_path)
    for text in ("{", "[]", '{"a": 1}', '{"a": {"size": "x", "crc32": "0"}}'):
        (run / "1" / "state" / checksums.NAME).write_text(text)
        with pytest.raises(InputError, match="state/checksums.json.*unreadable checksums"):
            check(run)


def test_files_that_may_not_be_read_are_named(saved, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checksums, "_sum", refuse)
    monkeypatch.setattr(checksums, "_known", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_specs(saved)


def test_each_process_verifies_its_share(saved, monkeypatch):
    seen = []
    monkeypatch.setattr(checksums, "_fault", lambda path, want: seen.append(path.name))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(checksums.multihost_utils, "process_allgather", lambda x: [x, x])
    folder = orbax.epath.Path(saved / "1" / "state")
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        checksums.verify(folder)
    table = json.loads((folder / checksums.NAME).read_text())
    assert sorted(seen) == sorted(name.rpartition("/")[2] for name in table)
    monkeypatch.setattr(checksums.multihost_utils, "process_allgather", lambda x: [x, True])
    with pytest.raises(InputError, match="as another process found"):
        checksums.verify(folder)
