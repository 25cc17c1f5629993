"""Where shots end: cuts, found as frames stream by; dissolves, fades, wipes, found afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
      dissolve: seconds; longest dissolve, fade or wipe that is looked for.
      dip: largest share of its detail that the middle of a dissolve keeps: blended textures cancel.
      blended: largest difference of the frames within a dissolve from a blend of its ends, as a
        share of the ends' difference.
      clear: minimum contrast of a shot's first and last frame, as a share of its median: the rest
        fades in or out.
      either: least share of a wipe's places that show the one shot or the other, not a blend.
    """

    colours: float = 0.25
    layout: float = 0.35
    above: float = 2.5
    survive: float = 0.2
    dissolve: float = 2.5
    blended: float = 0.28
    dip: float = 0.85
    clear: float = 0.5
    either: float = 0.7


class CutDetector:
    """Call it with each frame in turn; it says whether a new shot starts there."""

    def __init__(self, spec: ShotSpec | None = None):
        self.spec = spec or ShotSpec()
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._recent: list[tuple[float, float]] = []

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> bool:
        small = _small(frame)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        tiny = cv2.GaussianBlur(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA), (0, 0), 1)
        colours = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
        now = (colours / colours.sum(), tiny.astype(np.float32), grey)
        before, self._before = self._before, now
        if before is None or before[2].shape != grey.shape:
            self._recent = []
            return before is not None
        change = (0.5 * float(np.abs(now[0] - before[0]).sum()), _unlike(now[1], before[1]))
        median = np.median(self._recent, axis=0) if self._recent else np.zeros(2)
        limits = np.maximum((self.spec.colours, self.spec.layout), self.spec.above * median)
        if (np.array(change) > limits).any() and _survivors(before[2], grey) < self.spec.survive:
            self._recent = []
            return True
        self._recent = [*self._recent[-11:], change]
        return False


def gradual(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], times: Sequence[float],
    spec: ShotSpec | None = None,
) -> list[tuple[int, int]]:
    """Dissolves, fades and wipes: numbers of the last frame before each and of the first after it.

    Between two such frames every picture is a blend of both, whose share rises steadily; or it
    shows the one in some places and the other in the rest, and these grow steadily. The two differ
    in layout or colours, and hardly any corner of the one can be followed to the other. A camera
    that moves from the one view to the other shows no blends on its way: what it shows is as sharp
    as its ends, where a blend of two pictures has half their detail.
    """
    spec = spec or ShotSpec()
    moments = np.asarray(times, float)
    if len(moments) < 4:
        return []
    grey = [cv2.cvtColor(_small(f), cv2.COLOR_RGB2GRAY) for f in frames]
    tiny = np.array([cv2.GaussianBlur(cv2.resize(g, (32, 32), interpolation=cv2.INTER_AREA),
                                      (0, 0), 1) for g in grey], np.float32).reshape(len(grey), -1)
    detail = np.array([_detail(g) for g in grey])
    found: list[tuple[float, int, int]] = []
    for a in range(len(tiny) - 3):
        last = int(np.searchsorted(moments, moments[a] + spec.dissolve, "right")) - 1
        for b in range(a + 3, last + 1):
            apart = tiny[b] - tiny[a]
            square = float(apart @ apart)
            if square < 8.0**2 * apart.size:
                continue
            even = (moments[a + 1 : b] - moments[a]) / (moments[b] - moments[a])
            wiped = _wiped(tiny[a : b + 1], even, spec) and not _back(tiny, moments, a, b, spec)
            if wiped or _blended(tiny[a : b + 1], detail[a : b + 1], even, spec):
                found.append((square, a, b))
    out: list[tuple[int, int]] = []
    for _, a, b in sorted(found, reverse=True):
        if any(c <= a and b <= d for c, d in out):
            continue
        apart = _unlike(*(tiny[i].reshape(32, 32) for i in (a, b))) > spec.layout
        lost = max(_followed(grey[a : b + 1]), _survivors(grey[a], grey[b])) < spec.survive
        if apart and lost:
            # Where the shots move meanwhile, parts of a dissolve are blends and the whole is not.
            met = [(c, d) for c, d in out if c <= b and a <= d]
            out = [span for span in out if span not in met]
            out.append((min(a, *(c for c, _ in met), a), max(b, *(d for _, d in met), b)))
    return sorted(out)


