"""Questions and reasoning: keys from truth, options that give nothing away, texts that agree."""

import collections
import dataclasses
import gc
import itertools
import re
import weakref

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK, LETTERS
from fourd4d.synth.clip import MOVES, OPPOSITE_MOVE, CameraSegment, Clip, Track
from fourd4d.synth.questions import (
    answer_pools,
    pretraining_tasks,
    readout,
    reasoning_short,
)
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import Subject
from fourd4d.synth.questions.types import camera, direction, distance, speed
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec

TYPES = SceneSpec().kinds  # Those of the default scenes.

SPEC = QuestionSpec(style="short")
TRUTH = {"Toward": "Toward the camera", "Away": "Away from the camera", "closer": "Getting closer",
         "farther": "Getting farther", "same": "Same distance",
         "closer-farther": "First closer, then farther",
         "farther-closer": "First farther, then closer", "up": "Speeding up",
         "down": "Slowing down", "constant": "Constant speed",
         "up-down": "First faster, then slower", "down-up": "First slower, then faster"}


@pytest.fixture(scope="module")
def asked():
    """(clip, question, response) of simulated clips, and the number dropped."""
    out, dropped = [], 0
    for number, clip in enumerate(simulate_clips(SceneSpec(), seed=5, start=0, count=96)):
        rng = np.random.default_rng(number)
        try:
            question = ask(clip, clip.provenance["kind"], rng, SPEC)
            out.append((clip, question, reasoning_short.reasoning(clip, question, rng)))
        except Ambiguous:
            dropped += 1
    return out, dropped


def test_the_key_is_what_the_scene_was_made_to_show(asked):
    pairs, dropped = asked
    for clip, question, _ in pairs:
        wanted = clip.provenance["wanted"]
        assert question.answer_text == TRUTH.get(wanted, wanted)
    assert len(pairs) > 0.85 * (len(pairs) + dropped)
    assert {q.type for _, q, _ in pairs} == set(TYPES)


def test_one_mark_per_overlay_and_the_answer_is_the_key(asked):
    for _, question, response in asked[0]:
        assert response.count(IMAGE_MARK) == len(question.frames)
        assert list(question.frames) == sorted(set(question.frames))
        assert response.endswith(f"<answer>{question.answer}. {question.answer_text}</answer>")


def test_positions_told_are_the_track(asked):
    """Every 'at x,y' is the box centre of its moment, every 'Shift' their difference."""
    for clip, question, response in asked[0]:
        told = re.findall(r"([\d.]+)s <output_image> at (\d),(\d) size (\d+)\.", response)
        assert len(told) == len(question.frames)
        for (time, x, y, _), frame in zip(told, question.frames, strict=True):
            x0, y0, x1, y1 = question.track.boxes[frame]
            assert float(time) == pytest.approx(clip.timestamps[frame])
            assert abs((x0 + x1) * 5 - int(x) - 0.5) <= 0.5 + 1e-5
            assert abs((y0 + y1) * 5 - int(y) - 0.5) <= 0.5 + 1e-5
        shift = re.search(r"Shift (left|right) (\d), (up|down) (\d), size ([+-]\d)", response)
        if shift is None:
            continue
        dx = int(shift[2]) * (-1 if shift[1] == "left" else 1)
        dy = int(shift[4]) * (-1 if shift[3] == "up" else 1)
        fixed = re.search(r"Fixed [\w ]+ (\d),(\d) to (\d),(\d)\.", response)
        moved = [int(fixed[i + 3]) - int(fixed[i + 1]) for i in (0, 1)] if fixed else [0, 0]
        assert dx == int(told[-1][1]) - int(told[0][1]) - moved[0]
        assert dy == int(told[-1][2]) - int(told[0][2]) - moved[1]


@pytest.mark.parametrize("pool", [direction.POOL, distance.POOL, speed.POOL, camera.POOL,
                                  speed.POOL_VARYING])
