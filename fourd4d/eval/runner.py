"""The evaluation loop: prompts in like-shaped batches, decoding, one scored record per item."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fourd4d.core.batch import Batch, BatchShape, VisionInput
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.example import Example
from fourd4d.core.files import is_disk_full
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import IMAGE_MARK, Sample
from fourd4d.data.collate import Size, collate, shape_of_sizes
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval import heatmaps
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record, item_seed
from fourd4d.eval.statistics import tally, tally_by_type
from fourd4d.parallel import use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.processing.answers import lenient_answer, parse_answer
from fourd4d.processing.processor import Processor
from fourd4d.rewards import score
from fourd4d.sampling import Intervention, SamplingSpec, generate, texts

_BLOCK = re.compile(r"<\|latent_start\|>(?:<\|latent_pad\|>)*(?:<\|latent_end\|>)?")
_HOW_ONLY = ("rows", "length_step", "slot_step", "lookahead", "workers", "batch_tokens",
             "max_length")


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """How items are answered.

    Attributes:
      max_tokens, max_latents, temperature, top_p, imagery: as in ``SamplingSpec``; greedy here.
      seed: of the per-item seeds, which matter when ``temperature`` is above 0.
      assumed_fps: frames a second of frame lists without timestamps; 0 makes those items fail.
      rows: prompts decoded together, on all devices of this host.
      length_step, slot_step: prompt lengths and frame slots are rounded up to multiples, so that
        few shapes are compiled.
      lookahead: batches' worth of prompts among which alike ones are sought.
      workers: threads that decode and tokenise.
      batch_tokens: most prompt tokens of a batch, padding included; long prompts come fewer
        together.
      max_length: longest prompt, tokens; an item with a longer one fails.
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

    def __post_init__(self) -> None:
        for name in _HOW_ONLY:
            if getattr(self, name) < 1:
                raise InputError(f"EvalSpec.{name}", f"bad value {getattr(self, name)}",
                                 "Use 1 or more")

    def answers_json(self) -> dict[str, Any]:
        """The fields that answers depend on."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _HOW_ONLY}


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
      graphdef, states: ``graphdef, *states = nnx.split(model, …)``, on any devices.
      processor: the one the model was trained with.
      name: for logs and pages.
      mesh: of this host's devices, or None for one device.
    """

    graphdef: Any
    states: tuple[Any, ...]
    processor: Processor
    name: str = "model"
    mesh: Any = None

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


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An item ready to be answered, or the reason why it cannot be."""

    item: Item
    sample: Sample | None = None
    example: Example | None = None
    reason: str = ""


def prepare(source: Source, item: Item, processor: Processor, spec: EvalSpec) -> Prepared:
    """Read, decode and tokenise one item.

    Whatever is raised on the way becomes the item's reason: one item never ends a run.
    """
    if item.problem:
        return Prepared(item, reason=item.problem)
    sample, stage = None, "reading"
    try:
        row = source[item.number]
        sample, stage = row.sample, "media"
        media, _ = row_media(row, processor.protocol, assumed_fps=spec.assumed_fps or None,
                             with_overlays=False)
        stage = "prompt"
        example = processor.prompt(sample.text_input, media)
        if example.length > spec.max_length:
            raise InputError(row.where, f"the prompt has {example.length} tokens, more than "
                             f"{spec.max_length}", "Raise --config.eval.max_length")
    except Exception as error:
        return Prepared(item, sample, reason=f"{stage}: {one_line(error)}")
    return Prepared(item, sample, example)


def run(
    subject: Subject,
    source: Source,
    items: Sequence[Item],
    spec: EvalSpec,
    log: ItemLog,
    *,
    intervene: Intervention | None = None,
    data: Callable[[Sequence[str]], Any] | None = None,
    maps: MapStore | None = None,
    keep: Collection[str] = (),
) -> Iterator[Record]:
    """Answers the items that ``log`` lacks; yields each record once it is in the log.

    Args:
      intervene: what is fed in place of imagined latents, see ``sampling.interventions``.
      data: gives ``intervene`` its arrays for a batch, from the keys of its rows.
      maps, keep: cosine maps of these items' mental images are stored here.
    """
    sampling = subject.sampling(spec)
    todo = [item for item in items if item.key not in log.records]

    def read(item: Item) -> Prepared:
        return prepare(source, item, subject.processor, spec)

    def decoded(group: Sequence[Prepared], rows: int) -> tuple[Rollout, Any]:
        batch = _collate(group, rows, spec, subject)
        keys = [p.item.key for p in group]
        with contextlib.nullcontext() if subject.mesh is None else use(subject.mesh):
            features = encode(subject.graphdef, subject.states, batch.vision)
            return jax.device_get(generate(
                subject.graphdef, subject.states, batch, _keys(keys, rows, spec), sampling, 1,
                intervene, None if data is None else data(keys), features)), features

    def answered(group: Sequence[Prepared], rows: int) -> Iterator[Record]:
        try:
            rollout, features = decoded(group, rows)
        except Exception as error:
            if is_disk_full(error):
                raise
            if len(group) == 1 and rows <= least:
                yield _failed(group[0], f"decoding: {one_line(error)}")
                return
            # Halves find the guilty item, and ask less memory; rows do not depend on their company.
            half = max(len(group) // 2, 1)
            for part in (group[:half], group[half:]):
                if part:
                    yield from answered(part, max(least, rows // 2))
            return
        for row, one in enumerate(group):
            yield _scored(one, row, rollout, features, subject, sampling, spec,
                          maps if one.item.key in keep else None)

    least = _least_rows(spec, subject)
    for group in _batches(_ahead(read, todo, spec), spec, least):
        if group[0].example is None:
            records = [_failed(group[0], group[0].reason)]
        else:
            length = _bucket(group[0].example, spec)[0]
            records = list(answered(group, _rows(length, spec, least)))
        log.add(records)
        yield from records


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


def _round(value: int, step: int) -> int:
    return -(-value // step) * step


def _bucket(example: Example, spec: EvalSpec) -> tuple[int, int, int]:
    size = Size.of(example)
    return _round(size.length, spec.length_step), _round(size.slots, spec.slot_step), size.windows


def _least_rows(spec: EvalSpec, subject: Subject) -> int:
    """The smallest number of rows that the devices of the mesh can share."""
    devices = 1 if subject.mesh is None else subject.mesh.size
    return spec.rows if spec.rows % devices else min(devices, spec.rows)


def _rows(length: int, spec: EvalSpec, least: int) -> int:
    """Rows of a batch of prompts: ``spec.rows``, halved until their tokens are within budget."""
    rows = spec.rows
    while rows * length > spec.batch_tokens and rows % 2 == 0 and rows // 2 >= least:
        rows //= 2
    return rows


def _batches(prepared: Iterator[Prepared], spec: EvalSpec, least: int
             ) -> Iterator[list[Prepared]]:
    """Up to ``_rows`` items of one bucket each; failed items alone, at once."""
    buckets: dict[tuple[int, int, int], list[Prepared]] = {}
    held = 0
    for one in prepared:
        if one.example is None:
            yield [one]
            continue
        key = _bucket(one.example, spec)
        buckets.setdefault(key, []).append(one)
        held += 1
        full = key if len(buckets[key]) == _rows(key[0], spec, least) else None
        if full is None and held >= spec.rows * spec.lookahead:
            full = max(buckets, key=lambda k: len(buckets[k]))
        if full is not None:
            group = buckets.pop(full)
            held -= len(group)
            yield group
    yield from buckets.values()


def _collate(group: Sequence[Prepared], rows: int, spec: EvalSpec, subject: Subject) -> Batch:
    examples = [p.example for p in group if p.example is not None]
    shape = shape_of_sizes([Size.of(e) for e in examples], rows, spec.length_step)
    slots = _round(shape.slots, spec.slot_step)
    shape = BatchShape(shape.rows, shape.length, slots, shape.windows, shape.overlays)
    batch = collate(examples, shape, subject.processor.protocol,
                    names=[f"item {p.item.key!r}" for p in group])
    if subject.mesh is None:
        return batch
    return jax.device_put(batch, batch_shardings(batch, subject.mesh))


def _keys(keys: Sequence[str], rows: int, spec: EvalSpec) -> Any:
    """One random key per row of the batch, rows of padding included."""
    seeds = [item_seed(key, spec.seed) for key in keys] + [0] * (rows - len(keys))
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


@functools.partial(jax.jit, static_argnums=0)
def encode(graphdef: Any, states: tuple[Any, ...], vision: VisionInput
           ) -> Float[Array, "B F U D"]:
    """The model's own vision features of a batch."""
    return nnx.merge(graphdef, *states).encode(vision)


