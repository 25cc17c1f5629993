"""Which frames a protocol shows, and reading them: each video once for all its questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.kept import Kept
from fourd4d.processing.media import Image, Video, read_image
from fourd4d.processing.video import pick_frames, read_chosen

Times = np.ndarray


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is shown of a question's clips.

    Attributes:
      media: in the order of the clips.
      rate: frames shown per second of video; None where that is unknown.
    """

    media: tuple[Video | Image, ...] = ()
    rate: float | None = None


@runtime_checkable
class FrameRule(Protocol):
    """From the times of each clip's frames to the numbers of those that are shown, rising."""

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """``count`` frames of each clip, ``linspace`` over their numbers, rounded down.

    A clip of fewer frames shows each once.
    """

    count: int

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]:
        return [np.unique(np.linspace(0, len(times) - 1, self.count, dtype=int)).tolist()
                for times in clips]


@dataclasses.dataclass(frozen=True)
class AtRate:
    """Frames ``int(i * rate_of_video / fps)``, as many as whole steps of 1 / fps fit."""

    fps: float

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]:
        found = []
        for times in clips:
            rate = frame_rate(times)
            count = max(int(len(times) / rate * self.fps), 1)
            picked = [int(i * (rate / self.fps)) for i in range(count)]
            found.append(sorted({min(i, len(times) - 1) for i in picked}))
        return found


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The frames nearest to moments 1 / fps apart; above ``most``, that many over the whole."""

    fps: float
    most: int

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]:
        return [pick_frames(times, self.fps, self.most, start=float(times[0])) for times in clips]


@dataclasses.dataclass(frozen=True)
class EveryFrame:
    """All frames; of more than ``most``, those at ``linspace`` over their numbers. 0: no limit."""

    most: int = 0

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]:
        limit = self.most
        return [Uniform(limit)([times])[0] if limit and len(times) > limit
                else list(range(len(times))) for times in clips]


@dataclasses.dataclass(frozen=True)
class Pooled:
    """``count`` frames of all clips together, at ``int(i * (all - 1) / (count - 1))``.

    Every clip shows at least its first; not more than ``count`` in all show every frame.
    """

    count: int

    def __call__(self, clips: Sequence[Times]) -> list[list[int]]:
        total = sum(map(len, clips))
        if total <= self.count:
            return [list(range(len(times))) for times in clips]
        step = (total - 1) / (self.count - 1) if self.count > 1 else 0.0
        picked, first, found = {int(i * step) for i in range(self.count)}, 0, []
        for times in clips:
            own = sorted(i - first for i in picked if first <= i < first + len(times))
            found.append(own or [0])
            first += len(times)
        return found


def frame_rate(times: Times) -> float:
    """Frames a second of a video, exact for the usual rates; 1 of a single frame."""
    if len(times) < 2:
        return 1.0
    rate = (len(times) - 1) / float(times[-1] - times[0])
    return float(Fraction(rate).limit_denominator(1001))


class FrameReader:
    """Media of clips; what was decoded stays in memory, up to a number of bytes.

    Safe between threads: of several that want one video, one decodes it.

    Args:
      root: folder below which all paths lie.
      limit: bytes of pixels held at most.
    """

    def __init__(self, root: Path, limit: int = 1 << 30):
        self.root = root
        self._kept: Kept[tuple[Video | Image, float | None]] = Kept(
            limit, lambda value: value[0].frames.nbytes)

    @property
    def decoded(self) -> int:
        """Media decoded so far."""
        return self._kept.made

    def show(self, clips: Sequence, rule: FrameRule, windowed: bool, where: object) -> Shown:
        """What ``rule`` chooses of the clips.

        Raises:
          InputError: a file that is missing or cannot be read, or that lies outside the root.
        """
        moving = [clip for clip in clips if not clip.still]
        if all(clip.frames for clip in moving):
            chosen = iter(rule([_times(clip, where) for clip in moving]))
            media = [self._picture(clip.frames[0], where) if clip.still
                     else self._frames(clip, next(chosen), where) for clip in clips]
            rates = [frame_rate(_times(clip, where)) * len(medium.frames) / len(clip.frames)
                     for clip, medium in zip(clips, media, strict=True) if not clip.still]
            return Shown(tuple(media), rates[0] if len(rates) == 1 else None)
        media, rates = [], []
        for clip in clips:
            if clip.still:
                media.append(self._picture(clip.frames[0], where))
                continue
            video, rate = self._video(clip, rule, windowed, where)
            media.append(video)
            rates.append(rate)
        return Shown(tuple(media), rates[0] if len(rates) == 1 else None)

    def _picture(self, path: str, where: object) -> Image:
        file = jsonl.inside(self.root, path, where)
        image, _ = self._once(str(file), lambda: (_told(lambda: read_image(file), where), None))
        assert isinstance(image, Image)
        return image

    def _frames(self, clip, numbers: Sequence[int], where: object) -> Video:
        pictures = [self._picture(clip.frames[i], where).pixels for i in numbers]
        if len({picture.shape for picture in pictures}) > 1:
            raise InputError(where, "frames of different sizes",
                             "All frames of a video must have one size")
        times = _times(clip, where)
        return Video(np.stack(pictures), times[list(numbers)])

    def _video(self, clip, rule: FrameRule, windowed: bool, where: object
               ) -> tuple[Video, float | None]:
        places = [jsonl.inside(self.root, name, where) for name in (clip.video, *clip.elsewhere)]
        file = next((place for place in places if place.is_file()), places[0])
        window = clip.window if windowed else None
        total: list[Times] = []

        def choose(times: Times) -> list[int]:
            total.append(times)
            first, stop = 0, len(times)
            if window is not None:
                first = int(np.searchsorted(times, window[0] - 1e-6))
                stop = int(np.searchsorted(times, window[1] + 1e-6))
                if first >= stop:
                    raise InputError(where, f"no frame between {window[0]:g} s and {window[1]:g} s "
                                     f"of {times[-1]:.2f} s", "Check the row's times")
            return [first + i for i in rule([times[first:stop]])[0]]

        def read() -> tuple[Video, float | None]:
            video = _told(lambda: read_chosen(file, choose), where)
            return video, len(video.frames) / (len(total[0]) / frame_rate(total[0]))

        video, rate = self._once((str(file), rule, window), read)
        assert isinstance(video, Video)
        return video, rate

    def _once(self, key: object, make: Callable[[], tuple[Video | Image, float | None]]
              ) -> tuple[Video | Image, float | None]:
        def locked() -> tuple[Video | Image, float | None]:
            made = make()
            pixels = made[0].pixels if isinstance(made[0], Image) else made[0].frames
            pixels.setflags(write=False)  # Many questions' and threads'.
            return made

        return self._kept.get(key, locked)


def _times(clip, where: object) -> Times:
    if not clip.frames:
        raise InputError(where, "neither a video nor frames", "Fetch the benchmark's frames")
    if len(clip.timestamps) != len(clip.frames):
        raise InputError(where, f"{len(clip.frames)} frames, {len(clip.timestamps)} times",
                         "Give one time a frame")
    return np.asarray(clip.timestamps, np.float64)


def _told(read: Callable, where: object):
    try:
        return read()
    except InputError as error:
        if error.where == str(where):
            raise
        raise InputError(where, f"{error.where}: {error.what}", error.remedy) from error
