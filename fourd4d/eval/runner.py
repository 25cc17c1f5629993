"""The evaluation loop: prompts in like-shaped batches, decoding, one scored record per item.

Questions about one video come one after the other. Its frames are read, cut and encoded once
(``vision_store``), and where several prompts begin alike, as they do wherever the video stands
before the question, what they share is read once and kept once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from errno import EDQUOT, ENOSPC
from typing import Any, Final, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fourd4d.core.batch import Batch, BatchShape, VisionInput
from fourd4d.core.errors import DiskFullError, InputError, one_line
from fourd4d.core.example import Example, VisionSlots
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import Sample
from fourd4d.data.collate import Size, bucket, collate
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval import heatmaps
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record, by_video, item_seed
from fourd4d.eval.statistics import tally, tally_by_type
from fourd4d.eval.vision_store import VisionStore, vision_input
from fourd4d.parallel import DEFAULT_RULES, use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.parallel.memory import Room, is_out_of_memory
from fourd4d.processing.answers import lenient_answer, parse_answer
from fourd4d.processing.latent_spans import marked
from fourd4d.processing.processor import Processor
from fourd4d.rewards import score
from fourd4d.sampling import Intervention, SamplingSpec, generate, read_head, texts

_HOW_ONLY = ("rows", "length_step", "slot_step", "lookahead", "workers", "batch_tokens",
             "max_length")
_LOOKED_AT = 8  # Videos sought for one that can be read.
_FINE = 128  # Steps up to which lengths are rounded to single ones.


class AskedBatch:
    """A batch as it was asked, put together only where somebody looks.

    Attributes:
      batch: whole prompts, without the frames themselves.
      features: what the model's encoder made of the frames.
    """

    def __init__(self, batch: Callable[[], Batch], features: Callable[[], Any]):
        self._batch, self._features = batch, features

    @functools.cached_property
    def batch(self) -> Batch:
        return self._batch()

    @functools.cached_property
    def features(self) -> Any:
        return self._features()


Observe = Callable[[Sequence[str], AskedBatch, Rollout], Sequence[Record]]
"""(keys, what was asked, rollout on the host) → fields for each key's record.

Batch, features and rollout may have more rows than there are keys.
"""


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """How items are answered.

    Attributes:
      max_tokens, max_latents, temperature, top_p, imagery: as in ``SamplingSpec``; greedy here.
      seed: of the per-item seeds, which matter when ``temperature`` is above 0.
      assumed_fps: frames a second of frame lists without timestamps; 0 makes those items fail.
      rows: most prompts decoded together, on all devices of this host.
      batch_tokens: most tokens of a batch's prompts, padding included. Prompts too long for it are
        decoded fewer at a time (rows are halved), in the end one by one. That is a matter of their
        own size: answers do not depend on the company.
      max_length: longest prompt, tokens; an item with a longer one fails, and so does one that
        exceeds the model's positions or the memory.
      length_step, slot_step: prompt lengths and frame slots are rounded up to multiples, so that
        few shapes are compiled.
      lookahead: batches' worth of prompts among which alike ones are sought.
      workers: threads that decode and tokenise.
      cache_bytes: of images, of frame slots and of vision features each, kept in the host's memory
        for other questions about the same frames.
    """

    max_tokens: int = 512
    max_latents: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    imagery: bool = True
    seed: int = 0
    assumed_fps: float = 0.0
    rows: int = 16
    length_step: int = 64
    slot_step: int = 4
    lookahead: int = 8
    workers: int = 2
    batch_tokens: int = 131_072
    max_length: int = 32_768
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in (*_HOW_ONLY, "cache_bytes"):
            least = int(name != "cache_bytes")
            if getattr(self, name) < least:
                raise InputError(f"EvalSpec.{name}", f"bad value {getattr(self, name)}",
                                 f"Use {least} or more")

    def answers_json(self) -> dict[str, Any]:
        """The fields that answers depend on."""
        return {k: v for k, v in dataclasses.asdict(self).items()
                if k not in (*_HOW_ONLY, "cache_bytes")}


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
      graphdef, states: ``graphdef, *states = nnx.split(model, …)``, on any devices.
      processor: the one the model was trained with.
      name: for logs and pages.
      mesh: of this host's devices, or None for one device.
      max_positions: M-RoPE ids that the model knows; 0 where that is unknown.
    """

    graphdef: Any
    states: tuple[Any, ...]
    processor: Processor
    name: str = "model"
    mesh: Any = None
    max_positions: int = 0

    @classmethod
    def of(cls, model: nnx.Module, processor: Processor, name: str = "model",
           mesh: Any = None) -> Subject:
        graphdef, state = nnx.split(model)
        return cls(graphdef, (state,), processor, name, mesh)

    def sampling(self, spec: EvalSpec) -> SamplingSpec:
        """The decoding budget and distribution for this tokenizer and protocol."""
        return SamplingSpec.of(
            self.processor.tokenizer, self.processor.protocol, max_tokens=spec.max_tokens,
            max_latents=spec.max_latents, temperature=spec.temperature, top_p=spec.top_p,
            imagery=spec.imagery)