def _store_maps(subject: Subject, features: Any, one: Prepared, row: int, rollout: Rollout,
                maps: MapStore) -> None:
    protocol, example = subject.processor.protocol, one.example
    assert example is not None
    grids = {heatmaps.slot_grid(example, slot, protocol.merge)
             for slot in heatmaps.media_slots(example)}
    fed = int(rollout.latent_index[row].max()) + 1
    starts = range(0, fed, protocol.latent_size) if len(grids) == 1 else ()
    own = np.asarray(features[row], np.float32)
    maps.save(one.item.key, [
        np.stack([heatmaps.cosine_maps(
            np.asarray(rollout.latents[row, i : min(i + protocol.latent_size, fed)]),
            own, example, protocol.merge, centred) for centred in (False, True)])
        for i in starts])


def _failed(one: Prepared, reason: str) -> Record:
    return _record(one) | {"status": "failed", "reason": reason}


def _record(one: Prepared) -> Record:
    item, sample = one.item, one.sample
    return {
        "key": item.key, "number": item.number, "kind": item.kind,
        "video_id": sample.video_id if sample else "", "options": item.options,
        "answer": sample.answer if sample else "", "status": "answered", "reason": "",
        "chosen": None, "correct": False, "lenient": None, "lenient_correct": False,
        "well_formed": False, "truncated": False, "blocks": 0, "tokens": 0, "response": "",
    }


