"""What the text may say: positions and sizes as a reader of the picture would give them.

Every number in a reasoning text comes from here, and a text is only written when its own numbers
lead to its answer; so what the model is taught to say is what the track shows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry
from fourd4d.synth.questions.margins import Ambiguous


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a thing is on screen, in whole units of the reading's scale; y runs downwards."""

    x: int
    y: int
    size: int


@dataclasses.dataclass(frozen=True)
class Scale:
    """How finely positions are read.

    Attributes:
      units: steps across the frame; sizes are in ``size_units`` steps.
      clear: shift that counts as motion, steps; less than half of it is none.
    """

    units: int = 10
    size_units: int = 20
    clear: int = 2


SHORT = Scale()
PERCENT = Scale(100, 100, 8)


def place(clip: Clip, track: Track, frame: int, scale: Scale) -> Place:
    """The thing's centre and size in a frame it is seen in."""
    x, y = geometry.box_center(track)[frame] * scale.units
    side = geometry.box_side(track, geometry.aspect(clip))[frame] * scale.size_units
    most = scale.units - 1
    return Place(int(np.clip(np.floor(x), 0, most)), int(np.clip(np.floor(y), 0, most)),
                 int(np.clip(np.round(side), 1, most)))


def shift(places: tuple[Place, ...], fixed: tuple[Place, ...] = ()) -> Place:
    """Last minus first, less the shift of a fixed thing if one is given."""
    move = [places[-1].x - places[0].x, places[-1].y - places[0].y]
    if fixed:
        move = [move[0] - fixed[-1].x + fixed[0].x, move[1] - fixed[-1].y + fixed[0].y]
    return Place(move[0], move[1], places[-1].size - places[0].size)


def direction_of(move: Place, scale: Scale) -> str:
    """The direction that a told shift amounts to; '' where it amounts to none."""
    most = max(abs(move.x), abs(move.y))
    minor = min(abs(move.x), abs(move.y))
    if abs(move.size) >= scale.clear and most < scale.clear:
        return "Toward the camera" if move.size > 0 else "Away from the camera"
    if abs(move.size) >= scale.clear:
        return ""
    if most < scale.clear:
        return "Stationary"
    across = ("Right" if move.x > 0 else "Left") if abs(move.x) >= scale.clear else ""
    along = ("Down" if move.y > 0 else "Up") if abs(move.y) >= scale.clear else ""
    if across and along:
        return f"{across}-{along}" if minor > 0.45 * most else ""
    return across or along


def require(told: str, answer: str, kind: str) -> None:
    """Raises Ambiguous when the told numbers do not lead to the answer."""
    if told != answer:
        raise Ambiguous(f"{kind}: the reading is too coarse")


def distance_of(sizes: tuple[int, ...], scale: Scale) -> str:
    """The change of distance that told sizes amount to."""
    up = [b - a for a, b in zip(sizes, sizes[1:], strict=False)]
    if max(sizes) - min(sizes) < scale.clear:
        return "Same distance"
    if sizes[-1] - sizes[0] >= scale.clear and min(up) >= 0:
        return "Getting closer"
    if sizes[0] - sizes[-1] >= scale.clear and max(up) <= 0:
        return "Getting farther"
    inner = sizes[1:-1]
    if inner and min(max(inner) - sizes[0], max(inner) - sizes[-1]) >= scale.clear:
        return "First closer, then farther"
    if inner and min(sizes[0] - min(inner), sizes[-1] - min(inner)) >= scale.clear:
        return "First farther, then closer"
    return ""


def speed_of(steps: tuple[int, ...]) -> str:
    """The change of speed that told steps amount to."""
    change = np.diff(steps)
    if max(steps) - min(steps) <= max(1, min(steps) // 4) and min(steps) > 0:
        return "Constant speed"
    if (change >= 0).all() and steps[-1] > steps[0] + 1:
        return "Speeding up"
    if (change <= 0).all() and steps[0] > steps[-1] + 1:
        return "Slowing down"
    inner = steps[1:-1]
    if max(inner) >= max(steps[0], steps[-1]) + 2:
        return "First faster, then slower"
    if min(inner) <= min(steps[0], steps[-1]) - 1 and min(steps[0], steps[-1]) >= 2:
        return "First slower, then faster"
    return ""


def camera_of(move: Place, background: str, scale: Scale) -> str:
    """The camera move that a landmark's shift and the far background amount to."""
    turns = {"left": "Pan Right", "right": "Pan Left", "down": "Tilt Up", "up": "Tilt Down",
             "turning counterclockwise": "Roll CW", "turning clockwise": "Roll CCW"}
    if background in turns:
        return turns[background]
    if abs(move.size) >= scale.clear:
        return "Dolly In" if move.size > 0 else "Dolly Out"
    if abs(move.x) >= scale.clear and abs(move.y) < scale.clear:
        return "Truck Left" if move.x > 0 else "Truck Right"
    if abs(move.y) >= scale.clear and abs(move.x) < scale.clear:
        return "Pedestal Up" if move.y > 0 else "Pedestal Down"
    return "Static" if max(abs(move.x), abs(move.y)) == 0 else ""
