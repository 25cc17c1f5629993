"""Grain pipelines: sources → shuffled, sharded, checkpointable streams of batches.

Every stage prepares its examples here, by one path: row → media → processor. A row that cannot be
prepared is left out, named and counted; see ``stream``, whose iterators tell and take their
position.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import grain
import numpy as np
from absl import flags

from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import Sample
from fourd4d.data import media
from fourd4d.data.collate import Size, check_size, collate, shape_of_sizes
from fourd4d.data.image_cache import ImageCache
from fourd4d.data.packing import PackedBatches
from fourd4d.data.source import Row, Source
from fourd4d.data.stream import Failed, PackedStream, Read, Stream, failed_row, warn

Sources: TypeAlias = Source | Sequence[tuple[Source, float]]
"""One source, or several with weights."""

@runtime_checkable
class Preparer(Protocol):
    """What the pipelines need of ``processing.Processor``."""

    protocol: ProtocolSpec

    def prompt(self, question: str, media: Sequence[Any]) -> Example: ...

    def example(self, text_input: str, media: Sequence[Any], response: str,
                overlays: Sequence[np.ndarray] = ..., imagery: bool = ...,
                plains: Sequence[np.ndarray] = ..., masks: Sequence[np.ndarray] = ...
                ) -> Example: ...

    def size(self, question: str, media: Sequence[Any], response: str | None = ...,
             overlays: Sequence[tuple[int, int]] = ...,
             imagery: bool = ...) -> tuple[int, int, int, int]: ...


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the data this process reads: share ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError("Shard", f"index {self.index} of {self.count}",
                             "Indices run from 0 to count - 1")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the work of reading is spread; no effect on what is read.

    Attributes:
      workers: processes; 0 reads in this one.
      threads: threads of each process; 0 reads when asked.
      buffer: batches held ready by each process.
      cache_mb: megabytes of decoded images that each process keeps for the next epoch.
    """

    workers: int = 0
    threads: int = 2
    buffer: int = 2
    cache_mb: int = 256


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question ready to be sampled, with the sample that scores the answers."""

    sample: Sample
    example: Example
    where: str = ""


@dataclasses.dataclass(frozen=True)
class PrepareExample:
    """Row → supervised Example. With ``imagery`` False, the marks and overlays are left out."""

    processor: Preparer
    imagery: bool = True
    assumed_fps: float | None = None
    cache: ImageCache | None = None

    def __call__(self, row: Row) -> Example:
        sample = row.sample
        if not sample.response:
            raise InputError(row.where, f"sample {sample.id!r} has no response to learn from",
                             "Give DIFT rows (with 'text_output')")
        found, overlays = media.row_media(row, self.processor.protocol,
                                          assumed_fps=self.assumed_fps,
                                          with_overlays=self.imagery, cache=self.cache)
        protocol, painted = self.processor.protocol, {}
        if self.imagery and protocol.target is not None:
            painted["plains"] = media.plain_frames(row, cache=self.cache)
        if self.imagery and protocol.region is not None:
            painted["masks"] = media.overlay_masks(row, cache=self.cache)
        try:
            return self.processor.example(sample.text_input, found, sample.response, overlays,
                                          imagery=self.imagery, **painted)
        except InputError as error:
            raise _located(error, row) from error


@dataclasses.dataclass(frozen=True)
class PreparePrompt:
    """Row → Prompt; the response, if any, is ignored."""

    processor: Preparer
    assumed_fps: float | None = None
    cache: ImageCache | None = None

    def __call__(self, row: Row) -> Prompt:
        found, _ = media.row_media(row, self.processor.protocol, assumed_fps=self.assumed_fps,
                                   with_overlays=False, cache=self.cache)
        try:
            example = self.processor.prompt(row.sample.text_input, found)
        except InputError as error:
            raise _located(error, row) from error
        return Prompt(row.sample, example, row.where)


def dift_pipeline(
    source: Sources,
    processor: Preparer,
    shape: BatchShape,
    *,
    seed: int = 0,
    epochs: int | None = 1,
    shuffle: bool = True,
    imagery: bool = True,
    pack: bool = False,
    remainder: Literal["drop", "pad"] = "drop",
    shard: Shard | None = None,
    reading: Reading | None = None,
    assumed_fps: float | None = None,
) -> Stream | PackedStream:
    """Batches of supervised examples; ``shape.rows`` rows each, for this process.

    Rows that cannot be prepared leave their places empty; see ``stream`` for when they end the run.

    The order depends on ``seed`` and the number of processes only. In one epoch each row of the
    data goes to one process, once. With several weighted sources an epoch has as many rows as the
    sources together; light ones are cut, heavy ones repeated.

    Args:
      epochs: None for an endless stream.
      imagery: False trains on text alone, from the same data.
      pack: fill rows with several examples. How many batches an epoch then gives depends on the
        examples, so several processes need an endless stream, and workers change the batches.
      remainder: what becomes of the last rows that fill no batch; ``pad`` completes it with empty
        rows. Every process yields the same number of batches either way. (Ignored with ``pack``,
        which pads.)

    Raises:
      InputError: while iterating: too many rows fail.
    """
    shard, reading = shard or Shard(), reading or Reading()
    rows = _rows(source, seed, epochs, shuffle)
    prepare = PrepareExample(processor, imagery, assumed_fps, _cache(reading))
    if not pack:
        return _stream(rows, shape.rows, shard, remainder, _Collate(prepare, shape), reading)
    if shard.count > 1 and epochs is not None:
        raise InputError("dift_pipeline", "packing with several processes and counted epochs",
                         "Use epochs=None and stop by steps, or pack=False")
    mine = _Groups(rows, 1, shard, "drop").map(_Alone(_Sized(prepare, shape)))
    examples = mine.to_iter_dataset(grain.ReadOptions(
        num_threads=reading.threads, prefetch_buffer_size=reading.buffer * 2 * shape.rows))
    return PackedStream(_workers(PackedBatches(examples, shape, processor.protocol), reading),
                        reading.workers)


def prompt_pipeline(
    source: Sources,
    processor: Preparer,
    prompts: int,
    *,
    seed: int = 0,
    epochs: int | None = 1,
    shuffle: bool = True,
    remainder: Literal["drop", "pad"] = "drop",
    shard: Shard | None = None,
    reading: Reading | None = None,
    assumed_fps: float | None = None,
) -> Stream:
    """Groups of ``prompts`` prompts for this process, each group a tuple of ``Prompt``.

    As ``dift_pipeline``; with ``remainder="pad"`` the last group may be shorter, even empty.
    """
    reading = reading or Reading()
    rows = _rows(source, seed, epochs, shuffle)
    prepare = PreparePrompt(processor, assumed_fps, _cache(reading))
    return _stream(rows, prompts, shard or Shard(), remainder, _Each(prepare), reading)


def measure(source: Source, processor: Preparer, rows: int, *, imagery: bool = True,
            examples: int | None = None, round_to: int = 1,
            assumed_fps: float | None = None) -> BatchShape:
    """The shape that holds the rows of ``source``, from their texts and image headers.

    Rows that cannot be read are left out with a warning, as the pipelines leave them out.

    Args:
      examples: how many rows to look at, spread evenly; by default all.

    Raises:
      InputError: not one row can be read; the message is the first one's.
    """
    sizes = spread_sizes(source, examples, lambda row: row_size(row, processor, imagery,
                                                                assumed_fps))
    return shape_of_sizes(sizes, rows, round_to)


def spread_sizes(source: Source, count: int | None, size: Callable[[Row], Size]) -> list[Size]:
    """Sizes of ``count`` rows spread evenly (all by default); bad ones are left out.

    Raises InputError as ``measure`` does.
    """
    total = len(source)
    chosen = np.unique(np.linspace(0, total - 1, min(count or total, total)).round().astype(int))
    sizes: list[Size] = []
    failures: list[Failed] = []
    for index in chosen:
        try:
            sizes.append(size(source[int(index)]))
        except Exception as error:
            failures.append(failed_row(error, f"row {index}"))
    warn(failures)
    if not sizes:
        raise InputError(failures[0].where if failures else "data", "no row can be read: "
                         f"{failures[0].reason if failures else 'there is none'}", "Fix the data")
    return sizes


def row_size(row: Row, processor: Preparer, imagery: bool = True,
             assumed_fps: float | None = None) -> Size:
    """What ``PrepareExample`` would make of the row, without decoding its images."""
    sample = row.sample
    shapes, overlays = media.row_shapes(row, processor.protocol, assumed_fps=assumed_fps,
                                        with_overlays=imagery)
    try:
        return Size(*processor.size(sample.text_input, shapes, sample.response, overlays, imagery))
    except InputError as error:
        raise _located(error, row) from error


def _cache(reading: Reading) -> ImageCache:
    return ImageCache(reading.cache_mb * 1_000_000)


def _located(error: InputError, row: Row) -> InputError:
    return InputError(row.where, f"sample {row.sample.id!r}: {error.where}: {error.what}",
                      error.remedy)


def _rows(source: Sources, seed: int, epochs: int | None, shuffle: bool) -> grain.MapDataset:
    """All rows of all epochs in their order, the same on every process."""
    if epochs is not None and epochs < 1:
        raise InputError("epochs", f"{epochs} epochs", "Give 1 or more, or None")
    if not isinstance(source, Sequence):
        return _Epochs(source, seed, epochs, shuffle)
    if not source or any(weight <= 0 for _, weight in source):
        raise InputError("sources", f"weights {[weight for _, weight in source]}",
                         "Give at least one source, all weights above zero")
    parts = []
    for number, (part, _) in enumerate(source):
        parts.append(_Epochs(part, seed + 7919 * number, None, shuffle))
    mixed = grain.MapDataset.mix(parts, [weight for _, weight in source])
    return mixed if epochs is None else mixed[: epochs * sum(len(part) for part, _ in source)]


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order: the run's own for the first, then one with the top bit.

    Grain draws epoch e of seed s with s + e, so that neighbouring seeds replay each other's epochs;
    here no epoch after the first is another seed's first.
    """
    if not epoch:
        return seed % 2**31
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return 2**31 | int.from_bytes(digest[:4], "big")