def test_every_option_of_a_set_is_the_answer_equally_often(pool):
    """Exactly: with answers equally frequent, P(answer | options) is 1/4."""
    share = collections.defaultdict(dict)
    for answer in pool.answers:
        sets = [(s, w) for s, w in pool.sets() if answer in s]
        assert sets, f"{answer} is never asked about"
        total = sum(w for _, w in sets)
        for chosen, weight in sets:
            share[chosen][answer] = weight / total
    for chosen, given in share.items():
        assert set(given) == chosen and len(chosen) == 4
        assert max(given.values()) == pytest.approx(min(given.values()))


def guesser_accuracy(drawn, features):
    """Accuracy of the best guess per feature, learnt on one half and scored on the other."""
    half = len(drawn) // 2
    counts = collections.defaultdict(collections.Counter)
    for options, letter in drawn[:half]:
        counts[features(options)][letter] += 1
    right = sum(
        counts[features(o)].most_common(1)[0][0] == letter if counts[features(o)] else 0.25
        for o, letter in drawn[half:])
    return right / (len(drawn) - half)


@pytest.mark.parametrize("pool", [direction.POOL, camera.POOL, speed.POOL])
def test_options_alone_and_letters_alone_tell_nothing(pool):
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(5000):
        answer = pool.answers[rng.integers(len(pool.answers))]
        options = pool.options(answer, rng)
        assert options.count(answer) == 1 and len(set(options)) == 4
        drawn.append((options, answer))
    by_letter = [(o, LETTERS[o.index(a)]) for o, a in drawn]
    assert abs(guesser_accuracy(by_letter, lambda o: None) - 0.25) < 0.03
    assert abs(guesser_accuracy(drawn, frozenset) - 0.25) < 0.04
    places = collections.Counter((answer, options.index(answer)) for options, answer in drawn)
    for answer in pool.answers:  # No word has a letter of its own.
        found = [places[answer, letter] for letter in range(4)]
        assert min(found) > 0.5 * max(found)
    # Whoever always picks an option whose opposite is there too gains nothing either.
    mirror = dict(itertools.chain.from_iterable((p, p[::-1]) for p in pool.pairs))
    hits = [rng.choice([o for o in opts if mirror.get(o) in opts]) == a for opts, a in drawn]
    assert abs(np.mean(hits) - 0.25) < 0.03


@pytest.mark.parametrize("moves", [("Pan Left", "Tilt Up"), ("Pan Left", "Tilt Up", "Dolly In")])
def test_options_of_combined_moves_come_in_mirrored_pairs(moves):
    rng = np.random.default_rng(2)
    for _ in range(20):
        options = answer_pools.combined(moves, rng)
        assert " + ".join(moves) in options and len(set(options)) == 4
        for option in options:
            mirrored = " + ".join(OPPOSITE_MOVE[m] for m in option.split(" + "))
            assert mirrored in options


def test_pools_are_the_published_answers():
    assert set(camera.POOL.answers) == set(MOVES)
    assert len(direction.POOL.answers) == 11


@pytest.mark.parametrize(("angle", "answer"), [
    (0, "Right"), (45, "Right-Down"), (90, "Down"), (180, "Left"), (270, "Up"), (-34, "Right-Up"),
    (12, "Right"), (16, None), (29, None), (33, "Right-Down"),
])
def test_directions_have_margins(angle, answer):
    move = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0.0])
    if answer is None:
        with pytest.raises(Ambiguous, match="between"):
            direction.direction_of(move, Margins())
    else:
        assert direction.direction_of(move, Margins()) == answer


@pytest.mark.parametrize(("move", "answer"), [
    ((0, 0, -1), "Toward the camera"), ((0.1, 0.1, 1), "Away from the camera"),
    ((0.7, 0, 0.7), None), ((0.01, 0, 0), "Stationary"), ((0.07, 0, 0), None),
])
def test_depth_and_stillness_have_margins(move, answer):
    if answer is None:
        with pytest.raises(Ambiguous):
            direction.direction_of(np.array(move, float), Margins())
    else:
        assert direction.direction_of(np.array(move, float), Margins()) == answer


