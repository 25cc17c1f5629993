"""Where the nearest thing ends: found by a relation that holds in the rendered clip."""

import dataclasses

import numpy as np
import pytest

from fourd4d.synth.dataset import build
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import Subject
from fourd4d.synth.questions.types.destination import POOL, Destination, quarter_of, reference_of
from fourd4d.synth.simulator.clips import outline, simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec

SPEC = SceneSpec(things=5, movers=4, moving_camera=0.0, kinds=("destination",), weights=(1.0,))
SHORT = build.DatasetSpec(("destination",), QuestionSpec(style="short"), seed=1)


@pytest.fixture(scope="module")
def results():
    return [build.samples_of(clip, SHORT) for clip in simulate_clips(SPEC, 5, 0, 24)]


def middles(clip, frame):
    return {track.name: (track.boxes[frame, :2] + track.boxes[frame, 2:]) / 2
            for track in clip.tracks}


def test_the_thing_asked_about_is_nearest_to_the_one_named(results):
    """By the masks: what the overlay marks is nearest, and by a margin."""
    asked = 0
    for result in results:
        clip = result.clip
        for sample in (one.sample for one in result.samples):
            at = middles(clip, 0)
            reference = next(name for name in at if name in sample.question)
            far = sorted((np.linalg.norm(at[reference] - place), name)
                         for name, place in at.items() if name != reference)
            track = next(one for one in clip.tracks if one.name == far[0][1])
            assert track.role == "dynamic" and far[1][0] >= 1.3 * far[0][0]
            ends = {quarter_of(*map(float, middles(clip, frame)[track.name])) for frame in (6, 7)}
            assert ends == {sample.answer_text}
            assert track.name not in sample.question + sample.response
            asked += 1
    assert asked >= 24


def test_several_things_move_in_every_clip(results):
    for result in results:
        assert sum(track.role == "dynamic" for track in result.clip.tracks) == 4


def test_no_quarter_is_named_far_more_often_than_others():
    counts = dict.fromkeys(POOL.answers, 0)
    for number in range(60):
        clip = outline(SPEC, 7, number)
        for track in clip.tracks:
            try:
                question = ask(clip, "destination", np.random.default_rng(0),
                               QuestionSpec(style="full"), Subject(track=track))
            except Ambiguous:
                continue
            counts[question.answer_text] += track.role == "dynamic"
    assert min(counts.values()) > 0.12 * sum(counts.values()) and max(
        counts.values()) < 0.42 * sum(counts.values())


def test_what_was_found_in_a_real_video_may_not_be_all(results):
    clip = next(result.clip for result in results if result.samples)
    found = dataclasses.replace(clip, provenance={"source": "videos", "objects": "motion"})
    with pytest.raises(Ambiguous, match="not found"):
        reference_of(found, found.tracks[0], 0, 1.3)


def test_a_second_thing_almost_as_near_is_ambiguous(results):
    clip = next(result.clip for result in results if result.samples)

    def at(track, x):
        box = np.float32([x, 0.4, x + 0.1, 0.5])
        return dataclasses.replace(track, boxes=np.tile(box, (8, 1)))

    def asked(*places):
        tracks = tuple(map(at, clip.tracks, places))
        return reference_of(dataclasses.replace(clip, tracks=tracks), tracks[0], 0, 1.3).name

    # The first is nearest to the second one (and that to it), but hardly in the second case.
    assert asked(0.5, 0.3, 0.0) == clip.tracks[1].name
    with pytest.raises(Ambiguous, match="clearly nearest to nothing"):
        asked(0.5, 0.3, 0.09)


def test_what_goes_on_into_another_quarter_is_ambiguous(results):
    clip = results[0].clip
    track = clip.dynamic
    boxes = np.tile(np.float32([0.1, 0.1, 0.3, 0.3]), (8, 1))
    boxes[7] = [0.7, 0.1, 0.9, 0.3]
    moved = dataclasses.replace(track, boxes=boxes)
    with pytest.raises(Ambiguous, match="goes on"):
        Destination().answer(clip, moved, (0, 3, 6), Margins())


@pytest.mark.parametrize(("x", "y", "quarter"), [
    (0.2, 0.2, "Top left"), (0.8, 0.2, "Top right"), (0.2, 0.8, "Bottom left"),
    (0.8, 0.8, "Bottom right")])
def test_quarters(x, y, quarter):
    assert quarter_of(x, y, 0.06) == quarter
    with pytest.raises(Ambiguous, match="between two quarters"):
        quarter_of(x, 0.53, 0.06)


def test_the_full_text_names_what_is_nearest_and_tells_its_way():
    texts = []
    spec = build.DatasetSpec(("destination",), QuestionSpec(), seed=1)
    for number in range(8):
        clip = outline(SPEC, 9, number)
        blank = np.zeros((len(clip.frames), 4, 4, 3), np.uint8)
        masks = np.ones((len(clip.frames), 4, 4), bool)
        clip = dataclasses.replace(clip, frames=blank, tracks=tuple(
            dataclasses.replace(track, masks=masks) for track in clip.tracks))
        texts += [one.sample for one in build.samples_of(clip, spec).samples]
    assert len(texts) >= 5
    for sample in texts:
        assert sample.response.startswith("<think>What is nearest to it at 0.0s is the ")
        assert sample.answer_text in sample.response.split("</think>")[0]
