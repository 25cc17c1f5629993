"""Bundles, the TFDS builder of video files and JSONL rows, JSONL in and out."""

import dataclasses
import functools
import json
import sys

import numpy as np
import pytest
from helpers.videos import FPS, ball, noisy, photo, view, write

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.synth.dataset import build, shards, tfds_videos
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.dataset.shards import Shard
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from fourd4d.synth.tools import cli

TYPES = tuple(QUESTION_TYPES)

RECIPE = DatasetSpec(TYPES, QuestionSpec(style="short"), seed=1)


def run(*argv):
    return cli.main([str(a) for a in argv], lambda args: pytest.fail("no model is needed"))


@pytest.fixture(scope="module")
def scenes():
    return {clip.video_id: clip for clip in simulate_clips(SceneSpec(), seed=8, start=0, count=16)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, scenes):
    """A dataset in the published layout."""
    root = tmp_path_factory.mktemp("data")
    works = [VideoJob(name, lambda clip=clip: [clip]) for name, clip in scenes.items()]
    build.build_dataset(root, works, None, RECIPE)
    return root


def scene_of(path, name, scenes, calls=None):
    if calls is not None:
        calls.append(name)
    if path == "bad":
        raise InputError(name, "no whole video", "Fetch it again")
    return [scenes[name]]


def maker(folder, scenes, calls=None):
    return functools.partial(shards.video_maker, spec=RECIPE, failures=str(folder),
                             clips=functools.partial(scene_of, scenes=scenes, calls=calls))


def items(scenes):
    return [(n, name, "good") for n, name in enumerate(scenes)]


def test_bundles_hold_the_same_however_the_work_is_cut(tmp_path, scenes):
    made = {}
    for size in (16, 3):
        folder = tmp_path / str(size)
        parts = shards.cut("train", items(scenes), size)
        assert [p.number for p in parts] == list(range(len(parts)))
        made[size] = {r.sample.id: r for p in parts[::-1]
                      for r in shards.read_or_make(p, folder, maker(folder, scenes))}
        names = sorted(p.name for p in folder.iterdir())
        assert names == [p.file_name for p in parts]  # One file a shard, nothing half-made.
        read = {r.sample.id for r in records.read_shards(records.find_shards(folder))}
        assert read == set(made[size])
    assert made[16] == made[3] and len(made[3]) >= 12


def test_a_finished_bundle_is_not_made_again(tmp_path, scenes):
    calls = []
    part, = shards.cut("train", items(scenes)[:4], 4)
    first = list(shards.read_or_make(part, tmp_path, maker(tmp_path, scenes, calls)))
    assert list(shards.read_or_make(part, tmp_path, maker(tmp_path, scenes, calls))) == first
    assert calls == list(scenes)[:4]


def test_a_bundle_cut_short_leaves_no_shard(tmp_path, scenes):
    def broken(bundle):
        yield from maker(tmp_path, scenes)(dataclasses.replace(bundle, items=bundle.items[:1]))
        raise OSError("the disk is full")

    part, = shards.cut("train", items(scenes)[:4], 4)
    with pytest.raises(OSError):
        list(shards.read_or_make(part, tmp_path, broken))
    assert not list(tmp_path.iterdir())
    assert list(shards.read_or_make(part, tmp_path, maker(tmp_path, scenes)))


def test_bad_videos_of_a_bundle_are_told_beside_it(tmp_path, scenes):
    part = Shard("train", 0, 1, [(0, "x", "bad"), *items(scenes)[:1]])
    list(shards.read_or_make(part, tmp_path, maker(tmp_path, scenes)))
    told = (tmp_path / f"{part.file_name}.failures.jsonl").read_text().splitlines()
    assert json.loads(told[0]) == {"video_id": "x", "status": "failed",
                                   "reason": "x: no whole video. Fetch it again."}


def test_bundles_of_another_configuration_are_refused(tmp_path):
    shards.claim(tmp_path, {"seed": 1})
    shards.claim(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="another configuration"):
        shards.claim(tmp_path, {"seed": 2})
    with pytest.raises(InputError, match="0 items"):
        shards.cut("train", [1], 0)


def test_rows_become_records_and_rows_again(tmp_path, dataset, capsys):
    assert run("import", dataset / "dift.jsonl", tmp_path / "shards", "--shards", 2) == 0
    assert run("export", tmp_path / "shards", tmp_path / "back") == 0
    before, after = (list(jsonl.read(root / "dift.jsonl")) for root in (dataset, tmp_path / "back"))
    assert {s.id: dataclasses.replace(s, masks=()) for s in before} == {s.id: s for s in after}
    for sample in after:
        for path in (*sample.frames, *sample.overlays):
            assert (tmp_path / "back" / path).read_bytes() == (dataset / path).read_bytes()
    assert len(list(jsonl.read(tmp_path / "back" / "rl.jsonl"))) == len(before)
    assert f"{len(before)} samples in 2 shards" in capsys.readouterr().out


