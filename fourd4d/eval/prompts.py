"""Prompts of items: read, tokenised, and put into batches of like shape.

Where several prompts begin alike, as they do wherever the video stands before the question, a batch
has their heads once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError, asks_to_stop, one_line
from fourd4d.core.example import Example, VisionSlots
from fourd4d.core.files import is_disk_full
from fourd4d.core.sample import Sample
from fourd4d.data.collate import Size, bucket
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval.items import Item, by_video
from fourd4d.eval.spec import AskedSource, EvalSpec, Subject
from fourd4d.eval.vision_store import VisionStore
from fourd4d.processing.processor import Processor

_LOOKED_AT = 8  # Videos sought for one that can be read.
_FINE = 128  # Steps up to which lengths are rounded to single ones.


@dataclasses.dataclass(frozen=True)
class Shape:
    """Static sizes of a batch.

    Attributes:
      batch: of the prompts, or of what stands behind their heads.
      head: of what prompts begin with, a row for ``each`` consecutive rows of ``batch``; None
        where every prompt is read by itself.
    """

    batch: BatchShape
    head: BatchShape | None = None

    @property
    def vision(self) -> BatchShape:
        """Of the part that shows frames."""
        return self.head or self.batch

    @property
    def each(self) -> int:
        return self.batch.rows // self.head.rows if self.head else 1

    def fewer(self, split: int) -> Shape:
        """With half the rows, rounded up to a multiple of ``split``; heads first."""
        rows, each = self.vision.rows, self.each
        if rows > split:
            rows = -(-rows // (2 * split)) * split
        else:
            each = -(-each // 2)
        return self.of(rows, each)

    def of(self, rows: int, each: int) -> Shape:
        """With ``rows`` heads and as many prompts of ``each``."""
        head = None if self.head is None else dataclasses.replace(self.head, rows=rows)
        return Shape(dataclasses.replace(self.batch, rows=rows * each), head)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An item ready to be answered, or where and why that failed.

    Attributes:
      shape: of a batch of such items: their rows, lengths and slots rounded up.
      reason: what failed, and why; empty for nothing.
      source: scores it, where it does so itself.
      seen: tells its frames from others; empty of none.
      head: tells what its prompt begins with, up to the last frame, from others.
    """

    item: Item
    sample: Sample
    example: Example | None = None
    shape: Shape | None = None
    reason: str = ""
    source: AskedSource | None = None
    seen: str = ""
    head: str = ""


def prepare(source: Source, item: Item, subject: Subject, spec: EvalSpec,
            store: VisionStore | None = None, each: int = 1) -> Prepared:
    """Reads, decodes and tokenises one item. What that raises becomes a reason.

    Args:
      store: shares frames with other items.
      each: prompts that one head is for.
    """
    sample, stage = Sample(item.key, ""), "reading"
    asked = source if isinstance(source, AskedSource) else None
    if item.problem:
        return Prepared(item, sample, reason=item.problem, source=asked)
    store, processor = store or VisionStore(0), subject.processor
    processor = Processor(processor.tokenizer, processor.protocol, store.cut)
    try:
        row = source[item.number]
        sample, stage = row.sample, "media"
        if asked is not None:
            example = asked.example(item.number, processor)
        else:
            def media() -> Any:
                return row_media(row, processor.protocol, assumed_fps=spec.assumed_fps or None,
                                 with_overlays=False, cache=store.images)[0]

            file = not sample.frames and row.record is None
            shown = store.videos.get((row.root, sample.video), media) if file else media()
            stage = "prompt"
            example = processor.prompt(sample.text_input, shown)
        stage = "prompt"
        _check_length(example, subject, spec)
        seen = store.key(example.slots)
        return Prepared(item, sample, example, shape_of(example, subject, spec, each), source=asked,
                        seen=seen, head=_head_key(example, seen))
    except BaseException as error:
        return Prepared(item, sample, reason=reason_of(stage, error), source=asked)


def reason_of(stage: str, error: BaseException) -> str:
    """What failed, and why.

    Raises the error where no item is to blame: the run is to stop, or the disk is full.
    """
    if asks_to_stop(error) or is_disk_full(error):
        raise error
    return f"{stage}: {one_line(error)}"


def _check_length(example: Example, subject: Subject, spec: EvalSpec) -> None:
    if example.length > spec.max_length:
        raise InputError("prompt", f"{example.length} tokens are more than {spec.max_length}",
                         "Shorten it, or raise --config.eval.max_length")
    last = int(example.positions.max()) + spec.max_tokens
    if subject.max_positions and last >= subject.max_positions:
        raise InputError("prompt", f"with {spec.max_tokens} tokens of response it reaches position "
                         f"{last}, the model knows {subject.max_positions}", "Shorten it")


