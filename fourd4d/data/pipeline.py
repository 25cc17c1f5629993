"""Grain pipelines: sources → shuffled, sharded, checkpointable streams of batches.

Every stage prepares its examples here, by one path: row → media → processor. A row that cannot be
prepared is left out, named and counted; the one after it takes its place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from absl import logging

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import Sample
from fourd4d.data import media
from fourd4d.data.batches import Batches, Stream
from fourd4d.data.collate import Size, check_size, collate, shape_of_sizes
from fourd4d.data.failures import Failed, FailureLimit, failed_row
from fourd4d.data.image_cache import ImageCache
from fourd4d.data.packing import PackedBatches
from fourd4d.data.pairs import PairSource, unpaired
from fourd4d.data.rows import Order, Reading, Rows, Shard, Sources
from fourd4d.data.source import Row, Source, row_name


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
    limit: FailureLimit | None = None,
) -> Stream:
    """Batches of supervised examples; ``shape.rows`` rows each, for this process.

    The order depends on ``seed`` and the number of processes only. In one epoch each row of the
    data goes to one process, once. With several weighted sources an epoch has as many rows as the
    sources together; light ones are cut, heavy ones repeated.

    Args:
      epochs: None for an endless stream.
      imagery: False trains on text alone, from the same data.
      pack: fill rows with several examples. How many batches an epoch then gives depends on the
        examples, so several processes need an endless stream.
      remainder: what becomes of the last rows that fill no batch; ``pad`` completes it with empty
        rows. Every process yields the same number of batches either way. (Ignored with ``pack``,
        which pads.)
      limit: how many rows may be left out because they cannot be read, raise, or exceed ``shape``.

    Raises:
      InputError: while iterating, too many such rows; it names file and line of the last.
    """
    shard, reading = shard or Shard(), reading or Reading()
    if pack and shard.count > 1 and epochs is not None:
        raise InputError("dift_pipeline", "packing with several processes and counted epochs",
                         "Use epochs=None and stop by steps, or pack=False")
    make = _Sized(PrepareExample(processor, imagery, assumed_fps, _cache(reading)), shape)
    rows = Rows(Order(source, seed, epochs, shuffle), make, 1 if pack else shape.rows, shard,
                reading, limit or FailureLimit(), shape.rows)
    if pack:
        return Stream(PackedBatches(rows, shape, processor.protocol).__iter__, reading)
    return Stream(Batches(rows, remainder, functools.partial(
        _collated, shape=shape, protocol=processor.protocol)).__iter__, reading)


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
    limit: FailureLimit | None = None,
    shape: BatchShape | None = None,
    pairs: bool = False,
) -> Stream:
    """Groups of ``prompts`` prompts for this process, each group a tuple of ``Prompt``.

    As ``dift_pipeline``; with ``remainder="pad"`` the last group may be shorter, even empty.

    Args:
      shape: prompts that exceed its rows are left out; by default none do.
      pairs: prompts are those of ``PairSource``, two and two; a row of which one cannot be used is
        left out with its counterpart.

    Raises:
      InputError: an odd number of prompts in pairs, or none are; else as ``dift_pipeline``.
    """
    reading = reading or Reading()
    make = _Fitting(PreparePrompt(processor, assumed_fps, _cache(reading)), shape)
    if pairs:
        if prompts % 2:
            raise InputError("config.prompts", f"{prompts} prompts for a process, in pairs",
                             "Give each process an even number")
        prompts //= 2
        paired = ([(PairSource(part), weight) for part, weight in source]
                  if isinstance(source, Sequence) else PairSource(source))
        rows = Rows(Order(paired, seed, epochs, shuffle), _Both(make), prompts, shard or Shard(),
                    reading, limit or FailureLimit(), prompts)
        return Stream(Batches(rows, remainder, unpaired).__iter__, reading)
    rows = Rows(Order(source, seed, epochs, shuffle), make, prompts, shard or Shard(), reading,
                limit or FailureLimit(), prompts)
    return Stream(Batches(rows, remainder, tuple).__iter__, reading)


def measure(source: Source, processor: Preparer, rows: int, *, imagery: bool = True,
            examples: int | None = None, round_to: int = 1, assumed_fps: float | None = None,
            limit: FailureLimit | None = None) -> BatchShape:
    """The shape that holds the rows of ``source``, from their texts and image headers.

    Args:
      examples: how many rows to look at, spread evenly; by default all.
      limit: how many of these may fail; they are left out, as the pipelines leave them out.

    Raises:
      InputError: too many of them do; the message is the last one's.
    """
    sizes = sizes_of(source, lambda row: row_size(row, processor, imagery, assumed_fps), examples,
                     limit)
    return shape_of_sizes(sizes, rows, round_to)


def sizes_of(source: Source, size: Callable[[Row], Size], count: int | None = None,
             limit: FailureLimit | None = None) -> list[Size]:
    """``size`` of ``count`` rows spread evenly (all by default); those that fail are left out.

    Raises InputError as ``measure`` does.
    """
    total, limit = len(source), limit or FailureLimit()
    chosen = np.unique(np.linspace(0, total - 1, min(count or total, total)).round().astype(int))
    sizes: list[Size] = []
    failures: list[Failed] = []
    for index in chosen.tolist():
        where = "row"
        try:
            where = row_name(source, index)
            sizes.append(size(source[index]))
        except BaseException as error:  # Whatever lies in one row.
            failures.append(failed_row(error, where))
            limit.check(len(failures), len(chosen), failures[-1])
    if failures:
        logging.warning("%d of %d rows looked at cannot be used; the first is %s: %s",
                        len(failures), len(chosen), failures[0].where, failures[0].reason)
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


def _collated(pairs: Sequence[tuple[Example, str]], shape: BatchShape,
              protocol: ProtocolSpec) -> Batch:
    return collate([example for example, _ in pairs], shape, protocol,
                   names=[name for _, name in pairs])


@dataclasses.dataclass(frozen=True)
class _Sized:
    """Row → (Example that fits a row of the batch, its name)."""

    prepare: PrepareExample
    shape: BatchShape

    def __call__(self, row: Row) -> tuple[Example, str]:
        example = self.prepare(row)
        check_size(Size.of(example), self.shape, row.where)
        return example, row.where


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """Row → Prompt that fits a row of the batch."""

    prepare: PreparePrompt
    shape: BatchShape | None

    def __call__(self, row: Row) -> Prompt:
        prompt = self.prepare(row)
        if self.shape is not None:
            check_size(Size.of(prompt.example), self.shape, row.where)
        return prompt


@dataclasses.dataclass(frozen=True)
class _Both:
    """RowPair → what ``make`` gives of its rows."""

    make: _Fitting

    def __call__(self, pair: Any) -> tuple[Prompt, Prompt]:
        first, second = pair.rows
        return self.make(first), self.make(second)
