"""The evaluation loop: prompts in like-shaped batches, decoding, one scored record per item.

Questions about one video come one after the other. Its frames are read, cut and encoded once
(``vision_store``), and where several prompts begin alike, as they do wherever the video stands
before the question, what they share is read once and kept once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fourd4d.core.batch import Batch, BatchShape, VisionInput
from fourd4d.core.errors import InputError, asks_to_stop
from fourd4d.core.example import Example
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import Sample
from fourd4d.data.collate import collate
from fourd4d.data.source import Source
from fourd4d.eval import heatmaps
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record, by_video, item_seed
from fourd4d.eval.prompts import (
    Prepared,
    Shape,
    ahead,
    batches,
    cut,
    piece,
    prepare,
    prompts_a_head,
    reason_of,
    shape_of,
)
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.eval.statistics import tally, tally_by_type
from fourd4d.eval.vision_store import VisionStore, vision_input
from fourd4d.parallel import use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.parallel.memory import Room, is_out_of_memory
from fourd4d.processing.answers import lenient_answer, parse_answer
from fourd4d.processing.latent_spans import marked
from fourd4d.rewards import score
from fourd4d.sampling import Intervention, SamplingSpec, generate, read_head, rollout, texts


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
    each = 1 if spec.slots else prompts_a_head(
        items, spec, answering.split, lambda item: prepare(source, item, subject, spec, store))
    prepared = ahead(lambda item: prepare(source, item, subject, spec, store, each), todo, spec)
    for group in batches(prepared, spec):
        first = group[0][0]
        yield from _logged(log, [_failed(first, first.reason)] if first.reason
                           else answering(group))


def _logged(log: ItemLog, records: Sequence[Record]) -> list[Record]:
    """Records as they are in the log now. One that cannot be written is there as a failure."""
    try:
        log.add(records)
        return list(records)
    except BaseException as error:
        reason = reason_of("writing", error)
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
        self.split = subject.row_split
        for field in ("rows", "slots"):
            if getattr(spec, field) % self.split:
                raise InputError(f"EvalSpec.{field}", f"{getattr(spec, field)} do not divide over "
                                 f"{self.split} devices", "Use a multiple")

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
        except BaseException as error:
            reason = reason_of("decoding", error)
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
            args = *model, batch, jax.vmap(jax.random.key)(seeds), self._sampling
            if self._spec.slots and head is None:
                found = rollout(*args, slots=self._spec.slots, shards=self.split, features=fed,
                                intervene=self._intervene, data=data)
            else:
                args = (*args, 1, self._intervene, data, fed, None, head)
                self._room.check((generate, shape), generate, *args)
                found = generate(*args)
            found = jax.device_get(found)
        order = np.concatenate([rows, np.setdiff1d(np.arange(shape.batch.rows), rows)])
        return features, jax.tree.map(lambda x: x[order], found)

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

    def _check_plain_prompt(self, error: BaseException) -> None:
        """Raises ``error`` where a prompt of a few words and no media cannot be answered either."""
        subject = self._subject
        example = subject.processor.prompt("?", ())
        shape = dataclasses.replace(shape_of(example, subject, self._spec).batch, rows=self.split)
        try:
            batch = self._collated([example], shape, ["plain prompt"])
            with self._using():
                jax.block_until_ready(generate(
                    subject.graphdef, subject.states, batch,
                    jax.vmap(jax.random.key)(np.zeros(self.split, np.uint32)), self._sampling))
        except BaseException as plain:
            if asks_to_stop(plain):
                raise
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
        except BaseException as error:
            return _failed(one, reason_of(stage, error))


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
    about: Record = {}
    try:
        if one.source is not None:
            about = one.source.about(one.item.number)
    except BaseException as error:  # Of an item that cannot even say what it is about.
        reason = f"{reason}; {reason_of('about', error)}"
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
