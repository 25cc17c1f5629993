"""The table of question types: one from outside goes the whole way by its line in the table."""

import dataclasses

import numpy as np
import pytest

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth.dataset import build, pretraining
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.questions.types.base import ObjectQuestionType
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec


def quarter(x, y):
    return f"{'Upper' if y < 0 else 'Lower'} {'left' if x < 0 else 'right'}"


class Quarter(ObjectQuestionType):
    """In which quarter of the picture an object starts."""

    name = "quarter"
    overlays = 2
    wordings = {"short": ("Where does the {name} start?",), "full": (
        "Where is the {name} at {start:.1f}s?", "At {start:.1f}s, where is the {name}?")}
    descriptions = ("Find the {name}.",)
    lead = "it starts at "

    def pool(self, spec):
        return Pool((("Upper left", "Lower right"), ("Lower left", "Upper right")))

    def answer(self, clip, track, frames, margins):
        x, y = geometry.box_center(track)[frames[0]] - 0.5
        if min(abs(x), abs(y)) < 0.06:
            raise Ambiguous("quarter: near the middle")
        return quarter(x, y), "boxes"

    def findings_short(self, clip, question):
        start = readout.places(clip, question, readout.SHORT)[0]
        readout.require(quarter(start.x - 5, start.y - 5), question.answer_text, self.name)
        return f"Start {start.x},{start.y}."

    def findings_full(self, clip, question, places, voice):
        return voice.pick((f"It starts at {places[0].x}%.", f"At first it is at {places[0].x}%."))


@pytest.fixture(scope="module")
def clips():
    """Simulated clips that were made for no type."""
    return [dataclasses.replace(clip, provenance={"source": "scenes"})
            for clip in simulate_clips(SceneSpec(), seed=5, start=0, count=16)]


@pytest.mark.parametrize("style", ["short", "full"])
def test_a_question_type_from_outside_needs_its_class_and_a_line(
        clips, style, tmp_path, monkeypatch):
    monkeypatch.setitem(QUESTION_TYPES, "quarter", Quarter())
    spec = DatasetSpec(("quarter", "direction"), QuestionSpec(style=style), seed=1)
    assert spec.questions.overlays["quarter"] == 2
    jobs = [VideoJob(clip.video_id, lambda clip=clip: [clip]) for clip in clips]
    entries = build.build_dataset(tmp_path, jobs, None, spec, with_records=True)
    samples = [records.sample_from_json(dict(s), "here") for e in entries.values()
               for s in e.samples if s["kind"] == "quarter"]
    truth = {clip.video_id: clip.dynamic for clip in clips}
    assert len(samples) >= 4 and len({s.answer_text for s in samples}) >= 2
    for sample in samples:
        track = truth[sample.video_id]
        first = int(np.flatnonzero(track.seen)[0])
        assert sample.answer_text == quarter(*geometry.box_center(track)[first] - 0.5)
        assert sample.response.count(IMAGE_MARK) == len(sample.overlays) == 2
        assert sample.id == f"{sample.video_id}_dynamic_quarter"
        assert all((tmp_path / path).is_file() for path in sample.overlays)
    assert sum(entry.dropped.get("quarter: near the middle", 0) for entry in entries.values())
    rows = {s.id for s in jsonl.read(tmp_path / "dift.jsonl")}
    assert {s.id for s in samples} <= rows and len(rows) > len(samples)


def test_a_question_type_from_outside_has_its_pretraining_tasks(clips, monkeypatch):
    monkeypatch.setitem(QUESTION_TYPES, "quarter", Quarter())
    rng = np.random.default_rng(0)
    made = [one.sample for clip in clips for one in pretraining.base_samples(
        clip, ("quarter",), QuestionSpec(style="short"), rng, 90)]
    described = [s for s in made if s.kind == "describe_quarter"]
    assert described and all("So it starts at " in s.response for s in described)


def test_without_the_line_there_is_no_such_type(clips):
    with pytest.raises(InputError, match="quarter"):
        ask(clips[0], "quarter", np.random.default_rng(0), QuestionSpec())
    with pytest.raises(InputError, match="quarter"):
        QuestionSpec(overlays={"quarter": 2})
