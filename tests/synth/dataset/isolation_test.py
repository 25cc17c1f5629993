"""Whatever is raised about one video fails that video alone."""

import dataclasses
import functools
import json

import pytest
from helpers.videos import FPS, SPEC, ball, noisy, photo, view, write

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.synth import annotate
from fourd4d.synth.camera import estimate
from fourd4d.synth.dataset import build, encode
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.objects import landmarks, mask_checks, mask_motion, motion_evidence, naming
from fourd4d.synth.objects.mask_backends.motion import MOTION
from fourd4d.synth.questions import geometry
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.questions.types.base import ObjectQuestionType
from fourd4d.synth.video import letterbox, spans

TYPES = tuple(QUESTION_TYPES)

NAMES = ("two", "one")
STAGES = {
    "open": (annotate, "iter_clips"), "decode": (spans, "iter_frames"),
    "shots": (spans, "gradual"), "letterbox": (letterbox, "window"),
    "camera": (estimate, "estimate"), "evidence": (motion_evidence, "motion_evidence"),
    "flow": (mask_motion, "object_flow"), "masks": (mask_checks, "check"),
    "position": (annotate, "localize"), "landmark": (landmarks, "find_landmark"),
    "names": (naming, "labels"), "questions": (ObjectQuestionType, "_ask_about"),
    "rule": (geometry, "displacement"),
    "words": (ObjectQuestionType, "word"), "pictures": (encode, "jpeg"),
    "sample": (encode, "check"),
    "record": (build.records, "sample_to_json"), "drawing": (build, "drawing"),
}


class Strange(Exception):
    """An error that nobody thought of."""


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for seed, name in enumerate(NAMES):
        scene = view(photo(seed + 4))
        frames = [ball(scene, 20 + 30 * i / FPS, 60) for i in range(24)]
        write(folder / f"{name}.mp4", noisy(frames))
    return folder


def made(root, films, now):
    """A data set of the films; ``now`` says whose turn it is."""

    def clips(name):
        now[:] = [name]
        spec = annotate.AnnotateSpec(**{**vars(SPEC), "masks": MOTION})
        yield from annotate.iter_clips(films / f"{name}.mp4", spec, name)

    jobs = [VideoJob(name, functools.partial(clips, name)) for name in NAMES]
    return build.build_dataset(root, jobs, None, DatasetSpec(TYPES, QuestionSpec(), 0))


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    entries = made(root, films, [])
    assert [entries[name].status for name in NAMES] == ["done"] * 2
    return root, entries


FAST = ("decode", "camera", "words", "pictures")


class Panic(BaseException):
    """As Rust libraries raise, which is not an ``Exception``."""


class Mute(Exception):
    """As some libraries raise, which cannot even say what is wrong."""

    def __str__(self):
        raise ValueError


@pytest.mark.parametrize("error", [
    Panic("unwrap"), Mute(), StopIteration(), ValueError("caf\udce9.mp4"),
    FileNotFoundError(2, "No such file", "caf\udce9.mp4"), InputError("caf\udce9.mp4", "bad"),
    ValueError("two\nlines")], ids=lambda error: type(error).__name__)
def test_any_error_fails_its_video_alone(error, tmp_path):
    def raising():
        raise error
        yield

    jobs = [VideoJob("a", raising), VideoJob("b", lambda: [])]
    for _ in range(2):  # The second time from the manifest.
        entries = build.build_dataset(tmp_path, jobs, 2, DatasetSpec(TYPES, QuestionSpec(), 0))
        assert [entries[name].status for name in "ab"] == ["failed", "empty"]
        assert entries["a"].reason and "\n" not in entries["a"].reason


def test_what_asks_for_the_end_of_the_run_ends_it(tmp_path):
    def raising():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build_dataset(tmp_path, [VideoJob("a", raising)], 1,
                            DatasetSpec(TYPES, QuestionSpec(), 0))


@pytest.mark.parametrize("value", ["\udce9", float("nan"), object()],
                         ids=["surrogate", "nan", "object"])
def test_a_sample_that_no_file_can_hold_fails_its_video_alone(value, tmp_path, monkeypatch):
    real = build.process_job

    def odd(job, number, spec, keep, discard):
        entry = real(job, number, spec, keep, discard)
        if job.video_id == "a":
            keep(encode.EncodedSample(Sample("a", ""), {f"{encode.ROOT}/a/x.jpg": b"x"}))
            entry = dataclasses.replace(entry, status="done", samples=({"question": value},),
                                        drawing={"a": {}})
        return entry

    monkeypatch.setattr(build, "process_job", odd)
    jobs = [VideoJob(name, lambda: []) for name in "ab"]
    for _ in range(2):
        entries = build.build_dataset(tmp_path, jobs, 2, DatasetSpec(TYPES, QuestionSpec(), 0))
        assert [entries[name].status for name in "ab"] == ["failed", "empty"]
        assert "cannot be recorded" in entries["a"].reason
        assert not (tmp_path / encode.ROOT / "a").exists()


@pytest.mark.parametrize("stage", [
    stage if stage in FAST else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES])
def test_one_video_fails_alone(films, whole, tmp_path, monkeypatch, stage):
    now: list[str] = []
    owner, name = STAGES[stage]
    real = getattr(owner, name)
    error = (Strange, MemoryError, OSError, KeyError, RecursionError)[len(stage) % 5]
    called = []

    def planted(*args, **options):
        if now == ["two"]:
            called.append(stage)
            raise error("planted")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, planted)
    entries = made(tmp_path, films, now)
    assert called, f"{name} was never called"
    assert entries["two"].status == "failed" and not entries["two"].samples
    assert error.__name__ in entries["two"].reason and ".py:" in entries["two"].reason
    assert not (tmp_path / encode.ROOT / "two").exists()
    root, before = whole
    assert entries["one"] == before["one"]
    for path in (root / encode.ROOT / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(root)).read_bytes()
    rows = [json.loads(line) for line in (root / "dift.jsonl").read_text().splitlines()]
    kept = [json.loads(line) for line in (tmp_path / "dift.jsonl").read_text().splitlines()]
    assert kept == [row for row in rows if row["video_id"] != "two"]
