"""Checkpoints on a hub: addresses, what is fetched, what is pushed, and what is never told."""

import logging
import time
import types

import pytest
from helpers.bundles import bundle_of, files_in
from helpers.hub import TOKEN, running

import fourd4d
from fourd4d import convert
from fourd4d.core.errors import InputError
from fourd4d.pretrained import hub as hub_module
from fourd4d.pretrained.hub import Address, fetched
from fourd4d.pretrained.huggingface import export_hf
from fourd4d.pretrained.open import kind_of, located

pytest.importorskip("huggingface_hub")


def at_endpoint(monkeypatch, url):
    """As if HF_ENDPOINT had been set when the library was imported, which it is once."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (("constants.ENDPOINT", url),
                        ("constants.HUGGINGFACE_CO_URL_TEMPLATE", template),
                        ("file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)):  # Below 1.0.
        monkeypatch.setattr(f"huggingface_hub.{name}", value, raising=False)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with running() as found:
        at_endpoint(monkeypatch, found.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        fetched.cache_clear()
        yield found
        fetched.cache_clear()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported")
    export_hf(bundle_of(), directory)
    return directory


@pytest.mark.parametrize("text, address", [
    ("hf://a/b", Address("a/b")), ("hf://a/b/", Address("a/b")),
    ("hf://a/b.c-1/dift/checkpoints", Address("a/b.c-1", None, "dift/checkpoints")),
    ("hf://a/b@v1/4drl/", Address("a/b", "v1", "4drl")),
])
def test_addresses(text, address):
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["hf://", "hf://a", "hf://a/../b", "hf://../a", "hf://a/b/../..",
                                  "hf://a/b/x/../y", "hf://a b/c", "hf://a/b@/c", "hf://a/."])
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="not an address of a checkpoint"):
        Address.parse(text)


def test_a_folder_of_a_repository_opens_and_no_other_is_fetched(hub, exported):
    hub.repos["someone/four"] = files_in(exported, "dift/checkpoints/") | {
        "4drl/config.json": b"{}", "dift/checkpoints/optimizer.pt": b"x" * 99,
        "NOTES.md": b"words"}
    thinker = fourd4d.load("hf://someone/four/dift/checkpoints")
    assert thinker.bundle.config == fourd4d.load(exported).bundle.config
    names = {path.rpartition("/")[2] for method, path in hub.asked if "/resolve/" in path}
    assert "model.safetensors" in names and not {"optimizer.pt", "NOTES.md"} & names
    assert not any("4drl" in path for _, path in hub.asked)
    assert kind_of("hf://someone/four/dift/checkpoints") == "hf"
    asked = len(hub.asked)
    located("hf://someone/four/dift/checkpoints")
    assert len(hub.asked) == asked  # Once a process.


@pytest.mark.parametrize("text, told", [
    ("hf://no/body", "no such repository, or no right to see it"),
    ("hf://a/secret", "no such repository, or no right to see it"),
    ("hf://a/pickled", "its weights are pickled"),
    ("hf://a/pickled/x", "no folder 'x' in a/pickled"),
    ("hf://a/pickled@v9", "no such revision"),
    ("hf://a/broken", "the hub answers 503"),
    ("hf://down/model", "the hub answers 502"),
])
def test_what_cannot_be_fetched_is_told_in_one_line(hub, monkeypatch, text, told):
    # The library waits between its tries.
    monkeypatch.setattr("huggingface_hub.utils._http.time", types.SimpleNamespace(
        **vars(time) | {"sleep": lambda seconds: None}))
    hub.repos |= {"a/secret": {"config.json": b"{}"}, "a/broken": {"config.json": b"{}"},
                  "a/pickled": {"config.json": b"{}", "pytorch_model.bin": b"x"}}
    hub.private.add("a/secret")
    hub.broken |= {"config.json": 503, "down/model": 502}
    with pytest.raises(InputError) as caught:
        fetched(text)
    assert told in str(caught.value) and str(caught.value).startswith(f"{text}: ")
    assert "\n" not in str(caught.value) and hub.url not in str(caught.value)


def test_no_network_is_told(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    at_endpoint(monkeypatch, "http://user:pa55@127.0.0.1:9")
    fetched.cache_clear()
    with pytest.raises(InputError, match="hf://a/b: .* on the way") as caught:
        fetched("hf://a/b")
    assert "pa55" not in str(caught.value)


def test_push_uploads_the_target_and_tells_no_token(hub, exported, tmp_path, monkeypatch, capsys,
                                                    caplog):
    caplog.set_level(logging.DEBUG)
    words = [str(exported), str(tmp_path / "out"), "--to", "orbax"]
    assert convert.main([*words, "--push", "me/four/tiny"]) == 2  # Nobody is logged in.
    assert "Log in with" in capsys.readouterr().err and not (tmp_path / "out").exists()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert convert.main([*words, "--push", "me/four/tiny"]) == 0
    printed = capsys.readouterr()
    assert "pushed to hf://me/four as" in printed.out and hub.private == {"me/four"}
    assert hub.repos["me/four"] == files_in(tmp_path / "out", "tiny/")
    assert TOKEN not in printed.out + printed.err + caplog.text
    thinker = fourd4d.load("hf://me/four/tiny")
    assert kind_of("hf://me/four/tiny") == "trained"
    assert thinker.bundle.config.decoder == fourd4d.load(exported).bundle.config.decoder
    assert convert.main([str(exported), str(tmp_path / "b"), "--public"]) == 2
    assert "--public: applies to --push" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match='Install "fourd4d\\[hub\\]"'):
        hub_module.check_push("a/b")
