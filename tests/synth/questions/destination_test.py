"""Where a thing ends that is called by a relation, which holds in the rendered clip."""

import dataclasses

import numpy as np
import pytest

from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth.dataset import build
from fourd4d.synth.questions import pretraining_tasks, readout, reasoning_short
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import Subject
from fourd4d.synth.questions.types.destination import (
    POOL,
    Destination,
    nearest_to,
    place_taken_by,
    quarter_of,
)
from fourd4d.synth.simulator.clips import outline, simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from tests.helpers.overlays import drawn_masks

SPEC = SceneSpec(things=5, movers=4, moving_camera=0.0, kinds=("destination",), weights=(1.0,))
SHORT = build.DatasetSpec(("destination",), QuestionSpec(style="short"), seed=1)


@pytest.fixture(scope="module")
def results():
    return [build.samples_of(clip, SHORT) for clip in simulate_clips(SPEC, 5, 0, 24)]


@pytest.fixture(scope="module")
def vacated():
    spec = dataclasses.replace(SPEC, kinds=("vacated",))
    asked = build.DatasetSpec(("vacated",), QuestionSpec(style="short"), seed=1)
    return [build.samples_of(clip, asked) for clip in simulate_clips(spec, 5, 0, 16)]


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
            assert track.role == "dynamic" and far[1][0] >= 1.4 * far[0][0]
            assert quarter_of(*map(float, middles(clip, 7)[track.name])) == sample.answer_text
            assert track.name not in sample.question + sample.response
            asked += 1
    assert asked >= 20


def test_the_first_image_shows_what_the_thing_is_found_by(results):
    """Then the thing at the start and at the end; each mask is the right object's."""
    for result in results:
        masks = {track.name: track.masks for track in result.clip.tracks}
        for one in result.samples:
            sample = one.sample
            reference = next(name for name in masks if name in sample.question)
            drawn = drawn_masks(one)
            assert sample.overlay_timestamps == (0.0, 0.0, 3.5)
            np.testing.assert_array_equal(drawn[0], masks[reference][0])
            name, = (name for name in masks if (masks[name][0] == drawn[1]).all())
            np.testing.assert_array_equal(drawn[2], masks[name][7])
            told = [f"at {p.x},{p.y} size {p.size}." for p in (
                readout.place(result.clip, next(t for t in result.clip.tracks if t.name == which),
                              frame, readout.SHORT)
                for which, frame in ((reference, 0), (name, 0), (name, 7)))]
            assert sample.response.count(IMAGE_MARK) == 3
            assert all(words in sample.response for words in told)


def test_a_place_taken_is_that_of_the_thing_asked_about(vacated):
    """Images: what takes the place, at the end; what was there at the start; that at the end."""
    asked = 0
    for result in vacated:
        masks = {track.name: track.masks for track in result.clip.tracks}
        starts, ends = middles(result.clip, 0), middles(result.clip, 7)
        for one in result.samples:
            sample = one.sample
            taker = next(name for name in masks if name in sample.question)
            near = sorted(masks, key=lambda name: np.linalg.norm(starts[name] - ends[taker]))
            assert np.linalg.norm(starts[near[0]] - ends[taker]) < 0.06
            assert np.linalg.norm(starts[near[1]] - ends[taker]) > 0.2
            assert quarter_of(*map(float, ends[near[0]])) == sample.answer_text
            assert near[0] not in sample.question + sample.response
            assert sample.overlay_timestamps == (3.5, 0.0, 3.5)
            drawn = drawn_masks(one)
            for mask, (name, frame) in zip(
                    drawn, ((taker, 7), (near[0], 0), (near[0], 7)), strict=True):
                np.testing.assert_array_equal(mask, masks[name][frame])
            asked += 1
    assert asked >= 12


def test_practice_tells_the_way_of_the_thing_alone(vacated):
    """``work`` and ``tell`` say 'The blue ball.' and then where that is, not where its taker is."""
    clip = next(result.clip for result in vacated if result.samples)
    track = next(one for one in clip.tracks if one.role == "dynamic" and _asked(clip, one))
    question = ask(clip, "vacated", np.random.default_rng(0), SHORT.questions,
                   Subject(track=track))
    way = reasoning_short.positions(clip, [(track, 0), (track, 7)], images=False)
    assert f"Notes: The {track.name}. {way} " in pretraining_tasks.work(clip, question).prompt
    assert pretraining_tasks.tell(clip, question).response.startswith(f"The {track.name}. {way} ")


def _asked(clip, track):
    try:
        return place_taken_by(clip, track, 0, 7, Margins()) is not None
    except Ambiguous:
        return False


def test_nobody_takes_the_place_of_what_stays(vacated):
    clip = vacated[0].clip
    with pytest.raises(Ambiguous, match="takes its place"):
        place_taken_by(clip, clip.landmark, 0, 7, Margins())


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
    with pytest.raises(Ambiguous, match="more than what was found"):
        nearest_to(found, found.tracks[0], 0, 1.4)


def test_a_second_thing_almost_as_near_is_ambiguous(results):
    clip = next(result.clip for result in results if result.samples)

    def at(track, x):
        box = np.float32([x, 0.4, x + 0.1, 0.5])
        return dataclasses.replace(track, boxes=np.tile(box, (8, 1)))

    def asked(*places):
        tracks = tuple(map(at, clip.tracks, places))
        return nearest_to(dataclasses.replace(clip, tracks=tracks), tracks[0], 0, 1.4).name

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
