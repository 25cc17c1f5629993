"""Which of several things that look alike: told by following it, and only where that is clear."""

import dataclasses

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth.dataset import build
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.types.destination import POOL, quarter_of
from fourd4d.synth.questions.types.lookalike import Lookalike, follow
from fourd4d.synth.simulator.clips import outline, simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from tests.helpers.overlays import drawn_masks

SPEC = SceneSpec(things=5, movers=4, moving_camera=0.0, kinds=("lookalike",), weights=(1.0,))


@pytest.fixture(scope="module")
def results():
    asked = build.DatasetSpec(("lookalike",), QuestionSpec(style="short"), seed=1)
    return [build.samples_of(clip, asked) for clip in simulate_clips(SPEC, 5, 0, 24)]


def middle(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def moving(clip):
    return [track for track in clip.tracks if track.role == "dynamic"]


def test_they_look_alike_in_every_respect(results):
    """Seen side by side at one place they could not be told apart: colour, shape, size."""
    for result in results:
        four = moving(result.clip)
        assert len(four) == 4 and len({track.name for track in four}) == 1
        frames = result.clip.frames
        colours = np.array([np.median(frames[0][track.masks[0]], axis=0) for track in four])
        assert np.ptp(colours, axis=0).max() < 30  # Light falls on all alike, from its places.
        areas = np.array([track.masks[0].sum() for track in four])
        assert areas.max() < 1.6 * areas.min()


def test_the_answer_is_where_the_nearest_follower_leads(results):
    """From the masks of all four alone: frame by frame the nearest is it, in the end the answer."""
    asked = 0
    for result in results:
        at = np.stack([middle(track.boxes) for track in moving(result.clip)])
        for sample in (one.sample for one in result.samples):
            quarter = next(name for name in POOL.answers if name.lower() in
                           sample.question.split("\n")[0])
            here, = (place for place in at[:, 0] if quarter_of(*map(float, place)) == quarter)
            for frame in range(1, 8):
                here = min(at[:, frame], key=lambda place, last=here: np.linalg.norm(place - last))
            assert quarter_of(*map(float, here)) == sample.answer_text
            asked += 1
    assert asked >= 60


def test_the_images_follow_it(results):
    for result in results:
        for one in result.samples:
            sample = one.sample
            assert sample.overlay_timestamps == (0.0, 1.0, 2.0, 3.0)
            assert sample.response.count(IMAGE_MARK) == 4
            drawn = drawn_masks(one)
            own, = (track for track in moving(result.clip) if (track.masks[0] == drawn[0]).all())
            for mask, frame in zip(drawn, (0, 2, 4, 6), strict=True):
                np.testing.assert_array_equal(mask, own.masks[frame])


def test_one_picture_does_not_tell(results):
    """Nor do two: neither who is nearest to the start, nor the first step, leads to the end."""
    nearest, ahead, asked = 0, 0, 0
    for result in results:
        at = np.stack([middle(track.boxes) for track in moving(result.clip)])
        for i, one in enumerate(at):
            nearest += np.linalg.norm(at[:, 7] - one[0], axis=1).argmin() == i
            goal = np.clip(one[0] + 7 * (one[1] - one[0]), 0.0, 1.0)
            ahead += np.linalg.norm(at[:, 7] - goal, axis=1).argmin() == i
            asked += 1
    assert nearest < 0.45 * asked and ahead < 0.65 * asked


def test_answers_are_balanced_and_not_where_it_starts(results):
    samples = [one.sample for result in results for one in result.samples]
    counts = [sum(one.answer_text == name for one in samples) for name in POOL.answers]
    assert min(counts) > 0.15 * len(samples) and max(counts) < 0.35 * len(samples)
    stays = sum(one.answer_text.lower() in one.question.split("\n")[0] for one in samples)
    assert stays < 0.4 * len(samples)


@pytest.fixture
def pair(results):
    """A clip of two things alike, on straight ways ``apart`` frame heights from each other."""
    clip = results[0].clip

    def of(apart, step=0.05):
        x = 0.1 + step * np.arange(8)
        tracks = []
        for track, y in zip(moving(clip), (0.2, 0.2 + apart), strict=False):
            boxes = np.stack([x, np.full(8, y), x + 0.1, np.full(8, y + 0.1)], 1)
            tracks.append(dataclasses.replace(track, boxes=boxes.astype(np.float32)))
        return dataclasses.replace(clip, tracks=tuple(tracks))
    return of


def test_two_that_come_close_are_ambiguous(pair):
    clip = pair(0.3)
    assert follow(clip, clip.tracks[0], 0, 7, 1.4) == list(clip.tracks)
    clip = pair(0.04)
    with pytest.raises(Ambiguous, match="which is which"):
        follow(clip, clip.tracks[0], 0, 7, 1.4)


def test_what_is_out_of_sight_for_a_while_is_ambiguous(pair):
    clip = pair(0.3)
    boxes = clip.tracks[1].boxes.copy()
    boxes[3] = np.nan
    hidden = dataclasses.replace(clip.tracks[1], boxes=boxes,
                                 masks=clip.tracks[1].masks & (np.arange(8) != 3)[:, None, None])
    clip = dataclasses.replace(clip, tracks=(clip.tracks[0], hidden))
    with pytest.raises(Ambiguous, match="out of sight"):
        follow(clip, clip.tracks[0], 0, 7, 1.4)


def test_alone_it_has_no_lookalike(pair):
    clip = pair(0.3)
    alone = dataclasses.replace(clip, tracks=clip.tracks[:1])
    with pytest.raises(Ambiguous, match="nothing looks like it"):
        follow(alone, alone.tracks[0], 0, 7, 1.4)
    assert [one.track for one in Lookalike().subjects(alone)] == [None]


def test_in_a_real_video_there_may_be_more(pair):
    clip = dataclasses.replace(pair(0.3), provenance={"source": "videos", "objects": "motion"})
    with pytest.raises(Ambiguous, match="more than what was found"):
        Lookalike().answer(clip, clip.tracks[0], (0, 2, 4, 6), Margins())


def test_two_that_start_in_one_quarter_are_ambiguous(pair):
    clip = pair(0.15, 0.01)
    spec = QuestionSpec(style="short").of(Lookalike())
    with pytest.raises(Ambiguous, match="start in one quarter"):
        Lookalike().facts(clip, clip.tracks[0], 0, spec)
    assert Lookalike().facts(pair(0.5), pair(0.5).tracks[0], 0, spec) == {"quarter": "top left"}


def test_an_outline_has_the_places_of_each_of_them(results):
    """Though they share a name."""
    for number in (0, 1):
        drawn, clip = outline(SPEC, 5, number), results[number].clip
        for rough, true in zip(drawn.tracks, clip.tracks, strict=True):
            assert rough.name == true.name
            np.testing.assert_allclose(middle(rough.boxes), middle(true.boxes), atol=0.03)


@pytest.mark.parametrize("movers", [1, 5])
def test_scenes_refuse_too_few_and_too_many(movers):
    with pytest.raises(InputError, match="look alike"):
        SceneSpec(things=6, movers=movers, kinds=("lookalike",), weights=(1.0,))


def test_the_full_text_follows_it(results):
    spec = build.DatasetSpec(("lookalike",), QuestionSpec(), seed=1)
    texts = [one.sample for result in results[:6]
             for one in build.samples_of(result.clip, spec).samples]
    assert len(texts) >= 8
    for sample in texts:
        assert sample.response.startswith("<think>I must not take another ")
        assert sample.answer_text in sample.response.split("</think>")[0]