@runtime_checkable
class AskedSource(Protocol):
    """A source that says itself how its rows are asked and what an answer is worth."""

    def example(self, number: int, processor: Processor) -> Example: ...

    def about(self, number: int) -> Record:
        """Fields of the row's record, answered or not."""
        ...

    def score(self, number: int, text: str) -> Record:
        """``about`` and what a response is worth."""
        ...


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
        return Prepared(item, sample, example, _shape(example, subject, spec, each), source=asked,
                        seen=seen, head=_head_key(example, seen))
    except Exception as error:
        return Prepared(item, sample, reason=_reason(stage, error), source=asked)


def _reason(stage: str, error: Exception) -> str:
    """What failed, and why. Raises the error where no item is to blame: the disk is full."""
    if isinstance(error, DiskFullError) or getattr(error, "errno", None) in (ENOSPC, EDQUOT):
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


def run(
    subject: Subject,
    source: Source,
    items: Sequence[Item],
    spec: EvalSpec,
    log: ItemLog,
    *,
    intervene: Intervention | None = None,
    data: Callable[[Sequence[str]], Any] | None = None,
    observe: Observe | None = None,
    maps: MapStore | None = None,
    keep: Collection[str] = (),
    store: VisionStore | None = None,
) -> Iterator[Record]:
    """Answers the items that ``log`` lacks; yields each record once it is in the log.

    Args:
      intervene: what is fed in place of imagined latents, see ``sampling.interventions``.
      data: gives ``intervene`` its arrays for a batch, one row for each of the keys.
      observe: sees every answered batch, and adds fields to its items' records. What it raises
        counts as the batch's failure.
      maps, keep: cosine maps of these items' mental images are stored here.
      store: shares frames and their features with other runs of the same model.
    """
    todo = [item for group in by_video(items) for item in group if item.key not in log.records]
    if not todo:
        return
    store = store or VisionStore(spec.cache_bytes)
    answering = _Answering(subject, spec, intervene, data, observe, maps, keep, store)
    each = _each(items, spec, answering.split, lambda item: prepare(
        source, item, subject, spec, store))
    for group in _batches(_ahead(lambda item: prepare(source, item, subject, spec, store, each),
                                 todo, spec), spec):
        first = group[0][0]
        yield from _logged(log, [_failed(first, first.reason)] if first.reason
                           else answering(group))


def _logged(log: ItemLog, records: Sequence[Record]) -> list[Record]:
    """Records as they are in the log now. One that cannot be written is there as a failure."""
    try:
        log.add(records)
        return list(records)
    except Exception as error:
        reason = _reason("writing", error)
        if len(records) > 1:
            return [one for record in records for one in _logged(log, [record])]
        if records[0]["status"] == "failed":
            raise
        scores = {name: 0.0 for name in records[0] if name.endswith("score")}
        failed = records[0] | _UNANSWERED | scores | {"status": "failed", "reason": reason}
        return _logged(log, [failed])