class _Epochs(grain.MapDataset):
    """The rows of all epochs, each in an order of its own."""

    def __init__(self, source: Source, seed: int, epochs: int | None, shuffle: bool):
        super().__init__(grain.MapDataset.source(source))
        self._rows, self._seed, self._shuffle = len(source), seed, shuffle
        self._total = sys.maxsize if epochs is None else self._rows * epochs
        self._orders: dict[int, grain.MapDataset] = {}

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, self._rows)
        if not self._shuffle:
            return self._parent[place]
        order = self._orders.get(epoch)
        if order is None:
            order = self._parent.shuffle(seed=epoch_seed(self._seed, epoch))
            self._orders = {k: v for k, v in self._orders.items() if k >= epoch - 1} | {
                epoch: order}
        return order[place]


class _Groups(grain.MapDataset):
    """This process's groups of ``size`` rows; group i of all processes lie side by side.

    Args:
      start: rows, of all processes, that come before the first group.
    """

    def __init__(self, rows: grain.MapDataset, size: int, shard: Shard,
                 remainder: Literal["drop", "pad"], start: int = 0):
        super().__init__(rows)
        self._size, self._shard, self._total, self._start = size, shard, len(rows), start
        per_step, left = size * shard.count, max(len(rows) - start, 0)
        steps = left // per_step if remainder == "drop" else -(-left // per_step)
        if not steps and not start:
            raise InputError("data", f"{self._total} rows, {per_step} a step: no full batch",
                             "Use fewer rows a batch, more epochs, or remainder='pad'")
        self._steps = min(steps, sys.maxsize)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        start = self._start + (index * self._shard.count + self._shard.index) * self._size
        return [self._row(i) for i in range(start, min(start + self._size, self._total))]

    def _row(self, index: int) -> Row | Failed:
        try:
            row: Any = self._parent[index]
            return row
        except Exception as error:
            return failed_row(error, f"row {index}")


