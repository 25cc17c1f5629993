"""How the speed of an object changes.

The rule is ``speed_change``; ``confident_speed`` adds what the track's errors could change.
``read_short`` and ``read_full`` are what a text may conclude from the steps that it states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Question
from fourd4d.synth.questions.readout import PERCENT, SHORT, Place
from fourd4d.synth.questions.types.base import ObjectQuestionType, Voice

ANSWERS: Final[Mapping[str, str]] = {
    "flat": "Constant speed", "up": "Speeding up", "down": "Slowing down",
    "up-down": "First faster, then slower", "down-up": "First slower, then faster",
    "varying": "Varying speed"}
"""The answer by the curve of the speed; see ``geometry.curve``."""
POOL: Final = Pool(((ANSWERS["up"], ANSWERS["down"]), (ANSWERS["up-down"], ANSWERS["down-up"])),
                   ANSWERS["flat"])
POOL_VARYING: Final = Pool((*POOL.pairs, (ANSWERS["flat"], ANSWERS["varying"])))


def speed_change(speeds: Float[np.ndarray, "K"], margins: Margins) -> str:
    """Return one of ``POOL_VARYING`` from speeds over equal spans of time. Raises Ambiguous."""
    if speeds.max() < 1e-6:
        raise Ambiguous("speed: it does not move")
    return ANSWERS[geometry.curve(np.maximum(speeds, 0.08 * speeds.max()), margins.steady,
                                  margins.pace)]


def confident_speed(clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
                    ) -> tuple[str, str]:
    """Return the change of speed over ``frames``, and its source.

    Raises Ambiguous where errors could change it.
    """
    _require_sizes(clip, track, frames, margins)
    speeds, source = geometry.steps(clip, track, frames)
    answer = speed_change(speeds, margins)
    if track.error is not None:
        _require_straight(clip, track, frames, float(speeds.max()), margins)
    base, _ = geometry.distance(clip, track)
    uncertainty = [geometry.position_uncertainty(clip, track, a, b) * base[a]
                   / (clip.timestamps[b] - clip.timestamps[a])
                   for a, b in zip(frames, frames[1:], strict=False)]
    # As much as may lie between two readings of one speed.
    if not max(uncertainty) <= (margins.steady - 1) * speeds.max():
        raise Ambiguous("speed: the track is not exact enough")
    for factor in {1 / track.depth_within, track.depth_within} - {1.0}:
        if speed_change(geometry.steps(clip, track, frames, factor)[0], margins) != answer:
            raise Ambiguous("speed: the depth is not known well enough")
    return answer, source


def _require_sizes(clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins) -> None:
    """Raise Ambiguous where readings are too close, or the object's size says nothing."""
    if np.diff(clip.timestamps[list(frames)]).min() < margins.interval - 1e-6:
        raise Ambiguous("speed: its readings are too close in time")
    if track.depth_error is None:
        return
    if not np.isfinite(track.depth_error[:, list(frames)]).any(0).all():
        raise Ambiguous("speed: its distance is not known")
    # A mask that is not whole yet makes its object seem to come nearer; as far as a speed may be
    # off between one that changes and one that does not.
    first, last = frames[0], frames[-1]
    errors = track.depth_error[:, first : last + 1][:, track.seen[first : last + 1]]
    if not (np.ptp(errors, axis=1) <= margins.pace / margins.steady - 1).all():
        raise Ambiguous("speed: the mask changes otherwise than the picture in it")


def _require_straight(clip: Clip, track: Track, frames: tuple[int, ...], fastest: float,
                      margins: Margins) -> None:
    """Raise Ambiguous where the object turns between two readings, other than by noise."""
    for a, b in zip(frames, frames[1:], strict=False):
        between = tuple(int(t) for t in a + np.flatnonzero(track.seen[a : b + 1]))
        seconds = np.diff(clip.timestamps[list(between)])
        pace = (geometry.steps(clip, track, between)[0] * seconds).sum() \
            / (clip.timestamps[b] - clip.timestamps[a])
        # Slower than this it may be noise that turns.
        if pace > 0.25 * fastest and geometry.straightness(clip, track, between) < margins.straight:
            raise Ambiguous("speed: it turns between two readings")