@pytest.mark.parametrize(("values", "answer"), [
    ([4, 4.1, 4], "Same distance"), ([4, 5, 6], "Getting farther"), ([6, 5, 4], "Getting closer"),
    ([6, 4, 6], "First closer, then farther"), ([4, 6, 4.2], "First farther, then closer"),
    ([4, 4.8], None), ([4, 6, 4, 6, 4], None),
])
def test_distance_answers(values, answer):
    if answer is None:
        with pytest.raises(Ambiguous):
            distance.distance_change(np.array(values, float), Margins())
    else:
        assert distance.distance_change(np.array(values, float), Margins()) == answer


@pytest.mark.parametrize(("values", "answer"), [
    ([2, 2.1, 2], "Constant speed"), ([1, 2, 4], "Speeding up"), ([4, 2, 1], "Slowing down"),
    ([1, 4, 1], "First faster, then slower"), ([4, 1, 4], "First slower, then faster"),
    ([1, 4, 1, 4], "Varying speed"), ([2, 2.9, 2.9], None),
])
def test_speed_answers(values, answer):
    if answer is None:
        with pytest.raises(Ambiguous):
            speed.speed_change(np.array(values, float), Margins())
    else:
        assert speed.speed_change(np.array(values, float), Margins()) == answer


def test_moving_camera_without_landmark_is_not_guessed_at(asked):
    """Without geometry and landmark, a moving camera makes the question unanswerable."""
    clip, question, _ = next(p for p in asked[0] if p[1].type == "direction")
    bare = dataclasses.replace(question.track, centers=None, depth=None)
    moving = dataclasses.replace(clip, tracks=(bare,), poses=None, camera=(
        CameraSegment(0.0, float(clip.timestamps[-1]), ("Pan Left",)),))
    with pytest.raises(Ambiguous, match="landmark"):
        ask(moving, "direction", np.random.default_rng(0), SPEC)


def test_boxes_alone_give_the_same_direction_as_geometry(asked):
    """Screen boxes with a landmark agree with the 3-D truth wherever both will answer."""
    compared = 0
    for clip, question, _ in asked[0]:
        if question.type != "direction":
            continue
        flat = tuple(dataclasses.replace(t, centers=None, depth=None) for t in clip.tracks)
        try:
            again = ask(dataclasses.replace(clip, tracks=flat), "direction",
                        np.random.default_rng(0), SPEC)
        except Ambiguous:
            continue
        assert again.provenance["answer_from"] == "boxes"
        assert again.answer_text == question.answer_text
        compared += 1
    assert compared >= 15


def test_the_box_told_is_the_things_own_in_fractions_of_the_frame(asked):
    told = 0
    for _, question, _ in asked[0]:
        if question.type != "box_direction":
            continue
        x0, y0, x1, y1 = map(float, re.findall(r"[\d.]+", question.text.split("[")[1]))
        own = question.track.boxes[question.frames[0]]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        gaps = np.array([own[0] - x0, own[1] - y0, x1 - own[2], y1 - own[3]])
        assert (gaps > -1e-6).all() and (gaps < 0.1).all()  # Rounded outwards, to tenths.
        told += 1
    assert told >= 5


def test_a_shared_box_is_not_asked_about(asked):
    clip, question, _ = next(p for p in asked[0] if p[1].type == "box_direction")
    twin = dataclasses.replace(question.track, name="shadow", role="static")
    with pytest.raises(Ambiguous, match="another thing"):
        ask(dataclasses.replace(clip, tracks=(*clip.tracks, twin)), "box_direction",
            np.random.default_rng(0), SPEC)


def test_base_tasks_hold_no_answer_format(asked):
    rng = np.random.default_rng(3)
    for clip, question, _ in asked[0]:
        one = pretraining_tasks.describe(clip, question, rng)
        two = pretraining_tasks.exercise(question, rng, chained=True)
        for task in (one, two, pretraining_tasks.place(clip, rng)):
            for mark in ("<think>", "<answer>", IMAGE_MARK):
                assert mark not in task.prompt + task.response
        assert question.answer_text in one.response and "option" not in one.response
        assert two.response == reasoning_short.choice(question)


