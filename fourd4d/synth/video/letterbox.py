"""Black bars around a picture, as of a film on a screen of another shape."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

_DARK: Final = 24  # 8-bit level up to which a pixel is black, noise of compression included.
_SHARE: Final = 0.9  # Of a bar's pixels that are black; the rest may be a subtitle.
_THIN: Final = 0.02  # Share of the side below which nothing is taken for a bar.
_LEFT: Final = 0.4  # Least share of either side that the picture must keep.


@dataclasses.dataclass(frozen=True)
class Window:
    """The picture between its bars, as shares of the whole frame."""

    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """What of frames or masks (N, H, W, …) lies between the bars."""
        height, width = pixels.shape[1:3]
        rows = slice(int(np.ceil(self.top * height)), int(self.bottom * height))
        columns = slice(int(np.ceil(self.left * width)), int(self.right * width))
        return pixels[:, rows, columns]


WHOLE: Final = Window()


def window(frames: UInt8[np.ndarray, "T H W 3"]) -> Window:
    """Where the picture lies in the frames of one shot; ``WHOLE`` where it has no bars."""
    some = frames[np.unique(np.linspace(0, len(frames) - 1, 24).round().astype(int))]
    black = some.max(-1) <= _DARK
    top, bottom = _between(black.mean((0, 2)) >= _SHARE)
    if bottom - top < _LEFT:
        return WHOLE
    left, right = _between(Window(top, bottom).crop(black).mean((0, 1)) >= _SHARE)
    return Window(top, bottom, left, right) if right - left >= _LEFT else WHOLE


def _between(bar: Bool[np.ndarray, "L"]) -> tuple[float, float]:
    """Start and end of what lies between the bars at both ends of a side, shares of it.

    A pixel beside a bar is no more of the picture than of the bar.
    """
    length = len(bar)
    if bar.all():
        return 0.0, 0.0
    ends = []
    for line in (bar, bar[::-1]):
        deep = int((~line).argmax())
        ends.append((deep + 1 + length // 160) / length if deep > _THIN * length else 0.0)
    return ends[0], 1 - ends[1]
