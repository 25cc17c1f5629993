"""How clear a case must be for a question to be asked."""

from __future__ import annotations

import dataclasses


class Ambiguous(Exception):
    """No question is asked; the reason is counted."""

@dataclasses.dataclass(frozen=True)
class Margins:
    """How far from a boundary an answer must be.

    Attributes:
      angle: degrees, from the border between two of the eight screen directions, and from the
        border between screen-plane and depth motion.
      still, moving: displacement over distance (geometry) or over frame height (boxes) below which
        a thing is stationary, above which it moves; between them nothing is asked.
      same, changed: ratios of largest to smallest distance below and above which it is the same
        and has changed.
      steady, pace: the same for speeds.
      straight: least net displacement over the length of the way, for a direction.
      interval: seconds; least time between two readings of a speed. Within a step, who walks speeds
        up and slows down.
      nearer: how many times as far as the nearest thing the second has to be.
      there, elsewhere: frame heights. What is nearer to a place than the one is there, what is
        farther than the other is not.
      quarter: least distance from the frame's middle lines, as a fraction of it.
    """

    angle: float = 10.0
    still: float = 0.03
    moving: float = 0.12
    same: float = 1.12
    changed: float = 1.30
    steady: float = 1.25
    pace: float = 1.7
    straight: float = 0.8
    interval: float = 0.7
    nearer: float = 1.4
    there: float = 0.06
    elsewhere: float = 0.2
    quarter: float = 0.06
