"""The ``dedup`` command: perceptual hashes and near-duplicate clips."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.processing.media import decode_image
from fourd4d.processing.video import read_video
from fourd4d.synth.tools.common import require_jsonl, row_of
from fourd4d.synth.video import letterbox
from fourd4d.synth.video.discover import SUFFIXES, find_videos

MOMENTS: Final = 4  # Number of frames of a video's print.
_SIDE: Final = 64  # Of their sides, pixels.
_BLOCK: Final = 8
_NOISE: Final = 0.08  # Contrast, in standard deviations of the clip, that compression leaves.
_BLUR: Final = 2.0  # Pixels of a small picture, over which a thing that moves is told from noise.
_THING: Final = 0.15  # Its contrast after that blur, least: a white square of 1/60 of the width.
_REACH: Final = 3  # Pixels by which it may be elsewhere in a copy of another frame rate.


# ---- near-duplicates and overlap ----


def clip_name(sample: Sample) -> str:
    """Return what identifies a sample's clip: its name, else its first file."""
    return sample.video_id or (sample.frames[0] if sample.frames else sample.video)


@dataclasses.dataclass(frozen=True)
class ClipPrint:
    """What clips are compared by: K frames of each.

    Attributes:
      hashes: perceptual hash of a few frames.
      pictures: the same frames, small and grey, of mean 0 and standard deviation 1.
      colours: their red and blue differences (Cr, Cb), divided by the same.
    """

    hashes: tuple[int, ...]
    pictures: Float[np.ndarray, "K S S"]
    colours: Float[np.ndarray, "K S S 2"]

    @staticmethod
    def of(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "T H W 3"]
           ) -> ClipPrint:
        """Return the print of a clip, without the black bars around its picture."""
        picked = moments_of(frames)
        grey = np.stack([cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE),
                                    interpolation=cv2.INTER_AREA) for frame in picked])
        pictures = grey.astype(np.float32)
        pictures -= pictures.mean()
        scale = max(float(pictures.std()), 1.0)
        colours = np.stack([cv2.cvtColor(cv2.resize(frame, (_SIDE, _SIDE),
                                                    interpolation=cv2.INTER_AREA),
                                         cv2.COLOR_RGB2YCrCb)[..., 1:] for frame in picked])
        return ClipPrint(tuple(perceptual_hash(frame) for frame in picked), pictures / scale,
                         (colours.astype(np.float32) - 128) / scale)

    def same(self, other: ClipPrint) -> bool:
        """Return whether both what rests and what moves is the same in both clips.

        A fixed camera shows one scene whatever passes by, slides share their background, and at
        night little is bright: so differences in space and in time are compared apart.
        """
        mine, theirs = (np.median(one.pictures, axis=0) for one in (self, other))
        if not _agree(_detail(mine), _detail(theirs)):
            return False
        return _agree(*(cv2.GaussianBlur((one.pictures - rest).reshape(-1, _SIDE), (0, 0), 1.0)
                        for one, rest in ((self, mine), (other, theirs)))
                      ) and not self._shows_another_thing(other)

    def _shows_another_thing(self, other: ClipPrint) -> bool:
        """Return whether something moves in one clip alone, or in another colour.

        However small it is beside the whole, it is seen in two frames or more, and away from the
        border, which a crop changes.
        """
        moving = [one.pictures[..., None] for one in (self, other)]
        if min(float(np.abs(one.colours).max()) for one in (self, other)) > _NOISE:
            moving = [np.concatenate([grey, one.colours], -1)  # Neither copy is in grey.
                      for grey, one in zip(moving, (self, other), strict=True)]
        mine, theirs = (
            np.stack([cv2.GaussianBlur(frame, (0, 0), _BLUR) for frame in one - np.median(one, 0)]
                     ).reshape(len(one), _SIDE, _SIDE, -1) for one in moving)
        apart = ((mine - theirs) ** 2).sum(-1)
        strong = np.maximum((mine**2).sum(-1), (theirs**2).sum(-1))
        near = np.stack([cv2.dilate(frame, np.ones((2 * _REACH + 1,) * 2)) for frame in strong])
        # What differs all over, as where leaves move, is no thing.
        least = max(_THING**2, 2 * float(np.quantile(apart, 0.9)))
        found = (apart > 0.4 * near) & (apart > least)
        inner = slice(_REACH, -_REACH)
        return int(found[:, inner, inner].any((1, 2)).sum()) > 1


def _detail(picture: np.ndarray) -> np.ndarray:
    """Return an image without its low frequencies."""
    return picture - cv2.GaussianBlur(picture, (0, 0), 4.0)


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two images of mean 0 agree where either differs from 0."""
    sizes = [float(np.sqrt((part * part).mean())) for part in (one, other)]
    if max(sizes) < _NOISE:
        return True
    blocks = [part.reshape(part.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK) for part in (one, other)]
    apart = ((blocks[0] - blocks[1]) ** 2).mean((1, 3))
    strong = np.maximum(*((block**2).mean((1, 3)) for block in blocks))
    shows = strong > max(_NOISE**2, 0.05 * float(strong.max()))
    # Most of these blocks must be nearer to their counterpart than to 0.
    return float((apart[shows] < 0.7 * strong[shows]).mean()) > 0.6


def hash_of(sample: Sample, root: Path) -> ClipPrint:
    """Return the print of the sample's clip."""
    where = f"sample {sample.id!r}"
    if sample.frames:
        picked = np.linspace(0, len(sample.frames) - 1, MOMENTS).round().astype(int)
        paths = [jsonl.inside(root, sample.frames[i], where) for i in picked]
        try:
            images = [decode_image(path.read_bytes(), path).pixels for path in paths]
        except OSError as error:
            raise InputError(where, f"a frame cannot be read ({error})", "Give --root") from error
        return ClipPrint.of(images)
    return hash_file(jsonl.inside(root, sample.video, where))


