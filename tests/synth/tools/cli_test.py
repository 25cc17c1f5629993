"""Commands on datasets, end to end: difficulty by a model's tries, near-duplicates, overlap."""

import functools
import json

import cv2
import numpy as np
import pytest
from helpers.evaluation import RIGHT, actor, benchmark
from helpers.videos import noisy, photo, view, write

from fourd4d import api, sampling
from fourd4d.api import Answerer
from fourd4d.core import jsonl
from fourd4d.models import preset
from fourd4d.parallel import make_mesh
from fourd4d.parallel.memory import Room
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.synth.tools import cli


def run(*argv, answer=None):
    return cli.main([str(a) for a in argv],
                    (lambda args: answer) if answer else lambda args: pytest.fail("loaded"))


@pytest.fixture
def data(tmp_path):
    """Eight questions; the keys go A, B, C, D, A, …"""
    benchmark(tmp_path, 8)
    return tmp_path / "items.jsonl"


def guesser(calls):
    """Right in as many of the tries as the question's number says."""

    def answer(samples, tries):
        calls.extend(s.id for s in samples)
        out = []
        for sample in samples:
            right = min(int(sample.id[4]), tries)
            out.append([sample.answer] * right + [None] * (tries - right))
        return out

    return answer


def test_an_rl_set_of_middling_questions_from_a_dift_set(data, tmp_path, capsys):
    out = tmp_path / "rl.jsonl"
    command = ("difficulty", data, out, "--checkpoint", "c", "--tries", 4, "--batch", 3)
    calls = []
    assert run(*command, answer=guesser(calls)) == 0
    assert "8 questions, 4 tries each: 1 never right, 4 always, 3 sometimes" in (
        capsys.readouterr().out)
    kept = list(jsonl.read(out))
    assert [s.id[:5] for s in kept] == ["clip1", "clip2", "clip3"]
    assert [s.provenance["right_share"] for s in kept] == [0.25, 0.5, 0.75]
    truth = {s.id: s for s in jsonl.read(data)}
    for sample in kept:
        real = truth[sample.id]
        assert (sample.question, sample.options, sample.answer, sample.frames) == (
            real.question, real.options, real.answer, real.frames)
        assert not sample.response and not sample.overlays


def test_tries_are_not_made_twice(data, tmp_path, capsys):
    out = tmp_path / "rl.jsonl"
    command = ("difficulty", data, out, "--checkpoint", "c", "--tries", 4, "--batch", 2)
    calls = []

    def dies(samples, tries):
        if len(calls) >= 4:
            raise KeyboardInterrupt
        return guesser(calls)(samples, tries)

    with pytest.raises(KeyboardInterrupt):
        run(*command, answer=dies)
    log = tmp_path / "rl.jsonl.tries.jsonl"
    log.write_bytes(log.read_bytes()[:-9])  # The last line, half written.
    assert run(*command, answer=guesser(calls)) == 0
    assert sorted(calls) == sorted([s.id for s in jsonl.read(data)] + calls[3:4])
    first = out.read_text()
    assert run(*command) == 0 and out.read_text() == first  # No model is loaded.
    assert run(*command[:-4], "--tries", 5) == 2
    assert "another run (tries was 4, is 5)" in capsys.readouterr().err


def played(line):
    """An answerer whose model is an actor."""
    subject = actor(line)
    answerer = object.__new__(Answerer)  # Its own start wants a real model.
    answerer._mesh = make_mesh("data=1")
    answerer._room = Room(list(answerer._mesh.devices.flat))
    answerer.bundle = ModelBundle(preset("tiny"), subject.processor, subject.graphdef,
                                   subject.states[0])
    return answerer


def test_a_model_of_ours_makes_the_tries(data, tmp_path, capsys):
    answerer = played(RIGHT)  # Always says B.
    samples = list(jsonl.read(data))
    given = answerer.tries(samples[:3], 2, root=tmp_path, max_tokens=48)
    assert given == [["B", "B"]] * 3
    answer = functools.partial(answerer.tries, root=tmp_path, max_tokens=48)
    assert run("difficulty", data, tmp_path / "rl.jsonl", "--checkpoint", "c", "--tries", 2,
               "--batch", 3, answer=answer) == 0
    assert "6 never right, 2 always, 0 sometimes" in capsys.readouterr().out


