"""Checkpoints in folders of any name."""

import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.checkpoint import (
    CheckpointManager,
    integrity,
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
]


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
    monkeypatch.setattr(integrity.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="without a temporary folder"):
        CheckpointManager(tmp_path / "[never seen]")


def test_a_link_that_was_tidied_away_is_made_again(tmp_path):
    with CheckpointManager(tmp_path / "a[b]", processor=processor) as manager:
        manager.save(0, STATE, Counter(), {"name": "odd"})
        shutil.rmtree(os.path.dirname(integrity.plain_path(manager.directory)))
        manager.save(1, STATE, Counter(), {"name": "odd"})
    check(tmp_path / "a[b]")
