"""Videos from files: exact times, frames picked by time, only what is wanted decoded."""

from __future__ import annotations

import array
import bisect
import collections
import contextlib
import dataclasses
import functools
import heapq
import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataKind
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from fourd4d.core.errors import InputError
from fourd4d.processing.color import to_rgb
from fourd4d.processing.media import Video, existing_file
from fourd4d.processing.patches import resize

FrameSize = Callable[[int, int], tuple[int, int]]


# What FFmpeg would open that names other files and hosts, and what often stands in a video's place:
# the start of the file, what it is, remedy.
_FOREIGN: Final = (
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:ffconcat version|#EXTM3U|(?:<\?xml[^>]*>\s*)?<MPD|"
                rb"v=0\r?\no=)"),
     "it is a list of other files or streams, not a video", "Give the video files themselves"),
    (re.compile(rb"version https://git-lfs"), "it is a Git LFS pointer, not the video",
     "Fetch the video with git lfs pull"),
    (re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
     "it is a web page, not a video", "Fetch the video again"),
)


def pick_frames(
    times: Float[np.ndarray, "N"], fps: float | None, max_frames: int | None,
    start: float = 0.0, end: float | None = None,
) -> list[int]:
    """Which frames to take: those nearest to evenly spaced moments, each frame once.

    Args:
      times: when each frame is shown, rising, seconds.
      fps: moments a second; None asks for every frame.
      max_frames: if fps gives more, this many moments evenly over the whole window instead.
      start, end: the window, seconds, both included.
    """
    last = times[-1] if end is None else min(end, times[-1])
    first = int(np.searchsorted(times, start - 1e-6))
    stop = int(np.searchsorted(times, last + 1e-6))
    inside = times[first:stop]
    if not len(inside):
        return []
    if fps is None:
        moments = inside
    else:
        count = int(np.floor((inside[-1] - inside[0]) * fps + 1e-6)) + 1
        moments = inside[0] + np.arange(count) / fps
    if max_frames is not None and len(moments) > max_frames:
        moments = np.linspace(inside[0], inside[-1], max_frames)
    right = np.clip(np.searchsorted(inside, moments), 1, max(len(inside) - 1, 1))
    right = np.minimum(right, len(inside) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(moments - inside[left] <= inside[right] - moments, left, right)
    return [first + int(i) for i in np.unique(nearest)]


def read_video(
    path: str | os.PathLike[str],
    fps: float | None = 1.0,
    max_frames: int | None = 50,
    *,
    start: float = 0.0,
    end: float | None = None,
    frame_size: FrameSize | None = None,
) -> Video:
    """Frames of a video file, upright, evenly spaced in time, with their true times.

    The file's packets are listed first, without decoding, so that time is known exactly whatever
    the frame rate does; then only the frames wanted are decoded, from the keyframe before each.
    Memory holds those frames and a few numbers per packet. Times count from the first frame.
    Recordings joined end to end follow one another in time, as far as the format allows joining.

    Args:
      fps: frames wanted a second; None takes all.
      max_frames: most frames; more are thinned out evenly over the whole window. None: no limit.
      start, end: take only this window, seconds from the first frame.
      frame_size: (height, width) to (height, width): resizes each frame as it is decoded.

    Raises:
      InputError: missing, empty, not to be read, no video, truncated, undecodable, joined of
        recordings that cannot be told apart or read on, or nothing in the window.
    """
    path = existing_file(path)
    if (max_frames is not None and max_frames < 1) or (fps is not None and not fps > 0):
        raise InputError("read_video", f"fps={fps}, max_frames={max_frames}",
                         "Both must be positive")

    def choose(times: Float[np.ndarray, "N"]) -> list[int]:
        wanted = pick_frames(times, fps, max_frames, start, end)
        if not wanted:
            raise InputError(
                path, f"no frame between {start} s and "
                f"{'its end' if end is None else f'{end} s'}; it lasts {times[-1]:.3f} s",
                "Choose a window inside the video")
        return wanted

    return read_chosen(path, choose, frame_size=frame_size)


def read_chosen(
    path: str | os.PathLike[str],
    choose: Callable[[Float[np.ndarray, "N"]], Sequence[int]],
    *,
    frame_size: FrameSize | None = None,
) -> Video:
    """Frames of a video file, upright, that a rule chooses by number; otherwise as ``read_video``.

    Args:
      choose: from the times of all frames (seconds from the first, rising) to the numbers of those
        wanted, rising, each once.

    Raises:
      InputError: as ``read_video``.
    """
    path = existing_file(path)
    with _reading(path):
        index = _index(path)
    pictures: list[np.ndarray] = []
    times = []
    for time, frame in _decode(path, index, [index.pts[i] for i in choose(index.times)]):
        pixels = _upright(frame, path)
        if frame_size is not None:
            pixels = resize(pixels, frame_size(pixels.shape[0], pixels.shape[1]))
        pictures.append(np.ascontiguousarray(pixels))
        times.append(time)
    if not pictures:
        raise InputError(path, "no frame can be decoded", "Fetch it again, or convert it")
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(path, "the frame size changes on the way", "Re-encode it at one size")
    return Video(np.stack(pictures), np.asarray(times))


def iter_video(path: str | os.PathLike[str]
               ) -> Iterator[tuple[float, Callable[[], UInt8[np.ndarray, "H W 3"]]]]:
    """Yield each frame of a video file in order: seconds from the first, and how to get its pixels.

    Pixels are upright RGB, made only when asked for. Times are those of ``read_video``; raises
    InputError as it does, before the first frame where the file is truncated.
    """
    path = existing_file(path)
    with _reading(path):
        index = _index(path)
    for time, frame in _decode(path, index):
        yield time, functools.partial(_upright, frame, path)


def _other_kind(kinds: type[SideDataKind], value: int) -> SideDataKind:
    """A kind of side data that FFmpeg has and PyAV has not: EXIF in the frames of cameras' MJPEG.

    Without it PyAV 18.1 raises ValueError when any side data of such a frame is asked for.
    """
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"OTHER_{value}", value
    return kinds._value2member_map_.setdefault(value, kind)  # pyright: ignore


SideDataKind._missing_ = classmethod(_other_kind)  # pyright: ignore


def _upright(frame: VideoFrame, path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as a player shows it: turned and mirrored by its display matrix."""
    pixels = to_rgb(frame, path)
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        mirrored, turns = _orientation(struct.unpack("=9i", bytes(data)))
        pixels = np.rot90(np.fliplr(pixels) if mirrored else pixels, turns)
    return np.ascontiguousarray(pixels)


def _orientation(matrix: Sequence[int]) -> tuple[bool, int]:
    """Whether a display matrix mirrors the picture left to right, and the counter-clockwise quarter
    turns after that; sizes, shear and odd angles give the nearest of the eight."""
    a, b, _, c, d = matrix[:5]  # Column p, row q go to column a p + c q, row b p + d q.
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return False, 0
    return mirrored, round(-math.atan2(b / down, a / across) / (math.pi / 2))


_Timed = Iterator[tuple[int, VideoFrame]]
_GAP = 10.0  # seconds; a longer one in a format whose clock may restart is a restart, as in FFmpeg.
_REORDERED = 16  # Most frames by which a decoder may put one off, in any codec.
# What a file of a format that holds one recording begins with: the rest of the file is not read.
_OPENINGS = {"mov": b"ftyp", "flv": b"FLV\1",
             "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")}


@dataclasses.dataclass(frozen=True)
class _Part:
    """A recording inside a file of several: its first packet, and what is added to its times."""

    first: int
    shift: int


@dataclasses.dataclass(frozen=True)
class _Index:
    """What the packets tell, in units of ``base`` seconds. Packets are numbered as stored.

    Attributes:
      pts: presentation times of the frames shown, rising.
      keys: those of keyframes from which decoding may start, rising.
      numbers: the packets of these keyframes.
      parts: the recordings joined in the file; mostly one.
      decoding_times: the times stored say when a frame is decoded, not when it is shown.
    """

    pts: list[int]
    keys: list[int]
    numbers: list[int]
    base: float
    parts: list[_Part]
    decoding_times: bool

    @property
    def times(self) -> Float[np.ndarray, "N"]:
        return (np.asarray(self.pts, np.float64) - self.pts[0]) * self.base


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise InputError(path, f"it is not a whole video ({error.strerror})",
                         "Fetch it again, or convert it") from error


def _open(path: Path) -> InputContainer:
    with path.open("rb") as file:
        beginning = file.read(4096)
    for start, what, remedy in _FOREIGN:
        if start.match(beginning):
            raise InputError(path, what, remedy)
    # Without the protocol, a colon in a relative name would end the name of one.
    return av.open(f"file:{os.fspath(path)}", options={"protocol_whitelist": "file"})


def _stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise InputError(path, "no video stream", "Give a file with moving pictures")


def _joined(path: Path, why: str) -> InputError:
    return InputError(path, f"several recordings are joined in it, and {why}",
                      "Give them one by one, or join them with ffmpeg's concat demuxer")


def _packets(container: InputContainer, path: Path) -> Iterator[Packet]:
    try:
        yield from container.demux()
    except IndexError as error:  # PyAV fails at the end where streams came up on the way.
        raise _joined(path, "the later ones have other streams") from error


def _index(path: Path) -> _Index:
    with _open(path) as container:
        stream = _stream(container, path)
        if not stream.time_base:
            raise InputError(path, "its frames carry no times", "Remux it into MP4 or Matroska")
        restarts = bool(container.format.flags & Flags.ts_discont.value)
        listing = _Listing(float(stream.time_base), restarts, container.format.name == "mpegts")
        # Whether later packets need something of earlier ones: decoding must start at the first.
        carried = container.format.name == "gif"
        packets, end, stored = 0, 0.0, 0
        begins: dict[int, int] = {}  # Where in the file each stream does.
        last = 0  # Of this stream.
        for packet in _packets(container, path):
            if packet.size == 0:
                continue
            if packet.pos is not None:
                stored = max(stored, packet.pos + packet.size)
                begins.setdefault(packet.stream_index, packet.pos)
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                listing.other(packet)
                continue
            last = max(last, packet.pos or 0)
            packets += 1
            carried |= any(map(packet.has_sidedata, ("palette", "new_extradata", "param_change")))
            if packet.pts is None and not packet.is_discard:
                raise InputError(path, "its frames carry no times",
                                 "Remux it into MP4 or Matroska")
            listing.add(packet)
        promised = (container.duration or 0) / av.time_base
        ends_early = promised - end > max(1.0, 0.05 * promised)
        # AVI counts frames that repeat the one before, and are not stored.
        lacking = packets < stream.frames and (
            not promised or promised - end > 0.5 * promised / stream.frames)
        # Where the clock may restart, the duration is no promise, but worked out of the last times.
        if packets and not restarts and (lacking or ends_early):
            raise InputError(path, f"truncated: it ends at {end:.2f} s of {promised:.2f} s",
                             "Fetch it again")
        if restarts and any(begins.get(other.index, 0) > last
                            for other in container.streams.video):
            raise _joined(path, "the later ones have other streams")
        opening = _OPENINGS.get(container.format.name.split(",")[0])
        if opening and stored and _found_after(path, stored, opening):
            raise _joined(path, "this format shows only the first")
        if container.format.name == "avi" and len(_avi_headers(path)) > 1:
            raise _joined(path, "they differ in rate or size")
        index = listing.index()
        if not index.pts:
            raise InputError(path, "the video stream holds no frame", "Give a longer video")
        codec = stream.codec_context
        if len(index.parts) > 1 and not restarts and codec.extradata:
            raise _joined(path, "only the first one's codec settings are known")
        in_order = index.pts == list(listing.pts)
        return dataclasses.replace(
            index, **(dict(keys=[], numbers=[]) if carried else {}),
            decoding_times=container.format.name == "avi" and in_order
            and not codec.codec.intra_only)


def _found_after(path: Path, position: int, what: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(position)
        rest = b""
        while block := file.read(1 << 20):
            if what in rest + block:
                return True
            rest = block[-len(what):]
    return False


def _avi_headers(path: Path) -> set[bytes]:
    """Time between frames, and width and height, of each AVI file in a file."""
    found = set()
    with path.open("rb") as file:
        while len(head := file.read(88)) == 88 and head[:4] == b"RIFF":
            if head[8:12] == b"AVI " and head[24:28] == b"avih":
                found.add(head[32:36] + head[64:72])
            size = int.from_bytes(head[4:8], "little")
            file.seek(size + size % 2 + 8 - len(head), os.SEEK_CUR)
    return found


class _Clock:
    """How far the time of a stream went on without a leap, by its packets' places in the file."""

    def __init__(self):
        self._places, self._seconds = array.array("q"), array.array("d")
        self._last: float | None = None

    def add(self, place: int | None, time: float) -> None:
        step = 0.0 if self._last is None else time - self._last
        self._last = time
        self._places.append(place or (self._places[-1] if self._places else 0))
        self._seconds.append((self._seconds[-1] if self._seconds else 0.0)
                             + (step if 0 < step < _GAP else 0.0))

    def passed(self, a: int, b: int) -> float:
        first, last = (max(bisect.bisect(self._places, x) - 1, 0) for x in (a, b))
        return self._seconds[last] - self._seconds[first]


class _Listing:
    """The packets of a stream as they come, cut into recordings where the clock restarts.

    A keyframe is shown after all that came before it: where one is not, a recording begins. In
    formats whose clock may restart, one also begins where decoding times fall or leap.
    """

    def __init__(self, base: float, restarts: bool, stamped: bool):
        self._base, self._restarts, self._stamped = base, restarts, stamped
        self.pts, self._dts = array.array("q"), array.array("q")
        self._durations = array.array("q")
        self._shown, self._keys = bytearray(), bytearray()
        self._places = array.array("q")  # Bytes from the start of the file.
        self._others: dict[int, _Clock] = collections.defaultdict(_Clock)

    def other(self, packet: Packet) -> None:
        if self._restarts and packet.dts is not None and packet.time_base:
            self._others[packet.stream_index].add(
                packet.pos, float(packet.dts * packet.time_base))

    def add(self, packet: Packet) -> None:
        pts = packet.pts if packet.pts is not None else packet.dts or 0
        self.pts.append(pts)
        self._dts.append(pts if packet.dts is None else packet.dts)
        self._durations.append(packet.duration or 0)
        self._shown.append(not packet.is_discard)
        self._keys.append(packet.is_keyframe)
        self._places.append(packet.pos or (self._places[-1] if self._places else 0))

    def index(self) -> _Index:
        firsts = self._firsts()
        parts: list[_Part] = []
        pts: list[int] = []
        keys: list[int] = []
        numbers: list[int] = []
        end = None
        for first, stop in zip(firsts, [*firsts[1:], len(self.pts)], strict=True):
            packets = [i for i in range(first, stop) if self._shown[i]]
            if not packets:
                continue
            own = sorted({self.pts[i] for i in packets})
            shift = 0 if end is None else end - own[0]
            parts.append(_Part(first if parts else 0, shift))
            usual = int(np.median(np.diff(own))) if len(own) > 1 else 1
            end = shift + max(self.pts[i] + (self._durations[i] or usual) for i in packets)
            pts.extend(time + shift for time in own)
            for i in packets:
                if self._keys[i]:
                    keys.append(self.pts[i] + shift)
                    numbers.append(i)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return _Index(pts, [keys[i] for i in order], [numbers[i] for i in order], self._base,
                      parts or [_Part(0, 0)], False)

    def _firsts(self) -> list[int]:
        """The packets with which recordings begin."""
        steps = np.diff(self._dts)
        usual = float(np.median(steps[steps > 0])) * self._base if (steps > 0).any() else 0.0
        leap = max(_GAP, 20 * usual)
        firsts = [0]
        lowest = highest = dts = None
        before = 0
        for i, pts in enumerate(self.pts):
            if not self._shown[i]:
                continue
            if lowest is not None and highest is not None and dts is not None:
                step, back = (self._dts[i] - dts) * self._base, (highest - pts) * self._base
                # Every frame of a transport stream has its time; elsewhere some are worked out.
                begins = self._keys[i] and (
                    (back > 0 or step <= 0) if self._stamped else
                    back > 0.1 or back > 0 and pts <= lowest)
                if self._restarts and not begins:
                    begins = step < (-0.1 if self._stamped else -0.5) or (
                        step > leap and step - self._passed(before, i) > leap)
                if begins:
                    firsts.append(i)
                    lowest = highest = None
            lowest = pts if lowest is None else min(lowest, pts)
            highest = pts if highest is None else max(highest, pts)
            before, dts = i, self._dts[i]
        return firsts

    def _passed(self, a: int, b: int) -> float:
        """Seconds by which another stream, mostly sound, went on from one packet to another."""
        places = self._places[a], self._places[b]
        return max((clock.passed(*places) for clock in self._others.values()), default=0.0)


def _decode(path: Path, index: _Index, wanted: list[int] | None = None
            ) -> Iterator[tuple[float, VideoFrame]]:
    """Frames and their seconds: all, or those shown at the wanted times, in units of the index;
    where one is lost, the next that can be decoded."""
    with _reading(path), _open(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        reader = (_Joined if len(index.parts) > 1 else _Reader)(path, container, stream, index)
        start = position = index.pts[0]
        if wanted is None:
            for pts, frame in reader.frames:
                yield (pts - start) * index.base, frame
            return
        for target in wanted:
            if position > target:
                continue
            # One more back where times are sorted: the first frames after a jump may lack some.
            key = bisect.bisect_right(index.keys, target) - 1 - index.decoding_times
            if key >= 0 and index.keys[key] > position:
                reader.seek(key, target)
            for pts, frame in reader.frames:
                position = max(position, pts + 1)
                if pts >= target:
                    yield (pts - start) * index.base, frame
                    break


def _timed(frames: Iterable[VideoFrame]) -> _Timed:
    return ((frame.pts, frame) for frame in frames if frame.pts is not None)


def _sorted_times(frames: _Timed) -> _Timed:
    """Frames as they come, which is the order shown, with their times in rising order."""
    times: list[int] = []
    held: collections.deque[VideoFrame] = collections.deque()
    for pts, frame in frames:
        heapq.heappush(times, pts)
        held.append(frame)
        if len(held) > _REORDERED:
            yield heapq.heappop(times), held.popleft()
    while held:
        yield heapq.heappop(times), held.popleft()


class _Reader:
    """Frames of a file from its start, and after ``seek`` from there.

    Attributes:
      frames: what comes next, with times in units of the index.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, index: _Index):
        self._path, self._container = path, container
        self._stream, self._index = stream, index
        self.frames = self._decode()

    def _decode(self) -> _Timed:
        frames = _timed(self._container.decode(self._stream))
        return _sorted_times(frames) if self._index.decoding_times else frames

    def seek(self, key: int, target: int) -> None:
        """On from a keyframe before the target; formats that seek late get an earlier one."""
        back = 0
        while True:
            at = max(key - back, 0)
            self._container.seek(self._index.keys[at], stream=self._stream, backward=True)
            self.frames = self._decode()
            first = next(self.frames, None)
            if first is not None and (first[0] <= target or at == 0):
                self.frames = itertools.chain([first], self.frames)
                return
            if at == 0:
                return
            back = 2 * back + 1


class _Joined(_Reader):
    """Frames of recordings one after another, each with its own clock.

    A time is found in several of them, so nothing is sought: packets are read on, and decoded from
    the keyframe.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, index: _Index):
        self._read = self._start = 0  # Packets.
        super().__init__(path, container, stream, index)

    def _decode(self) -> _Timed:
        firsts = [part.first for part in self._index.parts]
        keys = frozenset(self._index.numbers)
        codec, at = self._stream.codec_context, 0
        given = shown = 0  # Keyframes and frames of a recording.
        for packet in self._container.demux(self._stream):
            if packet.size:
                number, self._read = self._read, self._read + 1
                if number < self._start:
                    continue
                before, at = at, bisect.bisect_right(firsts, number) - 1
                if at != before:  # The last frames of one must not wait for the next to begin.
                    for timed in _timed(codec.decode(None)):
                        shown += 1
                        yield timed
                    self._check(given, shown)
                    given = shown = 0
                    codec.flush_buffers()
                given += number in keys
                shift = self._index.parts[at].shift
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
            for timed in _timed(packet.decode()):
                shown += 1
                yield timed
        self._check(given, shown)

    def _check(self, given: int, shown: int) -> None:
        if given and not shown:
            raise _joined(self._path, "one of them cannot be decoded like the first")

    def seek(self, key: int, target: int) -> None:
        if self._index.numbers[key] >= self._read:
            self._start = self._index.numbers[key]
            self._stream.codec_context.flush_buffers()
