"""Sentences: what they tell is what the track shows; pages and file names."""

import collections
import html
import re

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth.dataset import build
from fourd4d.synth.dataset.build import VideoJob
from fourd4d.synth.questions import reasoning_full
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.readout import Place
from fourd4d.synth.questions.types import direction
from fourd4d.synth.simulator.clips import outline, simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from fourd4d.synth.tools import report
from fourd4d.synth.video.discover import find_videos, name_of

TYPES = SceneSpec().kinds  # Those of the default scenes.

SPEC = QuestionSpec(style="full")


@pytest.fixture(scope="module")
def told():
    out = []
    for number in range(120):
        clip = outline(SceneSpec(combos=0.3), seed=6, number=number)
        rng = np.random.default_rng(number)
        try:
            question = ask(clip, clip.provenance["kind"], rng, SPEC)
            out.append((clip, question, reasoning_full.reasoning(clip, question, rng, len(out))))
        except Ambiguous:
            continue
    assert len(out) > 90 and {q.type for _, q, _ in out} == set(TYPES)
    return out


def test_texts_have_a_mark_per_overlay_and_the_key(told):
    for _, question, text in told:
        assert text.count(IMAGE_MARK) == len(question.frames)
        assert text.endswith(f"<answer>{question.answer}. {question.answer_text}</answer>")


def test_neighbouring_texts_open_differently(told):
    def opening(text, name):
        return text.replace(name, "").split("s ")[0][:40]

    openings = [opening(text, q.track.name) for _, q, text in told]
    assert all(a != b for a, b in zip(openings, openings[1:], strict=False))
    assert len(set(openings)) > 12


def test_percentages_are_the_track(told):
    """Each sentence about an image holds its box centre, in order."""
    for _, question, text in told:
        parts = re.split(r"(?<=\.) (?=[A-Z0-9<])", text)
        images = [p for p in parts if IMAGE_MARK in p]
        assert len(images) == len(question.frames)
        for part, frame in zip(images, question.frames, strict=True):
            x0, y0, x1, y1 = question.track.boxes[frame]
            numbers = {int(n) for n in re.findall(r"(\d+)%", part)}
            assert {int((x0 + x1) * 50 + 1e-4), int((y0 + y1) * 50 + 1e-4)} <= numbers


@pytest.mark.parametrize(("move", "sizes", "answer", "fits"), [
    (Place(30, 2, 0), (20, 20), "Right", True), (Place(-30, 2, 0), (20, 20), "Right", False),
    (Place(20, -18, 0), (20, 20), "Right-Up", True), (Place(20, 1, 0), (20, 20), "Right-Up", False),
    (Place(2, 1, 0), (12, 20), "Toward the camera", True),
    (Place(2, 1, 0), (20, 20), "Toward the camera", False),
    (Place(1, 1, 0), (20, 20), "Stationary", True), (Place(9, 1, 0), (20, 20), "Stationary", False),
])
def test_told_shifts_must_fit_the_answer(move, sizes, answer, fits):
    assert direction.shows(move, sizes, answer) is fits


def test_the_report_shows_samples_and_what_failed(tmp_path):
    def broken():
        raise InputError("x.mp4", "no whole video", "Fetch it again")

    scenes = list(simulate_clips(SceneSpec(), 2, 0, 16))
    works = [VideoJob(c.video_id, lambda c=c: [c]) for c in scenes] + [VideoJob("<x>", broken)]
    entries = build.build_dataset(tmp_path, works, None, build.DatasetSpec(TYPES, SPEC, seed=0))
    page = report.write(tmp_path, cards=5).read_text()
    assert page.count('<article class="item"') == 5 and "data:image/" in page
    assert "no whole video" in page and "&lt;x&gt;" in page and "<x>" not in page
    assert f"<span>samples</span><b>{sum(len(e.samples) for e in entries.values())}</b>" in page
    shown = [s for e in entries.values() for s in e.samples]
    for part in ("the camera&#x27;s way from above", "ways on the screen", "taught here: the frame",
                 "words of a reasoning", "letter of the answer", "What was dropped, and why"):
        assert part in page
    for reason in sum((collections.Counter(e.dropped) for e in entries.values()),
                      collections.Counter()):
        assert html.escape(reason) in page
    assert sum(html.escape(s["question"]) in page for s in shown) >= 5
    lost = tmp_path / shown[0]["frames"][0]
    lost.unlink()
    with pytest.raises(InputError, match=rf"{lost.name}: no such file"):
        report.write(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        report.write(tmp_path / "nothing")


def test_files_of_one_name_get_two(tmp_path):
    for name in ("a/clip.mp4", "b/clip.mp4", "b/other.MOV", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = list(find_videos(tmp_path))
    assert [name[:-9] for name in names] == ["a-clip", "b-clip", "b-other"]
    assert list(find_videos(tmp_path / "b/other.MOV")) == [name_of("other.MOV")]
    for bad in (tmp_path / "none", ""):
        with pytest.raises(InputError, match="no such"):
            find_videos(bad)
    with pytest.raises(InputError, match="no video files"):
        (tmp_path / "empty").mkdir()
        find_videos(tmp_path / "empty")
