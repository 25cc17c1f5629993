"""Which samples to keep: difficulty for a given model, near-duplicates, overlap with benchmarks."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from fourd4d.core.errors import InputError
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.synth import letterbox

Answer = Callable[[Sequence[Sample], int], Sequence[Sequence[str | None]]]
"""Maps samples and a number of tries k to k letters each (None where an answer has none)."""


def difficulties(samples: Iterable[Sample], answer: Answer, tries: int = 8, batch: int = 16
                 ) -> Iterator[tuple[Sample, float]]:
    """Every question with the share of tries that a model gets right; free text is left out.

    Raises:
      InputError: ``answer`` gives another number of tries.
    """
    if tries < 2:
        raise InputError("tries", f"{tries} cannot tell sometimes from always", "Give 2 or more")
    for group in _groups(samples, batch):
        given = answer(group, tries)
        for sample, letters in zip(group, given, strict=True):
            if len(letters) != tries:
                raise InputError(f"sample {sample.id!r}", f"{len(letters)} tries of {tries}",
                                 "The answerer must give one letter or None per try")
            yield sample, sum(letter == sample.answer for letter in letters) / tries


def by_difficulty(samples: Iterable[Sample], answer: Answer, tries: int = 8, batch: int = 16
                  ) -> Iterator[tuple[Sample, float]]:
    """Those of ``difficulties`` that the model gets right sometimes but not always.

    Reinforcement learning learns nothing from the rest: all its tries get the same reward.
    """
    return ((sample, share) for sample, share in difficulties(samples, answer, tries, batch)
            if 0 < share < 1)


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        if sample.answer not in tuple(LETTERS) or not sample.answer:
            continue
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def perceptual_hash(frame: UInt8[np.ndarray, "H W 3"], side: int = 8) -> int:
    """Difference hash: which of neighbouring cells of the shrunk grey frame is brighter.

    ``side`` squared bits for columns and as many for rows; survives scaling and recompression.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across = cv2.resize(grey, (side + 1, side), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (side, side + 1), interpolation=cv2.INTER_AREA)
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(),
                           (np.diff(down, axis=0) > 0).ravel()])  # fmt: skip
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


def overlap(train: Iterable[str], benchmark: Iterable[str]) -> dict[str, int]:
    """Video ids in both, with their number of training samples."""
    held = set(benchmark)
    return dict(collections.Counter(name for name in train if name in held))