@pytest.mark.parametrize("answer, told", [
    ("A", "A. Up: yes."), ("C", "A. Up: no. B. Left-Up: no. C. Left: yes."),
])
def test_options_are_read_until_one_is_the_answer(asked, answer, told):
    question = dataclasses.replace(asked[0][0][1], options=("Up", "Left-Up", "Left", "Down"),
                                   answer=answer)
    assert reasoning_short.choice(question) == told


def test_readings_that_do_not_lead_to_the_answer_are_dropped():
    with pytest.raises(Ambiguous, match="coarse"):
        readout.require(direction.read_short(readout.Place(3, 1, 0), readout.SHORT), "Up", "x")
    assert direction.read_short(readout.Place(3, -3, 0), readout.SHORT) == "Right-Up"
    assert distance.read_short((3, 6, 3), readout.SHORT) == "First closer, then farther"
    assert speed.read_short((1, 2, 4)) == "Speeding up"
    assert camera.read_short(readout.Place(-3, 0, 0), "still", readout.SHORT) == "Truck Right"
    assert camera.read_short(readout.Place(-3, 0, 0), "left", readout.SHORT) == "Pan Right"


def test_unknown_settings_are_refused(asked):
    with pytest.raises(InputError, match="style"):
        QuestionSpec(style="long")
    for overlays in ({"camera": 1}, {"camera": 2, "colour": 3}):
        with pytest.raises(InputError, match="overlays"):
            QuestionSpec(overlays=overlays)
    with pytest.raises(InputError, match="question type"):
        ask(asked[0][0][0], "colour", np.random.default_rng(0), SPEC)


def followed(centers, depth_error):
    """A clip of a still camera and a thing followed at ``centers``, one reading a second."""
    count = len(centers)
    boxes, masks = np.tile([0.4, 0.4, 0.6, 0.6], (count, 1)), np.ones((count, 8, 8), bool)
    track = Track("red ball", "dynamic", boxes, masks, centers=np.array(centers, float),
                  error=np.zeros(count), depth_error=np.atleast_2d(np.array(depth_error, float)))
    return Clip("a", np.zeros((count, 8, 8, 3), np.uint8), np.arange(count, dtype=float), (track,),
                poses=np.tile(np.eye(4), (count, 1, 1))), track


@pytest.mark.parametrize("error, told", [(0.05, True), (0.7, False), (np.inf, False)])
def test_what_rests_on_size_alone_is_told_only_where_size_is_believed(error, told):
    clip, track = followed([(0, 0, 5 - 0.5 * i) for i in range(5)], [0, 0, 0, 0, error])
    for sure, answer in ((direction.confident_direction, "Toward the camera"),
                         (distance.confident_distance, "Getting closer")):
        if told:
            assert sure(clip, track, 0, 4, Margins())[0] == answer
            continue
        with pytest.raises(Ambiguous, match="depth is not known|not exact enough"):
            sure(clip, track, 0, 4, Margins())


def test_sideways_motion_bears_a_small_doubt_of_size():
    clip, track = followed([(0.5 * i, 0, 5) for i in range(5)], [0.04] * 5)
    assert direction.confident_direction(clip, track, 0, 4, Margins())[0] == "Right"


def test_of_two_ways_to_tell_size_one_does_for_sideways_motion_and_both_for_depth():
    good, bad = [0.0] * 5, [0, 0, 0, 0, 0.9]
    aside, track = followed([(0.5 * i, 0, 5) for i in range(5)], [bad, good])
    assert direction.confident_direction(aside, track, 0, 4, Margins())[0] == "Right"
    aside, track = followed([(0.5 * i, 0, 5) for i in range(5)], [bad, bad])
    with pytest.raises(Ambiguous, match="depth is not known"):
        direction.confident_direction(aside, track, 0, 4, Margins())
    near, track = followed([(0, 0, 5 - 0.5 * i) for i in range(5)], [bad, good])
    with pytest.raises(Ambiguous, match="depth is not known"):
        direction.confident_direction(near, track, 0, 4, Margins())
    # Errors that are alike change no ratio.
    near, track = followed([(0, 0, 5 - 0.5 * i) for i in range(5)], [[0.5] * 5, good])
    assert direction.confident_direction(near, track, 0, 4, Margins())[0] == "Toward the camera"