def read_short(steps: tuple[int, ...]) -> str:
    """Return the change of speed that stated steps amount to; '' where they amount to none."""
    change = np.diff(steps)
    if max(steps) - min(steps) <= max(1, min(steps) // 4) and min(steps) > 0:
        return ANSWERS["flat"]
    if (change >= 0).all() and steps[-1] > steps[0] + 1:
        return ANSWERS["up"]
    if (change <= 0).all() and steps[0] > steps[-1] + 1:
        return ANSWERS["down"]
    inner = steps[1:-1]
    if max(inner) >= max(steps[0], steps[-1]) + 2:
        return ANSWERS["up-down"]
    if min(inner) <= min(steps[0], steps[-1]) - 1 and min(steps[0], steps[-1]) >= 2:
        return ANSWERS["down-up"]
    return ""


def read_full(speeds: Sequence[int]) -> str:
    """Return the change of speed that stated speeds, percent a second, amount to."""
    values = np.maximum(np.array(speeds, float), 1.0)
    change = np.diff(values)
    noise = 0.15 * values.max()
    if values.max() < 1.4 * values.min():
        return ANSWERS["flat"]
    if (change > -noise).all():
        return ANSWERS["up"]
    if (change < noise).all():
        return ANSWERS["down"]
    signs = np.sign(change[np.abs(change) > noise])
    turns = int((np.diff(signs) != 0).sum())
    if turns != 1:
        return ANSWERS["varying"]
    return ANSWERS["up-down"] if signs[0] > 0 else ANSWERS["down-up"]


def stated_steps(clip: Clip, question: Question) -> tuple[int, ...]:
    """Return the displacement between consecutive overlays, tenths of the frame height, rounded."""
    moves = []
    for a, b in zip(question.frames, question.frames[1:], strict=False):
        move = geometry.box_center(question.track)[b] - geometry.box_center(question.track)[a]
        if question.landmark is not None and question.landmark.seen[[a, b]].all():
            move = move - np.diff(geometry.box_center(question.landmark)[[a, b]], axis=0)[0]
        moves.append(round(float(np.hypot(*move)) * SHORT.units))
    return tuple(moves)


class Speed(ObjectQuestionType):
    """How an object's speed against the static scene changes."""

    name = "speed"
    overlays = 4
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("How does the speed of the {name} change?", "How fast is the {name} over time?",
                  "Does the {name} get faster or slower?"),
        "full": ("How does the speed of the {name} change between {start:.1f}s and {end:.1f}s?",
                 "From {start:.1f}s to {end:.1f}s, how does the pace of the {name} develop?"),
    }
    descriptions = ("How fast does the {name} go at each time?",
                    "Describe the speed of the {name}.", "Track the {name} and tell its speed.")

    def pool(self, spec: AskSpec) -> Pool:
        return POOL_VARYING if spec.varying else POOL

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        if len(frames) < 4:
            raise Ambiguous("speed: fewer than four readings")
        return confident_speed(clip, track, frames, margins)

    def findings_short(self, clip: Clip, question: Question) -> str:
        steps = stated_steps(clip, question)
        readout.require(read_short(steps), question.answer_text, self.name)
        return f"Steps {', '.join(map(str, steps))}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        speeds, spans = [], []
        sentence, _ = readout.reference_sentence(clip, question)
        for i, (a, b) in enumerate(zip(places, places[1:], strict=False)):
            first, last = question.frames[i], question.frames[i + 1]
            fixed = _landmark_between(clip, question.landmark, first, last) if sentence else ()
            step = readout.shift((a, b), fixed)
            seconds = clip.timestamps[last] - clip.timestamps[first]
            speeds.append(round(float(np.hypot(step.x, step.y)) / seconds))
            spans.append(f"{speeds[-1]}% a second until {clip.timestamps[last]:.1f}s")
        readout.require_clear(read_full(speeds) == question.answer_text, self.name)
        lead = voice.pick(("Its pace is", "It covers", "That makes"))
        return f"{sentence} {lead} {', '.join(spans)}. So: {question.answer_text}.".strip()


def _landmark_between(clip: Clip, landmark: Track | None, first: int, last: int
                      ) -> tuple[Place, ...]:
    if landmark is None or not landmark.seen[[first, last]].all():
        return ()
    return tuple(readout.place(clip, landmark, i, PERCENT) for i in (first, last))
