"""``fourd4d.load``: a directory, a video file's frames, a question, an answer."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.bundles import bundle_of

import fourd4d
from fourd4d import convert
from fourd4d.core.errors import InputError
from fourd4d.pretrained.huggingface import export_hf
from fourd4d.processing.media import Video


def test_answer(tmp_path):
    export_hf(bundle_of(), tmp_path / "m")
    thinker = fourd4d.load(tmp_path / "m")
    video = Video(np.zeros((2, 32, 32, 3), np.uint8), np.array([0.0, 1.0]))
    said = thinker.answer(video, "Which way?", ["Left", "Right"], max_tokens=9)
    again = thinker.answer([video], "Which way?", ["Left", "Right"], max_tokens=9)
    assert said.text == again.text and said.letter in (None, "A", "B")
    assert said.latents.shape[1] == 32
    with pytest.raises(InputError, match="there are 11"):
        thinker.answer(video, "Which?", list("abcdefghijk"))
    with pytest.raises(InputError, match="no such directory"):
        fourd4d.load(tmp_path / "absent")


def spoil_shard(directory):
    (directory / "model.safetensors").write_bytes(
        (directory / "model.safetensors").read_bytes()[:-7])


def spoil_family(directory):
    value = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(value | {"model_type": "llava"}))


def spoil_kind(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def spoil_config(directory):
    value = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(value | {"hidden_size": 48}))


def spoil_tokenizer(directory):
    for file in directory.glob("tokenizer*"):
        file.unlink()


def without(directory):
    """Its small files as transformers alone would write them."""
    (directory / "tokenizer.model").unlink()
    (directory / "protocol.json").unlink()


def spoil_tokenizer_bytes(directory):
    without(directory)
    (directory / "tokenizer.json").write_bytes(b"\xff\xfe")


def spoil_sizes(directory):
    without(directory)
    (directory / "preprocessor_config.json").write_text('{"size": [56, 112]}')


def spoil_bounds(directory):
    without(directory)
    (directory / "preprocessor_config.json").write_text('{"min_pixels": 9000, "max_pixels": 100}')


def spoil_protocol(directory):
    (directory / "protocol.json").write_text('{"patch_size": "small"}')


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported")
    export_hf(bundle_of(), directory)
    return directory


@pytest.mark.parametrize("spoil, words", [
    (spoil_shard, "model.safetensors: truncated"), (spoil_family, "'llava' is not a known family"),
    (spoil_kind, "pickle checkpoint"), (spoil_config, "out_hidden_size 32 is not"),
    (spoil_tokenizer, "no tokenizer here"),
    (spoil_tokenizer_bytes, "tokenizer.json: no tokenizer.json"),
    (spoil_sizes, "preprocessor_config.json: 'size' is "),
    (spoil_bounds, "preprocessor_config.json: ProtocolSpec.min_pixels: 9000 is more"),
    (spoil_protocol, "protocol.json: patch_size is 'small', not a positive"),
])
def test_load_and_the_command_refuse_the_same(exported, tmp_path, capsys, spoil, words):
    directory = shutil.copytree(exported, tmp_path / "m")
    spoil(directory)
    with pytest.raises(InputError, match=words):
        fourd4d.load(directory)
    assert convert.main([str(directory), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line, words", [
    ("{tmp}/file/x --to hf", "file/x: cannot be written to (Not a directory). Choose"),
    ("{tmp}/file/x --to orbax", "file/x: cannot be written to (Not a directory). Choose"),
    ("{tmp}/file", "file: exists and is not empty. Choose"),
    ("{tmp}/out --step 3", "--step: applies to trainers' directories. Leave it out."),
    ("{tmp}/out --dtype float16", "--dtype: applies to Hugging Face targets. Leave it out."),
])
def test_what_the_command_cannot_do(exported, tmp_path, capsys, line, words):
    (tmp_path / "file").write_text("kept")
    assert convert.main([str(exported), *line.format(tmp=tmp_path).split()]) == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["hf", "orbax"])
def test_a_target_that_may_not_be_written_to_is_told_before_loading(
        exported, tmp_path, capsys, monkeypatch, kind):
    def locked(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(convert, "open_hf", None)  # Loading would fail.
    monkeypatch.setattr(convert.tempfile, "TemporaryFile", locked)
    assert convert.main([str(exported), str(tmp_path / "a" / "b"), "--to", kind]) == 2
    assert "a/b: cannot be written to (Permission denied). Choose" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_importing_the_package_starts_nothing():
    code = "import fourd4d, sys; assert not {'jax', 'flax', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