def test_random_tries_differ_and_can_be_had_again(data, tmp_path, monkeypatch):
    answerer = played(None)  # Every token is as likely as any other.
    said = []

    def texts(*args):
        said.append(real(*args))
        return said[-1]

    # Letters of noise are all None, so the texts are looked at.
    real = sampling.texts
    monkeypatch.setattr(api, "texts", texts)
    samples = list(jsonl.read(data))
    for some in (samples[:3], samples[:3], samples[2::-1]):
        answerer.tries(some, 2, root=tmp_path, max_tokens=8)
    one, again, turned = said
    assert one == again and len(set(one)) == 6
    assert turned == one[4:] + one[2:4] + one[:2]


def picture(seed, quality=90, size=(72, 96)):
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (192, 144),
                       interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def dataset(root, videos):
    """One row a video; ``videos`` maps names to (seed of the picture, JPEG quality, size)."""
    rows = []
    for name, look in videos.items():
        paths = [f"{name}/{i}.jpg" for i in range(3)]
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(picture(*look))
        rows.append({"id": name, "video_id": name, "frame_paths": paths, "Question": "Where?",
                     "A": "Left", "B": "Right", "Correct": "A"})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "rows.jsonl"


def test_near_duplicates_are_left_out(tmp_path, capsys):
    rows = dataset(tmp_path, {"a": (0,), "b": (1,), "c": (0, 40, (36, 48)), "d": (2,)})
    assert run("dedup", rows, tmp_path / "out.jsonl") == 0
    told = capsys.readouterr().out
    assert "c is a: 1 samples" in told and "1 near-duplicate clips" in told
    assert [s.id for s in jsonl.read(tmp_path / "out.jsonl")] == ["a", "b", "d"]
    assert run("dedup", tmp_path, tmp_path / "out.jsonl") == 2


def test_overlap_by_name_and_by_looks(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "bench").mkdir()
    train = dataset(tmp_path / "train", {"a": (0,), "b": (1,), "c": (2,), "d": (3,)})
    bench = dataset(tmp_path / "bench", {"a": (9,), "x": (1, 40, (36, 48))})
    assert run("overlap", train, bench, "--out", tmp_path / "left.jsonl") == 0
    told = capsys.readouterr().out
    assert "a is a of the benchmark (name)" in told
    assert "b is x of the benchmark (looks)" in told
    assert "2 of 4 clips overlap (1 by name, 1 by looks); 2 of 4 samples" in told
    assert [s.id for s in jsonl.read(tmp_path / "left.jsonl")] == ["c", "d"]
    (tmp_path / "ids.txt").write_text("c\nzzz\n")
    assert run("overlap", train, tmp_path / "ids.txt") == 0
    assert "1 of 4 clips overlap (1 by name, 0 by looks)" in capsys.readouterr().out


def test_a_benchmark_may_be_a_folder_of_videos(tmp_path, capsys):
    frames = noisy([view(photo(3), x=2 * i) for i in range(12)])
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos" / "film.mp4", frames)
    write(tmp_path / "ours.mp4", frames, crf="34")
    row = {"id": "q", "video_path": "ours.mp4", "Question": "Where?", "A": "Left", "B": "Right",
           "Correct": "A"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert run("overlap", tmp_path / "rows.jsonl", tmp_path / "videos") == 0
    assert "ours.mp4 is film of the benchmark (looks)" in capsys.readouterr().out


def test_missing_pictures_are_told(tmp_path, capsys):
    rows = dataset(tmp_path, {"a": (0,)})
    (tmp_path / "a" / "1.jpg").unlink()
    assert run("dedup", rows, tmp_path / "out.jsonl") == 2
    assert "'a': a frame cannot be read" in capsys.readouterr().err
