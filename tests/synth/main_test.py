"""The entry point: sources and words from a config, dry runs, bad settings in one line."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.endpoint import Server, answers, serve  # noqa: F401  (a fixture)
from helpers.videos import FPS, ball, noisy, photo, view, write

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.synth import __main__ as synth
from fourd4d.synth.vlm.client import Client

ROOT = Path(__file__).parents[2]


def config(folder, **fields):
    made = importlib.import_module("configs.synth_video").get_config()
    made.input, made.output = str(folder / "films"), str(folder / "out")
    made.digest.update({"fps": 4.0, "analysis_side": 160, "max_clips": 1})
    made.records = False
    for path, value in fields.items():
        section, _, name = path.rpartition("__")
        (made[section] if section else made)[name] = value
    return made


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("main")
    (root / "films").mkdir()
    scene = view(photo(4))
    write(root / "films" / "ball.mp4",
          noisy([ball(scene, 20 + 30 * i / FPS, 60 - 10 * i / FPS) for i in range(36)]))
    return root


@pytest.mark.parametrize("fields, told", [
    (dict(poses="magic"), "config.poses: unknown value 'magic'"),
    (dict(poses="spatialvid"), "config.poses_root: no such folder"),
    (dict(masks__source="given"), "masks.root: nothing given for 'given'"),
    (dict(masks__source="sam2"), "masks.model: nothing given"),
    (dict(words="poet"), "config.words: unknown value 'poet'"),
    (dict(words="vlm"), "vlm.url: .*not a web address"),
    (dict(words="vlm", vlm__url="http://h/v1"), "vlm.model: no model named"),
    (dict(words="local"), "config.vlm.checkpoint: nothing given"),
    (dict(words="local", vlm__checkpoint="nowhere"), "nowhere: no such directory"),
])
def test_bad_settings_are_told_before_any_work(films, fields, told):
    with pytest.raises(InputError, match=told):
        synth.main(config(films, **fields))
    assert not (films / "out" / "manifest.jsonl").exists()


def test_a_dry_run_tells_calls_and_cost_and_writes_nothing(films, capsys):
    synth.main(config(films, words="vlm", vlm__url="http://127.0.0.1:9/v1", vlm__model="eye",
                      vlm__dry_run=True, vlm__input_price=2.0, vlm__output_price=8.0))
    told = capsys.readouterr().out
    assert "Dry run: " in told and " name" in told and " reasoning" in told
    assert "at 2 and 8 a million" in told
    assert not (films / "out").exists()


def test_a_video_in_the_words_of_a_server(films, serve, capsys):
    server, endpoint, _ = serve(answers())
    assert isinstance(server, Server)
    synth.main(config(films, words="vlm", vlm__url=endpoint.url, vlm__model="eye"))
    rows = list(jsonl.read(films / "out" / "dift.jsonl"))
    assert rows and all(r.question.startswith("Tell me: ") for r in rows)
    assert all(r.provenance["names"] == endpoint.name for r in rows)
    assert " calls (" in capsys.readouterr().out
    assert list((films / "out" / "vlm_cache").rglob("*.json"))


def test_a_run_with_bad_videos_says_where_the_reasons_are(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "text.mp4").write_text("no video at all " * 50)
    synth.main(config(tmp_path))
    told = capsys.readouterr().out
    assert "1 videos: 0 done, 0 empty, 1 failed; 0 samples in" in told
    assert f"Why: python -m fourd4d.synth report {tmp_path / 'out'}\n" in told


def test_a_checkpoint_is_known_by_its_files(tmp_path):
    (tmp_path / "weights").write_text("1")
    one = synth._local(str(tmp_path)).name
    assert synth._local(str(tmp_path)).name == one
    (tmp_path / "weights").write_text("22")
    assert synth._local(str(tmp_path)).name != one


@pytest.mark.slow
def test_the_tiny_base_as_a_vlm_babbles_and_the_template_stays(films, tmp_path):
    """The whole way: a real checkpoint is loaded and asked; nothing it says is JSON."""
    made = config(films, words="local", vlm__checkpoint="tiny-base", vlm__tries=1,
                  vlm__uses=("name", "reasoning"), output=str(tmp_path))
    client = synth.client_of(made)
    assert isinstance(client, Client) and client.concurrency == 1
    client.close()
    synth.main(made)
    entry, = (json.loads(line) for line in
              (tmp_path / "manifest.jsonl").read_text().splitlines()[1:])
    assert entry["status"] == "done" and entry["samples"]
    assert entry["notes"]["vlm reasoning: the reply is not a JSON object"] == len(entry["samples"])
    assert "vlm name: the reply is not a JSON object" in entry["notes"]


@pytest.mark.parametrize("arguments, told", [
    (["dedup", "nowhere.jsonl", "out.jsonl"], "nowhere.jsonl: no such file"),
    (["--config=configs/synth_video.py", "--config.imput=x"], "Nearest: config.input"),
    (["--config=configs/synth_video.py"], "config.output: no output folder"),
])
def test_the_command_says_what_is_wrong_in_one_line(arguments, told):
    done = subprocess.run([sys.executable, "-m", "fourd4d.synth", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode and told in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