def _blended(tiny: np.ndarray, detail: np.ndarray, even: np.ndarray, spec: ShotSpec) -> bool:
    """Whether the pictures between the first and the last are blends of them, evenly."""
    apart, between = tiny[-1] - tiny[0], tiny[1:-1] - tiny[0]
    square = float(apart @ apart)
    share = between @ apart / square
    # Steady: neither a cut in the middle nor a flash.
    if np.abs(share - even).max() > 0.2:
        return False
    rest = between - share[:, None] * apart
    kept = detail[1:-1] / ((1 - even) * detail[0] + even * detail[-1])
    if np.median(kept[np.abs(even - 0.5) <= 0.25]) > spec.dip:
        return False
    return float(np.sqrt((rest * rest).sum(1).max() / square)) <= spec.blended


def _wiped(tiny: np.ndarray, even: np.ndarray, spec: ShotSpec) -> bool:
    """Whether each place of the picture goes over from the first to the last, one by one."""
    apart = np.abs(tiny[-1] - tiny[0])
    places = apart > 12
    if places.mean() < 0.6:
        return False
    old, new = (np.abs(tiny[1:-1, places] - tiny[end, places]) for end in (0, -1))
    over = new < old
    share = over.mean(1)
    if share[0] < 0.03 or share[-1] > 0.97:  # It begins earlier or ends later.
        return False
    # An iris opens with the square of its width.
    if np.abs(share - even).max() > 0.3 or (over[:-1] & ~over[1:]).mean() > 0.05:
        return False
    either = (np.minimum(old, new) <= 0.3 * apart[places]).mean(1)
    if np.median(either) < spec.either or either.min() < spec.either - 0.15:
        return False
    # What is there of either shot keeps its place, while before a fast camera it slides away.
    return all(_kept(tiny[1:-1, places], tiny[end, places], there)
               for end, there in ((0, ~over), (-1, over)))


def _kept(tiny: np.ndarray, still: np.ndarray, there: np.ndarray) -> bool:
    """Return whether most images, where they are shown, are like a still one; plain ones are."""
    alike = []
    for now, here in zip(tiny, there):
        if here.sum() < 60:
            continue
        x, y = (v[here] - v[here].mean() for v in (now, still))
        plain = y @ y < 16.0 * here.sum()
        alike.append(1.0 if plain else float(x @ y / np.sqrt(max(x @ x, 1.0) * (y @ y))))
    return not alike or float(np.median(alike)) > 0.6


def _back(tiny: np.ndarray, moments: np.ndarray, a: int, b: int, spec: ShotSpec) -> bool:
    """Whether what was wiped away comes back, or came before: something large passes by."""
    after = np.flatnonzero((moments > moments[b]) & (moments <= moments[b] + spec.dissolve))
    before = np.flatnonzero((moments < moments[a]) & (moments >= moments[a] - spec.dissolve))
    return any(_unlike(tiny[one].reshape(32, 32), tiny[t].reshape(32, 32)) < 0.1
               for one, others in ((a, after), (b, before)) for t in others)


def _followed(grey: Sequence[np.ndarray], radius: int = 5) -> float:
    """Share of the first picture's corners that, followed through all, look alike in the last."""
    corners = cv2.goodFeaturesToTrack(grey[0], 120, 0.01, 5)
    if corners is None or len(corners) < 8:
        return 0.0
    now, good = corners, np.ones(len(corners), bool)
    for one, other in zip(grey, grey[1:], strict=False):
        now, ok, _ = cv2.calcOpticalFlowPyrLK(one, other, now, None,  # type: ignore[call-overload]
                                              winSize=(13, 13), maxLevel=3)
        good &= ok[:, 0] > 0
    size = 2 * radius + 1, 2 * radius + 1
    alike = [float((_plain(grey[0], size, a) * _plain(grey[-1], size, b)).sum()) > 0.6
             for a, b in zip(corners[:, 0], now[:, 0])]
    return float(np.mean(good & alike))


def _plain(grey: np.ndarray, size: tuple[int, int], place: np.ndarray) -> np.ndarray:
    """A patch without its mean and contrast."""
    patch = cv2.getRectSubPix(grey, size, (float(place[0]), float(place[1]))).astype(np.float32)
    patch -= patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1e-3)


def _detail(grey: np.ndarray) -> float:
    """Mean squared slope."""
    soft = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)
    across, along = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    return float((across * across + along * along).mean()) + 1e-6


def _small(frame: np.ndarray) -> np.ndarray:
    scale = 160 / max(frame.shape[:2])
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


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