def test_bad_rows_stop_the_import_with_one_line(tmp_path, dataset, capsys):
    lines = (dataset / "dift.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text(lines[0] + "\n{broken\n")
    assert run("import", tmp_path / "a.jsonl", tmp_path / "out", "--root", dataset) == 2
    assert "a.jsonl:2: malformed JSON" in capsys.readouterr().err
    row = json.loads(lines[0])
    row["image_input"][0] = "../../etc/passwd"
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert run("import", tmp_path / "a.jsonl", tmp_path / "out", "--root", dataset) == 2
    assert "leaves the data root" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert run("export", tmp_path / "out", tmp_path / "back") == 2


def test_a_record_cannot_write_outside_the_folder(tmp_path, capsys):
    sample = dataclasses.replace(Sample.fake(), frames=("../stolen.png",), timestamps=(0.0,),
                                 response="", overlays=(), overlay_timestamps=())
    (tmp_path / "in").mkdir()
    records.write_shards(tmp_path / "in", "data", [records.encode_sample(sample, [b"x"], [])])
    assert run("export", tmp_path / "in", tmp_path / "out") == 2
    assert "leaves the data root" in capsys.readouterr().err
    assert not (tmp_path / "stolen.png").exists()


def built(tmp_path, manual, beam, monkeypatch, **config):
    if beam:
        pytest.importorskip("apache_beam")
        monkeypatch.setattr(sys, "argv", sys.argv[:1])  # Beam reads the command line.
    import tensorflow_datasets as tfds

    config = tfds_videos.Config(name="mine", description="", beam=beam, **config)
    builder = tfds_videos.Fourd4dVideos(data_dir=tmp_path, config=config,
                                        file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    return builder


@pytest.mark.parametrize("beam", [False, True])
def test_rows_as_a_tfds_dataset_and_back(tmp_path, dataset, beam, monkeypatch):
    builder = built(tmp_path / "tfds", dataset, beam, monkeypatch, source="jsonl", bundle=5,
                    test=0.3)
    rows = {s.id: s for s in jsonl.read(dataset / "dift.jsonl")}
    assert set(builder.info.splits) == {"train", "test"}
    shards = list((tmp_path / "tfds" / "bundles").rglob("*.array_record"))
    counts = [len([s for s in shards if s.name.startswith(n)]) for n in ("train", "test")]
    assert sum(counts) >= -(-len(rows) // 5) and min(counts) >= 1
    assert run("export", builder.data_path, tmp_path / "back") == 0
    back = {s.id: s for s in jsonl.read(tmp_path / "back" / "dift.jsonl")}
    assert set(back) == set(rows)
    for name, sample in back.items():
        truth = rows[name]
        assert (sample.question, sample.options, sample.answer, sample.response) == (
            truth.question, truth.options, truth.answer, truth.response)
        assert sample.timestamps == truth.timestamps and sample.kind == truth.kind
        assert dict(sample.provenance) == dict(truth.provenance)
        for mine, theirs in zip((*sample.frames, *sample.overlays),
                                (*truth.frames, *truth.overlays), strict=True):
            assert (tmp_path / "back" / mine).read_bytes() == (dataset / theirs).read_bytes()


def test_the_command_builds_as_tfds_does(tmp_path, dataset, capsys):
    config = json.dumps({"name": "mine", "description": "", "source": "jsonl", "beam": False})
    command = ("tfds", "videos", f"--manual_dir={dataset}", f"--config={config}",
               "--file_format=array_record")
    assert run(*command, f"--data_dir={tmp_path / 'a'}") == 0
    made, = (tmp_path / "a").rglob("dataset_info.json")
    assert run("export", made.parent, tmp_path / "back") == 0
    rows = [len(list(jsonl.read(root / "dift.jsonl"))) for root in (dataset, tmp_path / "back")]
    assert rows[0] == rows[1] > 0
    assert run(*command[:3], f"--config={config.replace('jsonl', 'radio')}",
               f"--data_dir={tmp_path / 'b'}") == 2
    assert "config.source: unknown value 'radio'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two sound videos of one name in two folders, and a broken file."""
    root = tmp_path_factory.mktemp("films")
    for k, folder in enumerate(("a", "b")):
        (root / folder).mkdir()
        scene = view(photo(4 + k))
        frames = noisy([ball(scene, 20 + 30 * i / FPS, 60 - 10 * i / FPS) for i in range(36)])
        write(root / folder / "clip.mp4", frames)
    (root / "broken.mp4").write_text("no video")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("beam", [False, True])
def test_video_files_as_a_tfds_dataset(tmp_path, films, beam, monkeypatch):
    builder = built(tmp_path, films, beam, monkeypatch, bundle=2, fps=4.0, max_clips=1)
    source = builder.as_data_source("train")
    assert {one["video_id"].decode() for one in source} == {
        "a-clip-33b5d47c", "b-clip-2cff0d93"}
    for one in source:
        assert len(one["frames"]) == len(one["timestamps"]) and one["frames"][0].ndim == 3
        assert len(one["overlays"]) == one["response"].decode().count("<output_image>")
    told = "".join(p.read_text() for p in tmp_path.rglob("*.failures.jsonl"))
    assert "broken" in told and "it is not a whole video" in told


def test_the_test_split_is_chosen_by_name_alone():
    config = tfds_videos.Config(name="x", description="", test=0.25)
    names = [f"video{i}" for i in range(2000)]
    out = [tfds_videos.held_out(n, config) for n in names]
    assert 0.2 < np.mean(out) < 0.3
    assert out[::-1] == [tfds_videos.held_out(n, config) for n in names[::-1]]
