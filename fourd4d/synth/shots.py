"""Shot cuts, found while frames stream by."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class ShotSpec:
    """When two neighbouring frames belong to different shots.

    A pair is suspected by its colours (half the L1 distance of their histograms) or by its layout
    (1 - correlation of tiny grey pictures), each also against its own recent level; it is a cut if
    hardly any corner of the one is found again in the other.

    Attributes:
      colours, layout: levels of suspicion, 0 … 1.
      above: factor over the recent median that suspicion needs.
      survive: share of corners found again below which a suspect is a cut.
    """

    colours: float = 0.25
    layout: float = 0.35
    above: float = 2.5
    survive: float = 0.2


class CutDetector:
    """Call it with each frame in turn; it says whether a new shot starts there."""

    def __init__(self, spec: ShotSpec | None = None):
        self.spec = spec or ShotSpec()
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._recent: list[tuple[float, float]] = []

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> bool:
        scale = 160 / max(frame.shape[:2])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        tiny = cv2.GaussianBlur(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA), (0, 0), 1)
        colours = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
        now = (colours / colours.sum(), tiny.astype(np.float32), grey)
        before, self._before = self._before, now
        if before is None or before[2].shape != grey.shape:
            self._recent = []
            return before is not None
        change = (0.5 * float(np.abs(now[0] - before[0]).sum()), _unlike(now[1], before[1]))
        usual = np.median(self._recent, axis=0) if self._recent else np.zeros(2)
        limits = np.maximum((self.spec.colours, self.spec.layout), self.spec.above * usual)
        if (np.array(change) > limits).any() and _survivors(before[2], grey) < self.spec.survive:
            self._recent = []
            return True
        self._recent = [*self._recent[-11:], change]
        return False


def _unlike(a: np.ndarray, b: np.ndarray) -> float:
    """1 - correlation; pictures without contrast are alike if equally bright."""
    x, y = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if norm < 32 * 32 * 4:
        return min(1.0, abs(float(a.mean() - b.mean())) / 64 + abs(float(x.std() - y.std())) / 32)
    return 1 - float((x * y).sum()) / norm


def _survivors(a: np.ndarray, b: np.ndarray) -> float:
    """Share of corners of ``a`` found in ``b`` and back again, with a like neighbourhood."""
    corners = cv2.goodFeaturesToTrack(a, 120, 0.01, 5)
    if corners is None or len(corners) < 8:
        return 0.0
    there, ok, error = cv2.calcOpticalFlowPyrLK(a, b, corners, None,  # type: ignore[call-overload]
                                                winSize=(13, 13), maxLevel=3)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(b, a, there, None,  # type: ignore[call-overload]
                                                winSize=(13, 13), maxLevel=3)
    close = np.linalg.norm((back - corners)[:, 0], axis=1) < 1.0
    good = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & close & (error[:, 0] < 25)
    return float(good.mean())
