"""Reasoning in sentences: span, reference, mental images, displacement, camera, conclusion.

Wordings vary; numbers are percent of the frame, read off the track at each mental image. A text is
written only when the numbers it tells lead to its answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, reasoned
from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry, readout
from fourd4d.synth.questions.ask import Question
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.readout import PERCENT, Place

OBJECT_OPENINGS: Final = (
    "The question covers {start} to {end}, so I follow the {name} over that span.",
    "I need the motion of the {name} between {start} and {end}.",
    "Let me picture the {name} at a few moments from {start} to {end}.",
    "First I locate the {name}, then I track it from {start} to {end}.",
    "To answer, I compare where the {name} is at {start} and later, up to {end}.",
    "Between {start} and {end}, the {name} is the object to watch.",
    "Focus on the {name}; the relevant span is {start} to {end}.",
    "I start by finding the {name} at {start} and keep an eye on it until {end}.",
    "What matters here is the {name}, from {start} through {end}.",
    "Going through the clip from {start} to {end}, I look for the {name}.",
    "The {name} has to be followed from {start} to {end}.",
)
CAMERA_OPENINGS: Final = (
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
_SEEN: Final = (
    "At {time} {mark} it is at {x}% across and {y}% down, {size}% of the frame in size.",
    "{time}: {mark} centre at ({x}%, {y}%), size {size}%.",
    "Imagining {time} {mark}, I see it {x}% from the left and {y}% from the top, size {size}%.",
    "In the picture at {time} {mark} it lies at ({x}%, {y}%) with a size of {size}%.",
    "{mark} shows it at {time}: {x}% across, {y}% down, {size}% in size.",
)
_SEEN_LATER: Final = (
    *_SEEN[1:], "Then, at {time}, {mark} it sits at x {x}%, y {y}%, size {size}%.",
    "By {time} {mark} it has come to ({x}%, {y}%), size {size}%.",
)
_CLOSINGS: Final = (
    "That matches option {letter}.", "So the answer is {letter}.", "This is option {letter}.",
    "Among the options, that is {letter}.", "Option {letter} says exactly this.",
)
_TURN_MOVES: Final = {"left": "Pan Right", "right": "Pan Left", "down": "Tilt Up",
                      "up": "Tilt Down", "counterclockwise": "Roll CW",
                      "clockwise": "Roll CCW"}


@dataclasses.dataclass
class _Voice:
    """Wordings of one text: drawn without repeating the last one of a list."""

    rng: np.random.Generator
    last: dict[int, int] = dataclasses.field(default_factory=dict)

    def pick(self, wordings: Sequence[str]) -> str:
        choices = [i for i in range(len(wordings)) if i != self.last.get(id(wordings))]
        self.last[id(wordings)] = choices[self.rng.integers(len(choices))]
        return wordings[self.last[id(wordings)]]


def reasoning(clip: Clip, question: Question, rng: np.random.Generator, number: int = 0) -> str:
    """The whole response, overlays as ``<output_image>``.

    ``number`` counts the texts of a dataset; neighbours have different openings. Raises Ambiguous
    when the numbers that would be told do not lead to the answer.
    """
    voice = _Voice(rng)
    openings = CAMERA_OPENINGS if question.kind == "camera" else OBJECT_OPENINGS
    start, end = (f"{clip.timestamps[question.frames[i]]:.1f}s" for i in (0, -1))
    opening = openings[number % len(openings)].format(name=question.track.name, start=start,
                                                      end=end)
    if question.kind == "box_direction":
        opening = f"The box at {start} holds the {question.track.name}. " + opening
    places = tuple(readout.place(clip, question.track, i, PERCENT) for i in question.frames)
    images = " ".join(
        voice.pick(_SEEN_LATER if n else _SEEN).format(
            time=f"{clip.timestamps[i]:.1f}s", mark=IMAGE_MARK, x=p.x, y=p.y, size=p.size)
        for n, (i, p) in enumerate(zip(question.frames, places, strict=True))
    )
    tell = {"camera": _camera, "distance": _distance, "speed": _speed}.get(question.kind, _object)
    found = tell(clip, question, places, voice)
    letter, answer = question.answer, question.answer_text
    closing = voice.pick(_CLOSINGS).format(letter=letter)
    return reasoned(f"{opening} {images} {found} {closing}", f"{letter}. {answer}")


def way(move: Place) -> str:
    """'moves 12% to the left and 3% up', or 'does not move'."""
    across = f"{abs(move.x)}% to the {'left' if move.x < 0 else 'right'}" if move.x else ""
    along = f"{abs(move.y)}% {'up' if move.y < 0 else 'down'}" if move.y else ""
    parts = " and ".join(part for part in (across, along) if part)
    return f"moves {parts}" if parts else "does not move"


def agrees(move: Place, sizes: tuple[int, int], answer: str) -> bool:
    """Whether a told shift (percent) and told sizes lead to a direction answer."""
    ratio = sizes[1] / sizes[0]
    most = max(abs(move.x), abs(move.y))
    if answer == "Stationary":
        return most <= 5 and 0.8 < ratio < 1.25
    if answer == "Toward the camera":
        return ratio >= 1.15
    if answer == "Away from the camera":
        return ratio <= 1 / 1.15
    signs = {"Right": move.x, "Left": -move.x, "Down": move.y, "Up": -move.y}
    parts = answer.split("-")
    if min(signs[part] for part in parts) < 3:
        return False
    minor = min(abs(move.x), abs(move.y))
    return minor > 0.3 * most if len(parts) == 2 else signs[answer] == most and minor < 0.55 * most


def _reference(clip: Clip, question: Question) -> tuple[str, tuple[Place, ...]]:
    """A sentence on the fixed reference and its places; nothing where the camera stands still."""
    mark, ends = question.landmark, (question.frames[0], question.frames[-1])
    moving = any(m != "Static" for s in clip.camera for m in s.moves) or not clip.camera
    if mark is None or not mark.seen[list(ends)].all():
        if moving:
            raise Ambiguous(f"{question.kind}: no landmark to compensate the camera with")
        return "", ()
    a, b = (readout.place(clip, mark, i, PERCENT) for i in ends)
    shift = readout.shift((a, b))
    told = f"The {mark.name}, which is fixed, goes from ({a.x}%, {a.y}%) to ({b.x}%, {b.y}%)"
    if max(abs(shift.x), abs(shift.y)) <= 2:
        return f"{told}, so the camera hardly shifts the picture.", (a, b)
    return f"{told}: in the picture, the static scene {way(shift)}.", (a, b)


def _object(clip: Clip, question: Question, places: tuple[Place, ...], voice: _Voice) -> str:
    sentence, fixed = _reference(clip, question)
    own = readout.shift(places, fixed)
    sizes = (places[0].size, places[-1].size)
    answer = question.answer_text
    if not agrees(own, sizes, answer):
        raise Ambiguous(f"{question.kind}: the picture does not show the answer clearly")
    compensated = fixed and readout.shift(places) != own
    lead = "Taking that away, the object itself" if compensated else "The object"
    grown = {True: "grows", False: "shrinks"}[sizes[1] > sizes[0]]
    change = (f"its size {grown} from {sizes[0]}% to {sizes[1]}%" if sizes[0] != sizes[1]
              else f"its size stays at {sizes[0]}%")
    verdict = {
        "Stationary": "Nothing of that is motion of its own: it is Stationary.",
        "Toward the camera": "Growing in place means it comes toward the camera.",
        "Away from the camera": "Shrinking in place means it goes away from the camera.",
    }.get(answer, voice.pick((f"So it moves {answer}.", f"The direction is {answer}.",
                              f"As seen from the camera, that is {answer}.")))
    return f"{sentence} {lead} {way(own)}, and {change}. {verdict}".strip()


def _distance(clip: Clip, question: Question, places: tuple[Place, ...], voice: _Voice) -> str:
    sizes = tuple(p.size for p in places)
    if _trend(sizes, 1.15) != question.answer_text:
        raise Ambiguous("distance: the picture does not show the answer clearly")
    told = ", ".join(f"{s}%" for s in sizes)
    rule = voice.pick(("A thing looks bigger when it is nearer.", "Nearer things look larger.",
                       "Apparent size goes up as distance goes down."))
    return f"Its size runs {told}. {rule} Hence: {question.answer_text}."


def _trend(sizes: Sequence[int], changed: float) -> str:
    logs = np.log(sizes)
    rise, fall = np.log(changed), -np.log(changed)
    inner = logs[1:-1]
    if inner.size and min(inner.max() - logs[0], inner.max() - logs[-1]) > rise:
        return "First closer, then farther"
    if inner.size and max(inner.min() - logs[0], inner.min() - logs[-1]) < fall:
        return "First farther, then closer"
    if logs[-1] - logs[0] > rise:
        return "Getting closer"
    return "Getting farther" if logs[-1] - logs[0] < fall else "Same distance"


def _speed(clip: Clip, question: Question, places: tuple[Place, ...], voice: _Voice) -> str:
    moves, spans = [], []
    sentence, _ = _reference(clip, question)
    for i, (a, b) in enumerate(zip(places, places[1:], strict=False)):
        first, last = question.frames[i], question.frames[i + 1]
        fixed = _between(clip, question.landmark, first, last) if sentence else ()
        step = readout.shift((a, b), fixed)
        seconds = clip.timestamps[last] - clip.timestamps[first]
        moves.append(round(float(np.hypot(step.x, step.y)) / seconds))
        spans.append(f"{moves[-1]}% a second until {clip.timestamps[last]:.1f}s")
    if _pace(moves) != question.answer_text:
        raise Ambiguous("speed: the picture does not show the answer clearly")
    lead = voice.pick(("Its pace is", "It covers", "That makes"))
    return f"{sentence} {lead} {', '.join(spans)}. So: {question.answer_text}.".strip()


def _between(clip: Clip, mark: Track | None, first: int, last: int) -> tuple[Place, ...]:
    if mark is None or not mark.seen[[first, last]].all():
        return ()
    return tuple(readout.place(clip, mark, i, PERCENT) for i in (first, last))


def _pace(speeds: Sequence[int]) -> str:
    values = np.maximum(np.array(speeds, float), 1.0)
    change = np.diff(values)
    noise = 0.15 * values.max()
    if values.max() < 1.4 * values.min():
        return "Constant speed"
    if (change > -noise).all():
        return "Speeding up"
    if (change < noise).all():
        return "Slowing down"
    signs = np.sign(change[np.abs(change) > noise])
    turns = int((np.diff(signs) != 0).sum())
    if turns != 1:
        return "Varying speed"
    return "First faster, then slower" if signs[0] > 0 else "First slower, then faster"


def turning(clip: Clip, first: int, last: int, least: float = 3.0) -> tuple[str, ...]:
    """How the far background shifts on screen, one word per camera rotation above ``least``°."""
    angles = geometry.rotation(clip, first, last)
    names = (("right", "left"), ("up", "down"), ("clockwise", "counterclockwise"))
    return tuple(pair[int(angle > 0)] for pair, angle in zip(names, angles, strict=True)
                 if abs(angle) >= least)


def _camera(clip: Clip, question: Question, places: tuple[Place, ...], voice: _Voice) -> str:
    moves = set(question.answer_text.split(" + "))
    shift = readout.shift(places)
    ratio = places[-1].size / places[0].size
    first, last = question.frames[0], question.frames[-1]
    turns = turning(clip, first, last)
    turned = {_TURN_MOVES[word] for word in turns}
    slides = moves - set(_TURN_MOVES.values()) - {"Static"}
    shown = {"Truck Left": shift.x >= 3, "Truck Right": shift.x <= -3, "Pedestal Up": shift.y >= 3,
             "Pedestal Down": shift.y <= -3, "Dolly In": ratio >= 1.12, "Dolly Out": ratio <= 0.9}
    alone = len(moves) == 1
    clear = turned == moves - slides - {"Static"} and (not alone or all(shown[m] for m in slides))
    if "Static" in moves:
        clear = clear and max(abs(shift.x), abs(shift.y)) <= 2 and 0.9 < ratio < 1.12
    if not clear:
        raise Ambiguous("camera: the picture does not show the answer clearly")
    size = f"its size goes from {places[0].size}% to {places[-1].size}%"
    text = [f"The landmark {way(shift)} and {size}."]
    words = {"clockwise": "turns clockwise", "counterclockwise": "turns counterclockwise"}
    if turns:
        far = " and ".join(words.get(t, f"shifts {t}") for t in turns)
        text.append(f"The far background {far} as well, so the camera rotates.")
    elif slides:
        text.append("The far background stays where it is, so the camera does not rotate; it "
                    "changes place.")
    else:
        text.append("The far background stays too: nothing moves the picture.")
    if slides and turns:
        text.append("Near and far things shift differently, so it changes place too.")
    if "Dolly In" in moves or "Dolly Out" in moves:
        text.append("Things spread out as the camera comes nearer." if "Dolly In" in moves
                    else "Things close up as the camera draws back.")
    text.append(voice.pick((f"So the camera does this: {question.answer_text}.",
                            f"The camera motion is {question.answer_text}.",
                            f"That is {question.answer_text}.")))
    return " ".join(text)