def _scored(one: Prepared, row: int, rollout: Rollout, features: Any, subject: Subject,
            sampling: SamplingSpec, spec: EvalSpec, maps: MapStore | None) -> Record:
    """The record of one answered row; of a failed item where reading the answer fails."""
    sample = one.sample
    assert sample is not None
    stage = "text"
    try:
        mine = jax.tree.map(lambda value: value[row : row + 1], rollout)
        (text,) = texts(mine, subject.processor.tokenizer, sampling)
        stage = "scoring"
        parts = score(sample, text)
        lenient = lenient_answer(text, sample.options)
        starts = (rollout.tokens[row] == sampling.latent_start) & rollout.sampled[row]
        record = _record(one) | {
            "chosen": parse_answer(text, sample.options),
            "correct": parts["answer"] == 1.0,
            "lenient": lenient,
            "lenient_correct": lenient == sample.answer,
            "well_formed": parts["format"] == 1.0,
            "truncated": bool(rollout.truncated[row]),
            "blocks": int(starts.sum()),
            "tokens": int(rollout.mask[row].sum()),
            "response": _BLOCK.sub(IMAGE_MARK, text),
        }
        if spec.temperature > 0:
            record["seed"] = item_seed(one.item.key, spec.seed)
        stage = "heat maps"
        if maps is not None:
            _store_maps(subject, features, one, row, rollout, maps)
    except Exception as error:
        if is_disk_full(error):
            raise
        return _failed(one, f"{stage}: {one_line(error)}")
    return record
