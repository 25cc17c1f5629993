"""How the camera moves, over a span in which its moves do not change.

The answer is the label of the span (``camera/motion_labels.py``, or the simulator's truth);
``read_short`` and ``shows`` are what a text may conclude from a landmark and the far background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from fourd4d.core.sample import LETTERS
from fourd4d.synth.clip import MOVES, Clip
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.answer_pools import Pool, combined
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.question import AskSpec, Question, Subject
from fourd4d.synth.questions.readout import SHORT, Place, Scale
from fourd4d.synth.questions.types.base import QuestionType, Voice

POOL: Final = Pool(tuple((MOVES[i], MOVES[i + 1]) for i in range(0, 12, 2)), "Static")
_ROTATIONS: Final[Mapping[str, str]] = {
    "left": "Pan Right", "right": "Pan Left", "down": "Tilt Up", "up": "Tilt Down",
    "counterclockwise": "Roll CW", "clockwise": "Roll CCW"}
"""The rotation by how the far background shifts on screen."""
_SHIFTS: Final = (("right", "left"), ("up", "down"), ("clockwise", "counterclockwise"))
_MIN_ROTATION = 3.0  # Degrees between the overlays; less does not count as a rotation.
_MAX_MOVES = 3  # At once, in one question.
_MAX_OVERLAYS = 4


# ---- what the background and a landmark show ----


def background_shifts(clip: Clip, first: int, last: int, least: float = _MIN_ROTATION
                      ) -> tuple[str, ...]:
    """Return how the far background shifts on screen: a word for each rotation above ``least``°.

    Raises Ambiguous where the clip has no poses.
    """
    angles = geometry.rotation(clip, first, last)
    return tuple(pair[int(angle > 0)] for pair, angle in zip(_SHIFTS, angles, strict=True)
                 if abs(angle) >= least)


def main_background_shift(clip: Clip, first: int, last: int) -> str:
    """Return how the far background shifts by the camera's largest rotation, in a few words.

    Raises Ambiguous where the clip has no poses.
    """
    angles = geometry.rotation(clip, first, last)
    largest = int(np.abs(angles).argmax())
    if abs(angles[largest]) < _MIN_ROTATION:
        return "still"
    word = _SHIFTS[largest][int(angles[largest] > 0)]
    return f"turning {word}" if largest == 2 else word


def read_short(move: Place, background: str, scale: Scale) -> str:
    """Return the move that a landmark's stated shift and the far background amount to; '' if none.
    """
    rotation = _ROTATIONS.get(background.removeprefix("turning "))
    if rotation is not None:
        return rotation
    if abs(move.size) >= scale.clear:
        return "Dolly In" if move.size > 0 else "Dolly Out"
    if abs(move.x) >= scale.clear and abs(move.y) < scale.clear:
        return "Truck Left" if move.x > 0 else "Truck Right"
    if abs(move.y) >= scale.clear and abs(move.x) < scale.clear:
        return "Pedestal Up" if move.y > 0 else "Pedestal Down"
    return "Static" if max(abs(move.x), abs(move.y)) == 0 else ""


def shows(moves: set[str], shift: Place, ratio: float, rotations: tuple[str, ...]) -> bool:
    """Return whether stated numbers lead to the moves.

    Args:
      shift: of the landmark, percent.
      ratio: of its last size to its first.
      rotations: of the far background, see ``background_shifts``.
    """
    rotated = {_ROTATIONS[word] for word in rotations}
    translations = translations_of(moves)
    shown = {"Truck Left": shift.x >= 3, "Truck Right": shift.x <= -3, "Pedestal Up": shift.y >= 3,
             "Pedestal Down": shift.y <= -3, "Dolly In": ratio >= 1.12, "Dolly Out": ratio <= 0.9}
    clear = rotated == moves - translations - {"Static"} and (
        len(moves) > 1 or all(shown[m] for m in translations))
    if "Static" in moves:
        clear = clear and max(abs(shift.x), abs(shift.y)) <= 2 and 0.9 < ratio < 1.12
    return clear


def translations_of(moves: set[str]) -> set[str]:
    """Return the moves that change the camera's place."""
    return moves - set(_ROTATIONS.values()) - {"Static"}


# ---- the type ----


