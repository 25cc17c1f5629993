"""One rule of what a checkpoint directory is, whoever asks."""

import os

import pytest

from fourd4d import convert
from fourd4d.core.errors import InputError
from fourd4d.parallel import make_mesh
from fourd4d.pretrained import open as opening
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.open import SHIPPED, kind_of, located, open_checkpoint


@pytest.mark.parametrize("files, kind", [
    (["config.json"], "hf"), (["config.json", "processor/tokenizer.json"], "hf"),
    (["processor/tokenizer.json", "100/specs/metadata"], "trained"),
    (["processor"], "hf"), (["adapter_config.json"], "hf"), ([], "hf"),
])
def test_a_directory_is_known_by_its_files(tmp_path, files, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert kind_of(tmp_path) == kind_of(str(tmp_path)) == kind


def test_names_and_home_are_places_too(tmp_path, monkeypatch):
    assert located("tiny-base") == SHIPPED["tiny-base"] and kind_of("tiny-base") == "hf"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run" / "processor").mkdir(parents=True)
    assert located("~/run") == tmp_path / "run" and kind_of("~/run") == "trained"


@pytest.mark.parametrize("name", ["nowhere", "~/nowhere", "file"])
def test_no_directory_is_told_as_it_was_typed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"^{name}: no such directory. Give a checkpoint"):
        kind_of(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(tmp_path):
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot be read"):
            kind_of(tmp_path / "closed" / "inner")
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("kind", ["hf", "trained"])
def test_who_opens_goes_by_the_rule(tmp_path, monkeypatch, kind, capfd):
    (tmp_path / "processor").mkdir()
    if kind == "hf":
        (tmp_path / "config.json").write_text("{}")
    calls, bundle = [], object.__new__(ModelBundle)
    for module in (opening, convert):
        monkeypatch.setattr(module, "open_hf", lambda *_, **__: calls.append("hf") or bundle)
    monkeypatch.setattr(
        opening, "open_trained", lambda *_, **__: calls.append("trained") or bundle)
    monkeypatch.setattr(convert, "read_specs", lambda *_: {})
    for name in ("export_hf", "export_orbax"):
        monkeypatch.setattr(convert, name, lambda *_, name=name, **__: calls.append(name))
    open_checkpoint(tmp_path, make_mesh("data=1"))
    assert convert.main([str(tmp_path), str(tmp_path / "new"), "--mesh", "data=1"]) == 0
    assert calls == [kind, kind, {"hf": "export_orbax", "trained": "export_hf"}[kind]]


def test_a_step_is_of_a_trainers_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="step 3 of a directory that no trainer wrote"):
        open_checkpoint(tmp_path, make_mesh("data=1"), step=3)