@dataclasses.dataclass(frozen=True)
class _Collate:
    prepare: PrepareExample
    shape: BatchShape

    def __call__(self, rows: Sequence[Row | Failed]) -> Read:
        good, failed = prepared(rows, _Sized(self.prepare, self.shape))
        batch = collate([example for example, _ in good], self.shape,
                        self.prepare.processor.protocol, names=[where for _, where in good])
        return Read(batch, failed, empty=not good)


@dataclasses.dataclass(frozen=True)
class _Sized:
    """One example that fits a row by itself."""

    prepare: PrepareExample
    shape: BatchShape

    def __call__(self, row: Row) -> tuple[Example, str]:
        example = self.prepare(row)
        check_size(Size.of(example), self.shape, row.where)
        return example, row.where


@dataclasses.dataclass(frozen=True)
class _Alone:
    """One row's example with its name, or why there is none."""

    prepare: _Sized

    def __call__(self, rows: Sequence[Row | Failed]) -> tuple[Example, str] | Failed:
        good, failed = prepared(rows, self.prepare)
        return good[0] if good else failed[0]


@dataclasses.dataclass(frozen=True)
class _Each:
    prepare: PreparePrompt

    def __call__(self, rows: Sequence[Row | Failed]) -> Read:
        good, failed = prepared(rows, self.prepare)
        return Read(tuple(good), failed, empty=not good)


def prepared(rows: Sequence[Row | Failed], prepare: Callable[[Row], Any]
             ) -> tuple[list[Any], tuple[Failed, ...]]:
    """What ``prepare`` makes of each row, and the rows of which it makes nothing."""
    good: list[Any] = []
    failed: list[Failed] = []
    for row in rows:
        if isinstance(row, Failed):
            failed.append(row)
            continue
        try:
            good.append(prepare(row))
        except Exception as error:  # Whatever lies in one row.
            failed.append(failed_row(error, row.where))
    return good, tuple(failed)


def _stream(rows: grain.MapDataset, size: int, shard: Shard, remainder: Literal["drop", "pad"],
            each: Callable[[Sequence[Row | Failed]], Read], reading: Reading) -> Stream:
    """Groups of rows from any row on, read and prepared."""

    def start_at(row):
        return _workers(_Groups(rows, size, shard, remainder, row).map(each).to_iter_dataset(
            grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=reading.buffer)),
            reading)

    start_at(0)  # Too few rows for one group are told now.
    return Stream(start_at, size * shard.count, alone=shard.count == 1)


def _workers(dataset: grain.IterDataset, reading: Reading) -> grain.IterDataset:
    if not reading.workers:
        return dataset
    if not flags.FLAGS.is_parsed():  # Grain's workers read flags; outside absl nobody parses them.
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(grain.MultiprocessingOptions(
        num_workers=reading.workers, per_worker_buffer_size=reading.buffer))