class Camera(QuestionType):
    """How the camera moves in one of its spans, by a landmark."""

    name = "camera"
    overlays = 2
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("How does the camera move?", "What does the camera do?",
                  "Which camera move is this?", "What is the camera motion?"),
        "full": ("How does the camera move between {start:.1f}s and {end:.1f}s?",
                 "What is the camera doing from {start:.1f}s to {end:.1f}s?",
                 "Which camera motion describes the span {start:.1f}s to {end:.1f}s?"),
    }
    descriptions = ("Where is the fixed {name}, and what does the camera do?",
                    "Describe the fixed {name} and the camera.",
                    "Track the fixed {name} to tell the camera move.")
    openings_short = ("Watch the fixed {name}.", "The {name} is fixed.",
                      "Follow the fixed {name}.", "Take the fixed {name}.")
    openings_full = (
        "To tell the camera's motion from {start} to {end}, I use something fixed: the {name}.",
        "The {name} does not move by itself, so its apparent motion from {start} to {end} is the "
        "camera's.",
        "I take the {name} as a landmark and watch it between {start} and {end}.",
        "Camera motion shows in static things, so I follow the {name} from {start} to {end}.",
        "Let me picture the {name}, which is fixed to the scene, at {start} and up to {end}.",
        "A landmark helps here: the {name}, between {start} and {end}.",
        "Since the {name} stays put in the world, I check how it shifts from {start} to {end}.",
        "From {start} to {end} I anchor on the {name}, a static part of the scene.",
        "The span is {start} to {end}; the {name} serves as my fixed reference.",
        "I look at how the static {name} appears from {start} to {end}.",
        "How the picture of the {name} changes from {start} to {end} gives the camera away.",
    )
    lead = "the camera move is "

    def subjects(self, clip: Clip) -> Iterator[Subject]:
        """Yield each span of the camera."""
        yield from (Subject(segment) for segment in clip.camera or (None,))

    def ask(self, clip: Clip, rng: np.random.Generator, spec: AskSpec, subject: Subject
            ) -> Question:
        segment = subject.segment
        if segment is None:
            if not clip.camera:
                raise Ambiguous("camera: the motion is unknown")
            segment = clip.camera[0]
        if not segment.moves:
            raise Ambiguous("camera: the motion is unclear")
        if len(segment.moves) > _MAX_MOVES:
            raise Ambiguous("camera: more than three moves at once")
        frames = self._overlay_frames(clip, *geometry.frames_of(clip, segment),
                                      count=min(spec.overlays + (len(segment.moves) - 1),
                                                _MAX_OVERLAYS))
        landmark = clip.landmark
        assert landmark is not None  # Or _overlay_frames has raised.
        answer = " + ".join(segment.moves)
        options = (POOL.options(answer, rng) if len(segment.moves) == 1
                   else combined(segment.moves, rng))
        # The question states the span that is shown: the reasoning names the same times.
        start, end = clip.timestamps[[frames[0], frames[-1]]]
        text = self.word(rng, spec.style, start=start, end=end)
        return Question(self.name, text, options, LETTERS[options.index(answer)], landmark,
                        landmark, tuple((landmark, frame) for frame in frames),
                        {"answer_from": str(clip.provenance.get("camera", "poses"))})

    def _overlay_frames(self, clip: Clip, first: int, last: int, count: int) -> tuple[int, ...]:
        """Return evenly spaced frames that show the landmark. Raises Ambiguous."""
        landmark = clip.landmark
        if landmark is None:
            raise Ambiguous("camera: no landmark")
        seen = [i for i in range(first, last + 1) if landmark.seen[i]]
        if len(seen) < 2 or (seen[-1] - seen[0]) < 0.5 * (last - first):
            raise Ambiguous("camera: the landmark is seen too briefly")
        frames = geometry.evenly_spaced(seen[0], seen[-1], count)
        if not landmark.seen[list(frames)].all():
            raise Ambiguous("camera: landmark hidden at an overlay")
        return frames

    def sample_name(self, clip: Clip, question: Question, suffix: str) -> str:
        start, end = clip.timestamps[[question.frames[0], question.frames[-1]]]
        return f"{start:.1f}->{end:.1f}"

    def findings_short(self, clip: Clip, question: Question) -> str:
        move = readout.shift(readout.places(clip, question, SHORT))
        far = main_background_shift(clip, question.frames[0], question.frames[-1])
        if " + " not in question.answer_text:
            readout.require(read_short(move, far, SHORT), question.answer_text, self.name)
        return f"Shift {readout.shift_words(move)}. Background {far}."

    def findings_full(self, clip: Clip, question: Question, places: tuple[Place, ...],
                      voice: Voice) -> str:
        moves = set(question.answer_text.split(" + "))
        shift = readout.shift(places)
        rotations = background_shifts(clip, question.frames[0], question.frames[-1])
        readout.require_clear(shows(moves, shift, places[-1].size / places[0].size, rotations),
                              self.name)
        size = f"its size goes from {places[0].size}% to {places[-1].size}%"
        text = [f"The landmark {readout.moves_words(shift)} and {size}."]
        translations = translations_of(moves)
        if rotations:
            words = {"clockwise": "turns clockwise", "counterclockwise": "turns counterclockwise"}
            far = " and ".join(words.get(t, f"shifts {t}") for t in rotations)
            text.append(f"The far background {far} as well, so the camera rotates.")
        elif translations:
            text.append("The far background stays where it is, so the camera does not rotate; it "
                        "changes place.")
        else:
            text.append("The far background stays too: nothing moves the picture.")
        if translations and rotations:
            text.append("Near and far things shift differently, so it changes place too.")
        if "Dolly In" in moves or "Dolly Out" in moves:
            text.append("Things spread out as the camera comes nearer." if "Dolly In" in moves
                        else "Things close up as the camera draws back.")
        text.append(voice.pick((f"So the camera does this: {question.answer_text}.",
                                f"The camera motion is {question.answer_text}.",
                                f"That is {question.answer_text}.")))
        return " ".join(text)
