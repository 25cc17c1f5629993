"""The synthesis benchmark's scores: what is right counts, what is wrong does not."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import workers

from fourd4d.bench import synthesis
from fourd4d.bench.__main__ import main
from fourd4d.core.errors import InputError
from fourd4d.synth.clip import MOVES
from fourd4d.synth.simulator import clips
from fourd4d.synth.simulator.spec import SceneSpec


@pytest.fixture(scope="module")
def truths():
    return list(clips.simulate_clips(SceneSpec(frames=16, fps=4.0), 7, 0, 32))


def scored(truths, digest=lambda clip: clip, truly=lambda clip: clip):
    """Scores of digests, each made from a clip, against what is held to be true of it."""
    scores = synthesis.Scores()
    for truth in truths:
        synthesis.add(scores, truly(truth), digest(truth))
    return scores


def changed_things(change):
    """Clips whose moving things are changed."""
    return lambda clip: dataclasses.replace(clip, tracks=tuple(
        change(track) if track.role == "dynamic" else track for track in clip.tracks))


def test_the_truth_itself_scores_in_full(truths):
    scores = scored(truths)
    metrics = scores.metrics() | scores.camera("features")
    for name in ("object_found", "mask_iou_median", "object_true_share", "direction_accuracy",
                 "distance_accuracy", "speed_accuracy", "camera_accuracy",
                 "camera_macro_f1_features", "camera_told_share_features"):
        assert metrics[name] == 1, name
    assert min(metrics[f"{kind}_answers"] for kind in ("direction", "distance", "speed")) > 4


def test_opposite_moves_and_silence_are_told_apart(truths):
    moving = [t for t in truths if all(s.moves != ("Static",) for s in t.camera)]
    assert len(moving) > 4

    def turned(clip):
        return dataclasses.replace(clip, camera=tuple(dataclasses.replace(s, moves=tuple(
            MOVES[MOVES.index(move) ^ 1] for move in s.moves)) for s in clip.camera))

    scores = scored(moving, turned)
    assert scores.camera("features")["camera_macro_f1_features"] == 0 and all(scores.told)
    assert not scores.hits and scores.false.total() == scores.missed.total() > 0
    silent = scored(moving, lambda clip: dataclasses.replace(clip, camera=()))
    assert not any(silent.told) and not silent.false and not silent.missed


@pytest.mark.parametrize("pixels", [32, 7])
def test_things_elsewhere_are_not_found_and_answers_about_them_are_wrong(truths, pixels):
    def away(track):
        return dataclasses.replace(track, masks=np.roll(track.masks, pixels, axis=(1, 2)))

    scores = scored(truths, changed_things(away))
    metrics = scores.metrics()
    assert metrics["object_found"] < 0.1 and metrics["object_true_share"] < 0.1
    assert metrics["direction_accuracy"] < 0.1 and metrics["camera_accuracy"] == 1


def test_a_thing_that_rests_is_no_right_answer(truths):
    def all_move(clip):
        return dataclasses.replace(clip, tracks=tuple(
            dataclasses.replace(track, role="dynamic" if track.role == "static" else "static")
            for track in clip.tracks))

    scores = scored(truths, all_move)
    assert scores.followed and max(scores.followed) < 0.3
    assert not any(scores.answers["direction"])


def test_answers_that_are_not_true_are_wrong(truths):
    # The other way round, since reasoning refuses a track that its boxes contradict.
    def back(track):
        return dataclasses.replace(track, centers=track.centers[::-1])

    scores = scored(truths, truly=changed_things(back)).metrics()
    assert scores["object_found"] == 1 and scores["direction_accuracy"] < 0.4


def test_guessers_learn_what_gives_an_answer_away():
    options = ("Up", "Down", "Left", "Right")
    rng = np.random.default_rng(0)

    def asked(favourite, count=400):
        for _ in range(count):
            order = tuple(rng.permutation(options))
            answer = favourite if favourite in options else order[rng.integers(4)]
            yield "direction", order, "ABCD"[order.index(answer)]

    told, fair = list(asked("Up")), list(asked(""))

    def by_option(kind, option, letter):
        return kind, option

    def by_letter(kind, option, letter):
        return letter

    assert synthesis._guess(told, told, by_option) == 400
    assert abs(synthesis._guess(told[::2], told[1::2], by_letter) / 200 - 0.25) < 0.1
    assert abs(synthesis._guess(fair[::2], fair[1::2], by_option) / 200 - 0.25) < 0.1


@pytest.mark.slow
def test_the_command_digests_files_and_asks(tmp_path):
    out = tmp_path / "synthesis.json"
    assert main(["synthesis", "--clips", "2", "--workers", "1", "--questions", "40", "--rendered",
                 "3", "--speed", "0", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    metrics = result["metrics"]
    assert metrics["guesser_questions"] >= 40 and metrics["clips_per_minute"] > 0
    assert 0 < metrics["peak_bytes_first"] <= metrics["peak_bytes_all"]
    assert metrics["rendered_questions"] == 0  # Counted after the first hundred clips.
    assert 0 <= metrics["kept_share"] <= 1 and result["context"]["seed"] == synthesis.SEED


PARTS = range(0, 24, 8)


def test_clips_of_a_lost_worker_are_made_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(synthesis, "digest_part", workers.ended_once)
    parts = [(str(tmp_path), start, 8) for start in PARTS]
    assert synthesis._by_workers(parts, 1, "clips") == [(start, 8) for start in PARTS]
    assert capsys.readouterr().err.count("ended by the system") == 1


def test_workers_that_are_always_lost_end_the_run_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(synthesis, "digest_part", workers.ended_always)
    with pytest.raises(InputError, match="--workers: the system keeps ending worker processes"):
        synthesis._by_workers([(str(tmp_path), start, 8) for start in PARTS], 1, "clips")