class _Answering:
    """Answers a group of prepared items; a guilty one fails alone.

    A group is a list of lanes: of each, the items' prompts begin alike.

    A batch that fails is tried again in halves. Where memory ran out they have half the rows, down
    to one per device; else the same shape, and so the same program. What fails with an item alone
    is the item's failure, unless a plain prompt fails as well: then nothing can be answered here,
    and the error is the run's.
    """

    def __init__(self, subject: Subject, spec: EvalSpec, intervene: Intervention | None,
                 data: Callable[[Sequence[str]], Any] | None, observe: Observe | None,
                 maps: MapStore | None, keep: Collection[str], store: VisionStore):
        self._subject, self._spec, self._sampling = subject, spec, subject.sampling(spec)
        self._intervene, self._data, self._maps, self._keep = intervene, data, maps, keep
        self._observe, self._store = observe, store
        self._room = Room(jax.local_devices()[:1] if subject.mesh is None
                          else list(subject.mesh.devices.flat))
        self.split = _row_split(subject)
        if spec.rows % self.split:
            raise InputError("EvalSpec.rows", f"{spec.rows} do not divide over {self.split} "
                             "devices", "Use a multiple")

    def __call__(self, lanes: Sequence[Sequence[Prepared]]) -> list[Record]:
        shape = lanes[0][0].shape
        assert shape is not None
        return self._answer(lanes, shape)

    def _answer(self, lanes: Sequence[Sequence[Prepared]], shape: Shape) -> list[Record]:
        items = [one for lane in lanes for one in lane]
        try:
            features, rollout = self._generate(lanes, shape)
            asked = AskedBatch(lambda: self._whole(items, shape),
                               lambda: self._rows(features, shape.batch.rows))
            more = [{} for _ in items] if self._observe is None else self._observe(
                [one.item.key for one in items], asked, rollout)
        except Exception as error:
            reason = _reason("decoding", error)
            fewer = shape.fewer(self.split) if is_out_of_memory(error) else shape
            if len(items) == 1 and fewer == shape:
                if not is_out_of_memory(error):
                    self._check_plain_prompt(error)
                return [_failed(items[0], reason)]
        else:
            return [self._record(one, row, asked, rollout) | more[row]
                    for row, one in enumerate(items)]
        # Out of the handler: what it holds of the failed try is freed.
        return [record for part in _parts(lanes, shape, fewer)
                for record in self._answer(part, fewer)]

    def _collated(self, examples: Sequence[Example], shape: BatchShape, names: Sequence[str]
                 ) -> Batch:
        """Prompts, or parts of them, without their frames."""
        return self._placed(collate(
            examples, dataclasses.replace(shape, slots=0), self._subject.processor.protocol,
            names=[f"item {name!r}" for name in names]))

    def _whole(self, items: Sequence[Prepared], shape: Shape) -> Batch:
        length = shape.batch.length + (shape.head.length if shape.head else 0)
        return self._collated(
            [piece(one.example) for one in items if one.example is not None],
            dataclasses.replace(shape.vision, rows=shape.batch.rows, length=length),
            [one.item.key for one in items])

    def _placed(self, rows: Any) -> Any:
        mesh = self._subject.mesh
        return rows if mesh is None else jax.device_put(rows, batch_shardings(rows, mesh))

    def _using(self) -> contextlib.AbstractContextManager:
        mesh = self._subject.mesh
        return contextlib.nullcontext() if mesh is None else use(mesh)

    def _generate(self, lanes: Sequence[Sequence[Prepared]], shape: Shape
                  ) -> tuple[list[np.ndarray], Rollout]:
        """Features of each item's frames, and the rollout with the items' rows first."""
        subject, items = self._subject, [one for lane in lanes for one in lane]
        model = subject.graphdef, subject.states
        rows = np.array([number * shape.each + place for number, lane in enumerate(lanes)
                         for place in range(len(lane))])
        names = [one.item.key for one in items]
        examples = [one.example for one in items if one.example is not None]
        with self._using():
            features, head = self._features(items, shape), None
            if shape.head is None:
                batch = self._collated([piece(example) for example in examples], shape.batch, names)
                fed = self._rows(features, shape.batch.rows)
            else:
                starts = np.cumsum([0, *map(len, lanes[:-1])])
                first = self._collated([piece(examples[at], None, cut(examples[at]))
                                       for at in starts], shape.head, [names[at] for at in starts])
                args = (*model, first, self._rows([features[at] for at in starts],
                                                  shape.head.rows))
                self._room.check((read_head, shape), read_head, *args)
                head, fed = read_head(*args), None
                tails = [piece(examples[0], 0, 0)] * shape.batch.rows
                called = ["padding"] * shape.batch.rows
                for row, example, name in zip(rows, examples, names, strict=True):
                    tails[row], called[row] = piece(example, cut(example)), name
                batch = self._collated(tails, shape.batch, called)
            seeds = np.zeros(shape.batch.rows, np.uint32)
            seeds[rows] = [item_seed(name, self._spec.seed) for name in names]
            data = None if self._data is None else jax.tree.map(
                lambda x: _spread(x, rows, shape.batch.rows), self._data(names))
            args = (*model, batch, jax.vmap(jax.random.key)(seeds), self._sampling, 1,
                    self._intervene, data, fed, None, head)
            self._room.check((generate, shape), generate, *args)
            rollout = jax.device_get(generate(*args))
        order = np.concatenate([rows, np.setdiff1d(np.arange(shape.batch.rows), rows)])
        return features, jax.tree.map(lambda x: x[order], rollout)

    def _features(self, items: Sequence[Prepared], shape: Shape) -> list[np.ndarray]:
        """What the model's encoder makes of each item's frames, those of others not asked anew.

        As many videos as devices at a time, so that no video's features depend on another.
        """
        size, subject, kept = shape.vision, self._subject, self._store.features
        keys = {(one.seen, size.slots, size.windows): one for one in items}
        found = {key: kept.find(key) for key in keys}
        missing = [key for key in keys if found[key] is None]
        for start in range(0, len(missing), self.split):
            some = missing[start : start + self.split]
            slots = [example.slots for key in some if (example := keys[key].example) is not None]
            vision = self._placed(vision_input(slots, self.split, size.slots, size.windows))
            args = subject.graphdef, subject.states, vision
            self._room.check((encode, size.slots, size.windows), encode, *args)
            for key, value in zip(some, np.asarray(jax.device_get(encode(*args))), strict=False):
                found[key] = kept.get(key, lambda value=value: value.copy())
        return [value for one in items
                if (value := found[one.seen, size.slots, size.windows]) is not None]

    def _rows(self, features: Sequence[np.ndarray], rows: int) -> Any:
        """Features of a batch, rows of padding included."""
        empty = np.zeros_like(features[0])
        return self._placed(np.stack([*features, *[empty] * (rows - len(features))]))

    def _check_plain_prompt(self, error: Exception) -> None:
        """Raises ``error`` where a prompt of a few words and no media cannot be answered either."""
        subject = self._subject
        example = subject.processor.prompt("?", ())
        shape = dataclasses.replace(_shape(example, subject, self._spec).batch, rows=self.split)
        try:
            batch = self._collated([example], shape, ["plain prompt"])
            with self._using():
                jax.block_until_ready(generate(
                    subject.graphdef, subject.states, batch,
                    jax.vmap(jax.random.key)(np.zeros(self.split, np.uint32)), self._sampling))
        except Exception:
            raise error from None

    def _record(self, one: Prepared, row: int, asked: AskedBatch, rollout: Rollout) -> Record:
        stage = "heat maps"
        try:
            if self._maps is not None and one.item.key in self._keep:
                _store_maps(self._subject, asked.features, one, row, rollout, self._maps)
            stage = "text"
            alone = jax.tree.map(lambda x: x[row : row + 1], rollout)
            (text,) = texts(alone, self._subject.processor.tokenizer, self._sampling)
            stage = "scoring"
            return _scored(one, text, alone, self._sampling, self._spec)
        except Exception as error:
            return _failed(one, _reason(stage, error))


