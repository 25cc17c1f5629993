"""Pictures and videos of a request: data URLs, files below a root, and, if allowed, the web."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
import os
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.jsonl import inside
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing.media import Image, TooLargeError, Video, decode_image, existing_file
from fourd4d.processing.video import pick_frames, read_chosen
from fourd4d.serve.errors import ApiError
from fourd4d.serve.fetch import fetch
from fourd4d.serve.spec import ServeSpec

_FETCH_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where media may come from.

    Attributes:
      root: ``file:`` paths are read below it; None refuses them.
      remote: whether the web is asked.
    """

    protocol: ProtocolSpec
    spec: ServeSpec
    root: Path | None = None
    remote: bool = False

    def reader(self) -> Reader:
        """Return a reader for one request."""
        return Reader(self)


class Reader:
    """Reads one request's media, all of which share the limits.

    Attributes:
      video_frames: most frames to pick of a video; the server's limit holds beside it.
    """

    def __init__(self, sources: Sources):
        self._sources = sources
        self.video_frames = self._most_frames()
        self._pixels = self._media = 0

    def image(self, url: Any, where: str) -> Image:
        """The picture at a URL. Raises InputError where it cannot be had, ApiError over a limit."""
        self._count(where)
        return self._image(url, where)

    def frames(self, urls: Sequence[Any], times: Sequence[Any], where: str) -> Video:
        """Pictures with the seconds at which they are shown, as a video."""
        self._count(where)
        most = self._most_frames()
        if len(urls) > most:
            raise ApiError(400, f"{where}: {len(urls)} frames, the server takes {most}",
                           param=where, code="too_many_frames")
        for number, time in enumerate(times):
            if isinstance(time, bool) or not isinstance(time, int | float):
                raise InputError(f"{where}[{number}].time", f"{time!r} is not a number of seconds",
                                 "Give each frame its time")
        pictures = [self._image(url, f"{where}[{number}].url").pixels
                    for number, url in enumerate(urls)]
        if len({picture.shape for picture in pictures}) != 1:
            raise InputError(where, "the frames have several sizes, or there are none",
                             "Give frames of one size")
        return Video(np.stack(pictures), np.asarray(times, np.float64))

    def video(self, url: Any, where: str) -> Video:
        """The video at a URL, its frames picked as everywhere else."""
        self._count(where)
        path = self._path(url, where)
        if path is not None:
            return self._video(path, where)
        with tempfile.NamedTemporaryFile(prefix="fourd4d-", suffix=".video") as file:
            file.write(self._bytes(url, where))
            file.flush()
            return self._video(Path(file.name), where)

    def _count(self, where: str) -> None:
        self._media += 1
        if self._media > self._sources.spec.max_media:
            raise ApiError(400, f"{where}: more than {self._sources.spec.max_media} pictures and "
                           "videos", param=where, code="too_many_media")

    def _most_frames(self) -> int:
        own = self._sources.protocol.max_frames
        return min(self._sources.spec.max_frames or own, own)

    def _take(self, pixels: int, where: str) -> None:
        """Counts pixels before they are decoded."""
        most = self._sources.spec.max_pixels
        self._pixels += pixels
        if self._pixels > most:
            raise ApiError(400, f"{where}: the request has more than {most:,} pixels to decode. "
                           "Scale the pictures down, or send fewer frames", param=where,
                           code="too_many_pixels")

    def _image(self, url: Any, where: str) -> Image:
        path = self._path(url, where)
        data = self._bytes(url, where) if path is None else path.read_bytes()
        most = self._sources.spec.max_pixels
        try:
            image = decode_image(data, where, most=most - self._pixels)
        except TooLargeError:
            self._take(most + 1, where)
            raise
        self._pixels += math.prod(image.pixels.shape[:2])
        return image

    def _video(self, path: Path, where: str) -> Video:
        spec, protocol = self._sources.spec, self._sources.protocol
        wanted = 1

        def choose(times: np.ndarray) -> list[int]:
            nonlocal wanted
            if times[-1] > spec.max_seconds:
                raise ApiError(400, f"{where}: the video lasts {times[-1]:.1f} s, the server takes "
                               f"{spec.max_seconds:g} s", param=where, code="video_too_long")
            chosen = pick_frames(times, protocol.fps,
                                 min(self.video_frames, self._most_frames()))
            wanted = len(chosen)
            return chosen

        first = True

        def unchanged(height: int, width: int) -> tuple[int, int]:
            nonlocal first
            if first:
                self._take(wanted * height * width, where)
            first = False
            return height, width

        try:
            return read_chosen(path, choose, frame_size=unchanged)
        except InputError as error:  # Without the name of the temporary file.
            raise InputError(where, error.what, error.remedy) from error

    def _path(self, url: Any, where: str) -> Path | None:
        """The file that a ``file:`` URL names; None for another URL."""
        if not isinstance(url, str):
            raise InputError(where, f"{type(url).__name__} is not a URL", "Give a data: URL")
        if not url[:5].lower() == "file:":
            return None
        root = self._sources.root
        if root is None:
            raise ApiError(403, f"{where}: this server reads no files. Send a data URL, or start "
                           "it with --root=DIR", param=where, code="files_not_allowed")
        name = urllib.parse.unquote(url[5:])
        if name.startswith("//"):  # file://HOST/path
            host, slash, rest = name[2:].partition("/")
            if host not in ("", "localhost"):
                raise InputError(where, f"the file is on another host, {host[:100]!r}",
                                 "Send a data URL")
            name = slash + rest
        try:
            return existing_file(inside(root, name, where))
        except (InputError, ValueError, OSError) as error:
            # One message for all: whoever asks learns nothing of what lies outside.
            raise InputError(where, f"no such file below the server's root: {name[:200]!r}",
                             "Name a file by its path below the root") from error

    def _bytes(self, url: str, where: str) -> bytes:
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return decode_data_url(url, where)
        if scheme not in ("http", "https"):
            raise InputError(where, f"{url[:40]!r} is not a data:, file: or web address",
                             "Send a data URL")
        if not self._sources.remote:
            raise ApiError(403, f"{where}: this server fetches nothing from the web. Send a data "
                           "URL, or start it with --allow_remote", param=where,
                           code="remote_not_allowed")
        return fetch(url, where, most_bytes=self._sources.spec.max_body,
                     seconds=min(_FETCH_SECONDS, self._sources.spec.timeout))


def decode_data_url(url: str, where: str) -> bytes:
    """Return the bytes of a ``data:`` URL. Raises InputError where it holds none."""
    head, comma, data = url.partition(",")
    if not comma:
        raise InputError(where, "a data URL without data", "Write data:TYPE;base64,DATA")
    try:
        if head.lower().endswith(";base64"):
            found = base64.b64decode(urllib.parse.unquote(data) if "%" in data else data,
                                     validate=True)
        else:
            found = urllib.parse.unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise InputError(where, f"malformed base64 ({error})", "Encode it again") from error
    if not found:
        raise InputError(where, "a data URL without data", "Write data:TYPE;base64,DATA")
    return found


def checked_root(root: str) -> Path | None:
    """Return the folder that ``--root`` names; None for none. Raises InputError for another."""
    if not root:
        return None
    path = Path(os.path.expanduser(root))
    if not path.is_dir():
        raise InputError("--root", f"{root!r} is not a folder", "Give an existing one")
    return path.resolve()