def ahead(read: Callable[[Item], Prepared], items: Sequence[Item], spec: EvalSpec
           ) -> Iterator[Prepared]:
    """``map(read, items)`` on threads, a bounded number of items ahead, in order."""
    with ThreadPoolExecutor(spec.workers) as pool:
        waiting: deque[Future[Prepared]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > spec.rows + spec.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def shape_of(example: Example, subject: Subject, spec: EvalSpec, each: int = 1) -> Shape:
    """The shape of batches of such examples: as many rows as the budget of tokens allows."""
    size, protocol, split = Size.of(example), subject.processor.protocol, subject.row_split
    slots, windows = bucket(size.slots, spec.slot_step, _FINE), bucket(size.windows)
    encoded = slots * windows * protocol.window_patches // protocol.merge**2
    at = cut(example) if each > 1 and protocol.reader is None else 0

    def rows(length: int, slots: int, fine: int) -> BatchShape:
        return BatchShape(spec.rows, bucket(length, spec.length_step, fine), slots, windows,
                          size.overlays)

    if at:  # Tails are short: few shapes of them keep a video's questions together.
        shape = Shape(rows(size.length - at, 0, 1), rows(at, slots, _FINE))
        shape = shape.of(max(spec.rows // each // split, 1) * split, each)
    else:
        shape = Shape(rows(size.length, slots, _FINE))
    while max(shape.batch.rows * shape.batch.length,
              shape.vision.rows * max(shape.vision.length, encoded)) > spec.batch_tokens:
        fewer = shape.fewer(split)
        if fewer == shape:
            break
        shape = fewer
    return shape


def cut(example: Example) -> int:
    """Tokens up to the last of a frame; 0 without any."""
    return int(np.max(np.flatnonzero(example.vision_slot >= 0), initial=-1)) + 1


def piece(example: Example, start: int | None = None, stop: int | None = None) -> Example:
    """Some of a prompt's tokens, without its frames."""
    at, slots = slice(start, stop), example.slots
    sees, speaks = example.reader_sees, example.reader_speaks
    return dataclasses.replace(
        example, tokens=example.tokens[at], positions=example.positions[:, at],
        text_weights=example.text_weights[at], vision_slot=example.vision_slot[at],
        vision_offset=example.vision_offset[at], latent_index=example.latent_index[at],
        slots=VisionSlots(slots.patches[:0], slots.coords[:0], slots.mask[:0]),
        reader_sees=None if sees is None else sees[at],
        reader_speaks=None if speaks is None else speaks[at])


def _head_key(example: Example, seen: str) -> str:
    head = piece(example, None, cut(example))
    return f"{hashlib.blake2b(head.tokens.tobytes() + head.positions.tobytes()).hexdigest()} {seen}"


def prompts_a_head(items: Sequence[Item], spec: EvalSpec, split: int,
                   read: Callable[[Item], Prepared]) -> int:
    """How many prompts one head is for: by the questions that a video has, 1 where they differ.

    The same for whatever part of the items is still to be answered: responses keep to the same
    arithmetic, which rounds otherwise than that of whole prompts. Reading a head costs as much as
    eight rows of question and response: so rows that few questions leave empty are paid for.
    """
    if spec.rows // split < 2:
        return 1
    groups = [[item for item in group if not item.problem] for group in by_video(items)]
    pairs = ([read(item) for item in group[:2]] for group in groups if len(group) > 1)
    one, other = next((pair for pair in itertools.islice(pairs, _LOOKED_AT)
                       if not any(one.reason for one in pair)), (None, None))
    if one is None or other is None or not one.seen or one.head != other.head:
        return 1

    def cost(each: int) -> float:
        return sum(-(-len(group) // each) for group in groups) * (1 + each / 8)

    return min(range(1, spec.rows // split + 1), key=cost)


def batches(prepared: Iterator[Prepared], spec: EvalSpec) -> Iterator[list[list[Prepared]]]:
    """Lanes of items of one shape, as many as it has heads at most; failed items alone, at once."""
    waiting: dict[Shape, list[list[Prepared]]] = {}
    held = 0
    for one in prepared:
        if one.shape is None:
            yield [[one]]
            continue
        shape, lanes = one.shape, waiting.setdefault(one.shape, [])
        if lanes and lanes[-1][0].head == one.head and len(lanes[-1]) < shape.each:
            lanes[-1].append(one)
        else:
            lanes.append([one])
        held += 1
        rows = shape.vision.rows
        full = shape if len(lanes) > rows or (
            len(lanes) == rows and len(lanes[-1]) == shape.each) else None
        if full is None and held >= spec.rows * spec.lookahead:
            full = max(waiting, key=lambda k: sum(map(len, waiting[k])))
        if full is not None:
            lanes, rows = waiting.pop(full), full.vision.rows
            if lanes[rows:]:
                waiting[full] = lanes[rows:]
            held -= sum(map(len, lanes[:rows]))
            yield lanes[:rows]
    yield from waiting.values()