def hash_file(path: Path) -> ClipPrint:
    """Return the print of a video file."""
    return ClipPrint.of(read_video(path, 1e6, MOMENTS).frames)


def hashes_at(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
              ) -> dict[str, ClipPrint]:
    """Return prints by clip, of a JSONL file or of the video files below a folder."""
    path = Path(path)
    if path.is_dir() and any(p.suffix.lower() in SUFFIXES for p in path.rglob("*")):
        return {name: hash_file(file) for name, file in find_videos(path).items()}
    if path.is_dir():
        return {clip_name(r.sample): hash_record(r)
                for r in records.read_shards(records.find_shards(path))}
    out: dict[str, ClipPrint] = {}
    for sample in jsonl.read(path):
        if clip_name(sample) not in out:
            out[clip_name(sample)] = hash_of(sample, Path(root) if root else path.parent)
    return out


def hash_record(record: Record) -> ClipPrint:
    """Return the print of a record's clip."""
    picked = np.linspace(0, len(record.frames) - 1, MOMENTS).round().astype(int)
    return ClipPrint.of([decode_image(record.frames[i]).pixels for i in picked])


def run_dedup(args: argparse.Namespace) -> str:
    """Write the samples without those of near-duplicate clips; return a summary."""
    require_jsonl(args.data)
    twins = near_duplicates(hashes_at(args.data, args.root), args.bits)
    lost: collections.Counter[str] = collections.Counter()

    def kept() -> Iterator[Mapping[str, Any]]:
        for sample in jsonl.read(args.data):
            if clip_name(sample) in twins:
                lost[clip_name(sample)] += 1
            else:
                yield row_of(sample)

    count = jsonl.write(args.out, kept())
    lines = [f"  {name} is {twins[name]}: {number} samples" for name, number in lost.items()]
    return "\n".join([*lines, f"{len(twins)} near-duplicate clips; {sum(lost.values())} samples "
                      f"left out, {count} in {args.out}"])


def add_arguments_dedup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="JSONL file")
    parser.add_argument("out", metavar="OUT", help="JSONL file without near-duplicates")
    parser.add_argument("--root", default="", help="where the paths in DATA start")
    parser.add_argument("--bits", type=float, default=8.0,
                        help="of 128: most that differ in near-duplicates")


def perceptual_hash(frame: UInt8[np.ndarray, "H W 3"], side: int = 8) -> int:
    """Difference hash: which of neighbouring cells of the shrunk grey frame is brighter.

    ``side`` squared bits for columns and as many for rows; survives scaling and recompression.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across = cv2.resize(grey, (side + 1, side), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (side, side + 1), interpolation=cv2.INTER_AREA)
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(),
                           (np.diff(down, axis=0) > 0).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def moments_of(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "T H W 3"]
               ) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Return evenly spaced frames, without the black bars around their picture."""
    picked = [frames[i] for i in np.linspace(0, len(frames) - 1, MOMENTS).round().astype(int)]
    if len({frame.shape for frame in picked}) == 1:
        pictures = np.stack(picked)
        picked = list(letterbox.window(pictures).crop(pictures))
    return picked


def hash_distance(one: ClipPrint, other: ClipPrint) -> float:
    """Return the mean number of differing bits of two clips' hashes."""
    return sum((a ^ b).bit_count() for a, b in zip(one.hashes, other.hashes, strict=True)
               ) / len(one.hashes)


def near_duplicates(prints: Mapping[str, ClipPrint], most: float = 8.0) -> dict[str, str]:
    """Return, for each near-duplicate of an earlier clip (by name), the name of that one.

    ``most`` is the maximum mean number of differing bits, of 128.
    """
    kept: list[str] = []
    out: dict[str, str] = {}
    table = np.zeros((len(prints), 0), np.uint8)
    names = sorted(prints)
    if names:
        width = 16 * MOMENTS
        packed = [b"".join(h.to_bytes(16, "big") for h in prints[n].hashes) for n in names]
        table = np.frombuffer(b"".join(packed), np.uint8).reshape(len(names), width)
    rows: list[int] = []
    for i, name in enumerate(names):
        if rows:
            bits = np.bitwise_count(table[rows] ^ table[i]).sum(1) / MOMENTS
            near = [n for n in np.argsort(bits, kind="stable") if bits[n] <= most]
            twin = next((kept[n] for n in near if prints[kept[n]].same(prints[name])), None)
            if twin is not None:
                out[name] = twin
                continue
        kept.append(name)
        rows.append(i)
    return out


def alike(ours: Mapping[str, ClipPrint], theirs: Mapping[str, ClipPrint],
          most: float = 8.0) -> dict[str, str]:
    """Return, for each near-duplicate of one of ``theirs``, the name of the nearest."""
    out: dict[str, str] = {}
    for name, own in ours.items():
        near = sorted((hash_distance(own, print_), other) for other, print_ in theirs.items())
        twin = next((other for bits, other in near if bits <= most and own.same(theirs[other])),
                    None)
        if twin is not None:
            out[name] = twin
    return out
