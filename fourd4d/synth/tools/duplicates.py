"""The ``dedup`` command: perceptual hashes and near-duplicate clips."""

from __future__ import annotations

import argparse
import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import UInt8

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.processing.media import decode_image
from fourd4d.processing.video import read_video
from fourd4d.synth.tools.common import require_jsonl, row_of
from fourd4d.synth.video import letterbox
from fourd4d.synth.video.discover import SUFFIXES, find_videos

MOMENTS: Final = 4  # Frames of a video that its hash looks at.


# ---- near-duplicates and overlap ----


def clip_name(sample: Sample) -> str:
    """What tells one clip from another: its name, else its first file."""
    return sample.video_id or (sample.frames[0] if sample.frames else sample.video)


def hash_of(sample: Sample, root: Path) -> tuple[int, ...]:
    """Perceptual hashes of a few frames of the sample's clip."""
    where = f"sample {sample.id!r}"
    if sample.frames:
        picked = np.linspace(0, len(sample.frames) - 1, MOMENTS).round().astype(int)
        paths = [jsonl.inside(root, sample.frames[i], where) for i in picked]
        try:
            images = [decode_image(path.read_bytes(), path).pixels for path in paths]
        except OSError as error:
            raise InputError(where, f"a frame cannot be read ({error})", "Give --root") from error
        return clip_hash(images, MOMENTS)
    return hash_file(jsonl.inside(root, sample.video, where))


def hash_file(path: Path) -> tuple[int, ...]:
    frames = read_video(path, 1e6, MOMENTS).frames
    return clip_hash(frames, MOMENTS)


def hashes_at(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
              ) -> dict[str, tuple[int, ...]]:
    """Hashes by clip, of a JSONL file or of the video files below a folder."""
    path = Path(path)
    if path.is_dir() and any(p.suffix.lower() in SUFFIXES for p in path.rglob("*")):
        return {name: hash_file(file) for name, file in find_videos(path).items()}
    if path.is_dir():
        return {clip_name(r.sample): hash_record(r)
                for r in records.read_shards(records.find_shards(path))}
    out: dict[str, tuple[int, ...]] = {}
    for sample in jsonl.read(path):
        if clip_name(sample) not in out:
            out[clip_name(sample)] = hash_of(sample, Path(root) if root else path.parent)
    return out


def hash_record(record: Record) -> tuple[int, ...]:
    picked = np.linspace(0, len(record.frames) - 1, MOMENTS).round().astype(int)
    return clip_hash([decode_image(record.frames[i]).pixels for i in picked], MOMENTS)


def run_dedup(args: argparse.Namespace) -> str:
    """Leaves out the samples of clips that nearly equal an earlier one."""
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


def clip_hash(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "T H W 3"],
              moments: int = 4) -> tuple[int, ...]:
    """Hashes of evenly spaced frames, without the black bars around their picture."""
    picked = [frames[i] for i in np.linspace(0, len(frames) - 1, moments).round().astype(int)]
    if len({frame.shape for frame in picked}) == 1:
        pictures = np.stack(picked)
        picked = list(letterbox.window(pictures).crop(pictures))
    return tuple(perceptual_hash(frame) for frame in picked)


def hash_distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Mean number of differing bits of two clips' hashes."""
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True)) / len(one)


def near_duplicates(hashes: Mapping[str, Sequence[int]], most: float = 8.0
                    ) -> dict[str, str]:
    """For each clip that nearly equals an earlier one (by name), the name of that one.

    ``most`` is the largest mean number of differing bits, of 128.
    """
    kept: list[str] = []
    out: dict[str, str] = {}
    table = np.zeros((len(hashes), 0), np.uint8)
    names = sorted(hashes)
    if names:
        width = 16 * len(hashes[names[0]])
        packed = [b"".join(h.to_bytes(16, "big") for h in hashes[n]) for n in names]
        table = np.frombuffer(b"".join(packed), np.uint8).reshape(len(names), width)
    rows: list[int] = []
    for i, name in enumerate(names):
        if rows:
            bits = np.bitwise_count(table[rows] ^ table[i]).sum(1) / len(hashes[name])
            near = int(bits.argmin())
            if bits[near] <= most:
                out[name] = kept[near]
                continue
        kept.append(name)
        rows.append(i)
    return out


def alike(ours: Mapping[str, Sequence[int]], theirs: Mapping[str, Sequence[int]],
          most: float = 8.0) -> dict[str, str]:
    """For each clip of ours that nearly equals one of theirs, the name of the nearest."""
    out: dict[str, str] = {}
    for name, own in ours.items():
        near = min(theirs, key=lambda other: hash_distance(own, theirs[other]), default=None)
        if near is not None and hash_distance(own, theirs[near]) <= most:
            out[name] = near
    return out