def evaluate(
    subject: Subject, source: Source, items: Sequence[Item], spec: EvalSpec, **options: Any
) -> Iterator[tuple[str, float | int]]:
    """(name, value) of the summary over ``items``, for a trainer to log; nothing is written.

    Per type, names are ``accuracy/<type>``. ``options`` are those of ``run``.
    """
    log = ItemLog(None, {})
    for _ in run(subject, source, items, spec, log, **options):
        pass
    records = [log.records[item.key] for item in items]
    yield from tally(records).summary().items()
    for kind, part in tally_by_type(records).items():
        yield f"accuracy/{kind or 'untyped'}", part.summary()["accuracy"]


def _ahead(read: Callable[[Item], Prepared], items: Sequence[Item], spec: EvalSpec
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


def _row_split(subject: Subject) -> int:
    """Devices over which the rows of a batch are split."""
    if subject.mesh is None:
        return 1
    sizes = dict(subject.mesh.shape)
    return math.prod(sizes.get(axis, 1) for axis in DEFAULT_RULES.mesh_axes("batch", True))


def _shape(example: Example, subject: Subject, spec: EvalSpec, each: int = 1) -> Shape:
    """The shape of batches of such examples: as many rows as the budget of tokens allows."""
    size, protocol, split = Size.of(example), subject.processor.protocol, _row_split(subject)
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


def _each(items: Sequence[Item], spec: EvalSpec, split: int, read: Callable[[Item], Prepared]
          ) -> int:
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


def _parts(lanes: Sequence[Sequence[Prepared]], shape: Shape, fewer: Shape
           ) -> list[Sequence[Sequence[Prepared]]]:
    """The lanes in batches of ``fewer``; in halves where that is the shape of the failed one."""
    if fewer != shape:
        each, rows = fewer.each, fewer.vision.rows
        lanes = [lane[at : at + each] for lane in lanes for at in range(0, len(lane), each)]
    elif len(lanes) > 1:
        rows = -(-len(lanes) // 2)
    else:
        half = -(-len(lanes[0]) // 2)
        return [[lanes[0][:half]], [lanes[0][half:]]]
    return [lanes[at : at + rows] for at in range(0, len(lanes), rows)]


def _batches(prepared: Iterator[Prepared], spec: EvalSpec) -> Iterator[list[list[Prepared]]]:
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


def _spread(x: Any, rows: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows: those of ``x`` at ``rows``, others of zeros."""
    x = np.asarray(x)
    wide = np.zeros((count, *x.shape[1:]), x.dtype)
    wide[rows] = x
    return wide


@functools.partial(jax.jit, static_argnums=0)
def encode(graphdef: Any, states: tuple[Any, ...], vision: VisionInput
           ) -> Float[Array, "B F U E"]:
    """The model's own vision features of a batch."""
    return nnx.merge(graphdef, *states).encode(vision)


def _store_maps(subject: Subject, features: Any, one: Prepared, row: int, rollout: Rollout,
                maps: MapStore) -> None:
    assert one.example is not None
    fed = int(rollout.latent_index[row].max()) + 1
    maps.save(one.item.key, heatmaps.mental_images(
        np.asarray(rollout.latents[row, :fed]), np.asarray(features[row]), one.example,
        subject.processor.protocol))


def _failed(one: Prepared, reason: str) -> Record:
    about = {} if one.source is None else one.source.about(one.item.number)
    return _record(one.item, one.sample) | about | {"status": "failed", "reason": reason}


_UNANSWERED: Final[Record] = {
    "status": "answered", "reason": "", "chosen": None, "correct": False, "lenient": None,
    "lenient_correct": False, "well_formed": False, "truncated": False, "blocks": 0, "tokens": 0,
    "response": "",
}


def _record(item: Item, sample: Sample) -> Record:
    return {
        "key": item.key, "number": item.number, "kind": item.kind, "video_id": sample.video_id,
        "options": item.options, "answer": sample.answer, **_UNANSWERED,
        **({"pair": sample.pair} if sample.pair else {}),
    }


def _scored(one: Prepared, text: str, rollout: Rollout, sampling: SamplingSpec, spec: EvalSpec
            ) -> Record:
    """The record of a response; ``rollout`` has its row alone."""
    sample = one.sample
    parts = score(sample, text)
    if one.source is not None:
        scored = one.source.score(one.item.number, text)
    else:
        lenient = lenient_answer(text, sample.options)
        scored = {"chosen": parse_answer(text, sample.options),
                  "correct": parts["answer"] == 1.0, "lenient": lenient,
                  "lenient_correct": lenient == sample.answer}
    starts = (rollout.tokens == sampling.latent_start) & rollout.sampled
    record = _record(one.item, sample) | scored | {
        "well_formed": parts["format"] == 1.0,
        "truncated": bool(rollout.truncated[0]),
        "blocks": int(starts.sum()),
        "tokens": int(rollout.mask.sum()),
        "response": marked(text),
    }
    if spec.temperature > 0:
        record["seed"] = item_seed(one.item.key, spec.seed)
    return record
