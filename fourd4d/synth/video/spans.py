"""Spans of single shots, as they come off the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fourd4d.synth.video.decode import iter_frames, shrink
from fourd4d.synth.video.shots import CutDetector, ShotSpec, gradual


@dataclasses.dataclass(frozen=True)
class SpanSpec:
    """How a file is cut into spans.

    Attributes:
      fps: frames a second of the clips.
      side: longest side of their frames, pixels; smaller videos keep their size.
      analysis_fps, analysis_side: the same for the frames that are analysed.
      seconds: longest span.
      shots: where shots end.
    """

    fps: float
    side: int
    analysis_fps: float
    analysis_side: int
    seconds: float
    shots: ShotSpec = ShotSpec()


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of one shot as it comes off the decoder.

    Attributes:
      small: frames that are analysed.
      times: of those, seconds from the file's first frame.
      large: frames of the clip.
      picked: which of the small frames they are.
    """

    small: np.ndarray
    times: np.ndarray
    large: np.ndarray
    picked: np.ndarray


@dataclasses.dataclass
class _Reel:
    """Frames of one shot, as ``Span`` holds them, while they gather."""

    small: list[np.ndarray] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    large: list[np.ndarray] = dataclasses.field(default_factory=list)
    picked: list[int] = dataclasses.field(default_factory=list)

    def tail(self, seconds: float) -> _Reel:
        """The frames analysed of the last seconds."""
        first = int(np.searchsorted(self.times, self.times[-1] - seconds))
        return _Reel(self.small[first:], self.times[first:])

    def pieces(self, before: _Reel, after: _Reel, shots: ShotSpec) -> Iterator[Span]:
        """Spans without dissolves and faded ends; each starts with a frame of the clip.

        ``before`` and ``after`` are neighbours in the same shot, where a dissolve may begin or end.
        """
        small = [*before.small, *self.small, *after.small]
        times = [*before.times, *self.times, *after.times]
        good = np.ones(len(small), bool)
        for a, b in gradual(small, times, shots):
            good[a + 1 : b] = False
        good = good[len(before.small) :][: len(self.small)]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
        picked = np.array(self.picked)
        contrast = np.array([frame.std() for frame in self.small])
        for a, b in edges.reshape(-1, 2):
            clear = a + np.flatnonzero(contrast[a:b] >= shots.clear * np.median(contrast[a:b]))
            a, b = clear[0], clear[-1] + 1
            inside = np.flatnonzero((picked >= a) & (picked < b))
            if len(inside):
                start = picked[inside[0]]
                yield Span(np.stack(self.small[start:b]), np.array(self.times[start:b]),
                           np.stack([self.large[i] for i in inside]), picked[inside] - start)


def iter_spans(path: Path, spec: SpanSpec) -> Iterator[Span]:
    """Spans of single shots, decoded as they are asked for."""
    cut = CutDetector(spec.shots)
    before, full, reel = _Reel(), _Reel(), _Reel()
    next_large = -np.inf
    for moment, pixels in iter_frames(path, spec.analysis_fps):
        view = shrink(pixels, spec.analysis_side)
        fresh = bool(reel.times) and (view.shape != reel.small[0].shape or cut(view))
        if not reel.times:
            cut(view)
        long = bool(reel.times) and moment - reel.times[0] > spec.seconds + 1e-6
        # A full reel waits until a dissolve that began in it would have ended.
        if full.times and (fresh or long or moment - reel.times[0] > spec.shots.dissolve):
            yield from full.pieces(before, reel, spec.shots)
            before, full = full.tail(spec.shots.dissolve), _Reel()
        if fresh:
            yield from reel.pieces(before, _Reel(), spec.shots)
            before, reel = _Reel(), _Reel()
        elif long:
            full, reel = reel, _Reel()
        if not reel.times:
            next_large = -np.inf
        if moment >= next_large - 0.5 / spec.analysis_fps:
            reel.large.append(shrink(pixels, spec.side))
            reel.picked.append(len(reel.small))
            next_large = max(next_large, moment) + 1 / spec.fps
        reel.small.append(view)
        reel.times.append(moment)
    if full.times:
        yield from full.pieces(before, reel, spec.shots)
        before = full.tail(spec.shots.dissolve)
    if reel.times:
        yield from reel.pieces(before, _Reel(), spec.shots)
