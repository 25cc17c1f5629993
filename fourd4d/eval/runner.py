"""The evaluation loop: prompts in like-shaped batches, decoding, one scored record per item."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
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
from fourd4d.core.example import Example
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import IMAGE_MARK, Sample
from fourd4d.data.collate import Size, bucket, collate
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval import heatmaps
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record, item_seed
from fourd4d.eval.statistics import tally, tally_by_type
from fourd4d.parallel import DEFAULT_RULES, use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.parallel.memory import check_room, is_out_of_memory, needed_bytes
from fourd4d.processing.answers import lenient_answer, parse_answer
from fourd4d.processing.processor import Processor
from fourd4d.rewards import score
from fourd4d.sampling import Intervention, SamplingSpec, generate, texts

_BLOCK = re.compile(r"<\|latent_start\|>(?:<\|latent_pad\|>)*(?:<\|latent_end\|>)?")
_HOW_ONLY = ("rows", "length_step", "slot_step", "lookahead", "workers", "batch_tokens",
             "max_length")
_FINE = 128  # Steps up to which lengths are rounded to single ones.

Observe = Callable[[Sequence[str], Batch, Any, Rollout], Sequence[Record]]
"""(keys, batch, the model's vision features, rollout on the host) → fields for each key's record.

Batch and rollout may have more rows than there are keys.
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
class Prepared:
    """An item ready to be answered, or where and why that failed.

    Attributes:
      shape: of a batch of such items: their rows, lengths and slots rounded up.
      reason: what failed, and why; empty for nothing.
      source: scores it, where it does so itself.
    """

    item: Item
    sample: Sample
    example: Example | None = None
    shape: BatchShape | None = None
    reason: str = ""
    source: AskedSource | None = None


def prepare(source: Source, item: Item, subject: Subject, spec: EvalSpec) -> Prepared:
    """Reads, decodes and tokenises one item. What that raises becomes a reason."""
    sample, stage = Sample(item.key, ""), "reading"
    asked = source if isinstance(source, AskedSource) else None
    if item.problem:
        return Prepared(item, sample, reason=item.problem, source=asked)
    processor = subject.processor
    try:
        row = source[item.number]
        sample, stage = row.sample, "media"
        if asked is not None:
            example = asked.example(item.number, processor)
        else:
            media, _ = row_media(row, processor.protocol, assumed_fps=spec.assumed_fps or None,
                                 with_overlays=False)
            stage = "prompt"
            example = processor.prompt(sample.text_input, media)
        stage = "prompt"
        _check_length(example, subject, spec)
        return Prepared(item, sample, example, _shape(example, subject, spec), source=asked)
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
) -> Iterator[Record]:
    """Answers the items that ``log`` lacks; yields each record once it is in the log.

    Args:
      intervene: what is fed in place of imagined latents, see ``sampling.interventions``.
      data: gives ``intervene`` its arrays for a batch, one row for each of the keys.
      observe: sees every answered batch, and adds fields to its items' records. What it raises
        counts as the batch's failure.
      maps, keep: cosine maps of these items' mental images are stored here.
    """
    todo = [item for item in items if item.key not in log.records]
    answering = _Answering(subject, spec, intervene, data, observe, maps, keep)
    for group in _batches(_ahead(lambda item: prepare(source, item, subject, spec), todo, spec),
                          spec):
        records = ([_failed(one, one.reason) for one in group] if group[0].reason
                   else answering(group))
        yield from _logged(log, records)


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

    A batch that fails is tried again in halves. Where memory ran out they have half the rows, down
    to one per device; else the same shape, and so the same program. What fails with an item alone
    is the item's failure, unless a plain prompt fails as well: then nothing can be answered here,
    and the error is the run's.
    """

    def __init__(self, subject: Subject, spec: EvalSpec, intervene: Intervention | None,
                 data: Callable[[Sequence[str]], Any] | None, observe: Observe | None,
                 maps: MapStore | None, keep: Collection[str]):
        self._subject, self._spec, self._sampling = subject, spec, subject.sampling(spec)
        self._intervene, self._data, self._maps, self._keep = intervene, data, maps, keep
        self._observe = observe
        self._devices = (jax.local_devices()[:1] if subject.mesh is None
                         else list(subject.mesh.devices.flat))
        self._split = _row_split(subject)
        self._needed: dict[tuple[Any, BatchShape], int] = {}
        if spec.rows % self._split:
            raise InputError("EvalSpec.rows", f"{spec.rows} do not divide over {self._split} "
                             "devices", "Use a multiple")

    def __call__(self, group: Sequence[Prepared]) -> list[Record]:
        shape = group[0].shape
        assert shape is not None
        return self._answer(group, shape)

    def _answer(self, group: Sequence[Prepared], shape: BatchShape) -> list[Record]:
        try:
            batch = self._batch(group, shape)
            features, rollout = self._generate(batch, shape, group)
            more = [{} for _ in group] if self._observe is None else self._observe(
                [one.item.key for one in group], batch, features, rollout)
        except Exception as error:
            reason = _reason("decoding", error)
            fewer = _fewer(shape, self._split) if is_out_of_memory(error) else shape
            if len(group) == 1 and fewer == shape:
                if not is_out_of_memory(error):
                    self._check_plain_prompt(error)
                return [_failed(group[0], reason)]
        else:
            return [self._record(one, row, features, rollout) | more[row]
                    for row, one in enumerate(group)]
        # Out of the handler: what it holds of the failed try is freed.
        size = -(-len(group) // 2) if fewer == shape else fewer.rows
        return [record for start in range(0, len(group), size)
                for record in self._answer(group[start : start + size], fewer)]

    def _batch(self, group: Sequence[Prepared], shape: BatchShape) -> Batch:
        examples = [p.example for p in group if p.example is not None]
        batch = collate(examples, shape, self._subject.processor.protocol,
                        names=[f"item {p.item.key!r}" for p in group])
        mesh = self._subject.mesh
        return batch if mesh is None else jax.device_put(batch, batch_shardings(batch, mesh))

    def _generate(self, batch: Batch, shape: BatchShape, group: Sequence[Prepared]
                  ) -> tuple[Any, Rollout]:
        subject, names = self._subject, [p.item.key for p in group]
        with contextlib.nullcontext() if subject.mesh is None else use(subject.mesh):
            self._check_memory(shape, encode, subject.graphdef, subject.states, batch.vision)
            features = encode(subject.graphdef, subject.states, batch.vision)
            rest = (subject.graphdef, subject.states, batch,
                    _keys(names, self._spec, shape.rows), self._sampling, 1, self._intervene,
                    None if self._data is None else _padded(self._data(names), shape.rows),
                    features)
            self._check_memory(shape, generate, *rest)
            return features, jax.device_get(generate(*rest))

    def _check_memory(self, shape: BatchShape, function: Any, *args: Any) -> None:
        key = (function, shape)
        if key not in self._needed:
            self._needed[key] = needed_bytes(function, *args)
        check_room(self._needed[key], self._devices)

    def _check_plain_prompt(self, error: Exception) -> None:
        """Raises ``error`` where a prompt of a few words and no media cannot be answered either."""
        subject = self._subject
        example = subject.processor.prompt("?", ())
        shape = dataclasses.replace(_shape(example, subject, self._spec), rows=self._split)
        plain = Prepared(Item(0, "", "", 0), Sample("", "?"), example, shape)
        try:
            batch = self._batch([plain], shape)
            with contextlib.nullcontext() if subject.mesh is None else use(subject.mesh):
                jax.block_until_ready(generate(
                    subject.graphdef, subject.states, batch, _keys([], self._spec, shape.rows),
                    self._sampling))
        except Exception:
            raise error from None

    def _record(self, one: Prepared, row: int, features: Any, rollout: Rollout) -> Record:
        stage = "heat maps"
        try:
            if self._maps is not None and one.item.key in self._keep:
                _store_maps(self._subject, features, one, row, rollout, self._maps)
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


def _shape(example: Example, subject: Subject, spec: EvalSpec) -> BatchShape:
    """The shape of batches of such examples: as many rows as the budget of tokens allows."""
    size, protocol = Size.of(example), subject.processor.protocol
    shape = BatchShape(spec.rows, bucket(size.length, spec.length_step, _FINE),
                       bucket(size.slots, spec.slot_step, _FINE), bucket(size.windows),
                       size.overlays)
    encoded = shape.slots * shape.windows * protocol.window_patches // protocol.merge**2
    while shape.rows * max(shape.length, encoded) > spec.batch_tokens:
        fewer = _fewer(shape, _row_split(subject))
        if fewer == shape:
            break
        shape = fewer
    return shape


def _fewer(shape: BatchShape, split: int) -> BatchShape:
    """The shape with half the rows, rounded up to a multiple of ``split``."""
    return dataclasses.replace(shape, rows=-(-shape.rows // (2 * split)) * split)


def _batches(prepared: Iterator[Prepared], spec: EvalSpec) -> Iterator[list[Prepared]]:
    """Items of one shape, as many as it has rows at most; failed items alone, at once."""
    waiting: dict[BatchShape, list[Prepared]] = {}
    held = 0
    for one in prepared:
        if one.shape is None:
            yield [one]
            continue
        waiting.setdefault(one.shape, []).append(one)
        held += 1
        full = one.shape if len(waiting[one.shape]) == one.shape.rows else None
        if full is None and held >= spec.rows * spec.lookahead:
            full = max(waiting, key=lambda k: len(waiting[k]))
        if full is not None:
            group = waiting.pop(full)
            held -= len(group)
            yield group
    yield from waiting.values()


def _padded(data: Any, rows: int) -> Any:
    """The arrays with rows of zeros at their end, as many rows as the batch."""
    return jax.tree.map(
        lambda x: np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (np.ndim(x) - 1)]), data)


def _keys(keys: Sequence[str], spec: EvalSpec, rows: int) -> Any:
    """One random key per row of the batch, rows of padding included."""
    seeds = [item_seed(key, spec.seed) for key in keys] + [0] * (rows - len(keys))
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


@functools.partial(jax.jit, static_argnums=0)
def encode(graphdef: Any, states: tuple[Any, ...], vision: VisionInput
           ) -> Float[Array, "B F U E"]:
    """The model's own vision features of a batch."""
    return nnx.merge(graphdef, *states).encode(vision)


def _store_maps(subject: Subject, features: Any, one: Prepared, row: int, rollout: Rollout,
                maps: MapStore) -> None:
    protocol, example = subject.processor.protocol, one.example
    assert example is not None
    merged = features[row][..., : rollout.latents.shape[-1]]  # Without what DeepStack adds.
    own = np.asarray(merged, np.float32)
    grids = {heatmaps.slot_grid(example, slot, protocol.merge)
             for slot in heatmaps.media_slots(example)}
    fed = int(rollout.latent_index[row].max()) + 1
    starts = range(0, fed, protocol.latent_size) if len(grids) == 1 else ()
    maps.save(one.item.key, [
        np.stack([heatmaps.cosine_maps(
            np.asarray(rollout.latents[row, i : min(i + protocol.latent_size, fed)]),
            own, example, protocol.merge, centred) for centred in (False, True)])
        for i in starts])


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
        "response": _BLOCK.sub(IMAGE_MARK, text),
    }
    if spec.temperature > 0:
        record["seed"] = item_seed(one.item.key, spec.seed)
    return record