def test_what_comes_back_or_never_moves_is_not_said_to_rest():
    away = [(0, 0, 5), (0.5, 0, 5), (1, 0, 5), (0.5, 0, 5), (0, 0, 5), (0, 0, 5), (0, 0, 5)]
    clip, track = followed(away, np.zeros(7))
    assert not direction.is_stationary(clip, track, 0, 4, Margins())
    assert direction.is_stationary(clip, track, 4, 6, Margins())
    clip, track = followed([(0.01 * i, 0, 5) for i in range(7)], np.zeros(7))
    assert not direction.is_stationary(clip, track, 0, 6, Margins())
    with pytest.raises(Ambiguous, match="changes direction"):
        ask(clip, "direction", np.random.default_rng(0), SPEC, subject=Subject(track=track))


def test_of_a_way_there_and_back_its_halves_are_asked():
    there = [(0.4 * min(i, 10 - i), 0, 5) for i in range(11)]
    clip, track = followed(there, np.zeros(11))
    spec = dataclasses.replace(SPEC, style="full", parts=1)
    with pytest.raises(Ambiguous, match="changes direction"):
        ask(clip, "direction", np.random.default_rng(0), spec, subject=Subject(track=track))
    asked = ask(clip, "direction", np.random.default_rng(0),
                dataclasses.replace(spec, parts=3), subject=Subject(track=track))
    assert asked.answer_text == "Right" and asked.frames[-1] <= 7
    assert asked.frames[-1] - asked.frames[0] >= 4


def test_speed_is_not_told_where_a_thing_turns_or_is_cut():
    there = [(x, 0.0, 5.0) for x in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
    back = [(x, 0.0, 5.0) for x in (0, 1, 2, 3, 2, 1, 2, 3, 4)]
    frames = (0, 2, 4, 6, 8)
    clip, track = followed(there, np.zeros(9))
    assert speed.confident_speed(clip, track, frames, Margins())[0] == "Constant speed"
    # A mask that fills in makes its object seem to come nearer: 0.1 to 0.21 of the frame.
    clip, track = followed(there, np.linspace(0, np.sqrt(2.1) - 1, 9))
    with pytest.raises(Ambiguous, match="mask changes otherwise"):
        speed.confident_speed(clip, track, frames, Margins())
    clip, track = followed(there, [0] * 8 + [np.inf])  # The picture's edge cuts it at last.
    with pytest.raises(Ambiguous, match="distance is not known"):
        speed.confident_speed(clip, track, frames, Margins())
    clip, track = followed(back, np.zeros(9))
    with pytest.raises(Ambiguous, match="turns between"):
        speed.confident_speed(clip, track, frames, Margins(pace=1.01, steady=1.01))


def test_speed_is_not_told_from_within_a_step():
    walk = [(x, 0.0, 5.0) for x in (0, 1, 1.5, 2.5, 3, 4, 4.5, 5.5, 6)]
    clip, track = followed(walk, np.zeros(9))
    clip = dataclasses.replace(clip, timestamps=clip.timestamps * 0.4)
    with pytest.raises(Ambiguous, match="too close in time"):
        speed.confident_speed(clip, track, (0, 1, 2, 3), Margins())
    assert speed.confident_speed(clip, track, (0, 2, 4, 6, 8), Margins())[0] == "Constant speed"


@pytest.mark.parametrize("kind", TYPES)
def test_a_clip_that_was_asked_about_is_freed_at_once(kind):
    # Left to the garbage collector, hundreds of them pile up first.
    spec = dataclasses.replace(SPEC, parts=3)
    refused, alive = 0, []
    gc.collect()
    gc.disable()
    try:
        for number, clip in enumerate(simulate_clips(SceneSpec(), seed=6, start=0, count=16)):
            try:
                ask(clip, kind, np.random.default_rng(number), spec)
            except Ambiguous:
                refused += 1
            alive.append(weakref.ref(clip))
        del clip
        assert refused or kind == "camera"
        assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()
