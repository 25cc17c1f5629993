"""Slots that are refilled: what the device does for ``sampling.engine``.

It holds *slots* (rows being decoded), *lanes* (prompts whose keys and values are held) and
*tickets* (responses asked for: waiting, running or finished). One jitted loop, ``segment``, decodes
a token in every slot a turn and refills slots from the queue of tickets by itself. It comes back
when its turns are over, or when lanes are free for prompts that the host has waiting; then the host
admits prompts (``admit``, one prefill), collects finished tickets, cancels others.

Rows are dealt into ``shards`` groups of slots, lanes and tickets that never look at each other, so
that a mesh that splits rows over its devices needs no exchange for any of this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.kv_cache import KVCache, SlotCache
from fourd4d.core.rollout import Rollout
from fourd4d.core.struct import AnyArray, pytree
from fourd4d.models.prefix_attention import dealt
from fourd4d.parallel import batch_axes, constrain
from fourd4d.sampling.distribution import RowDraws
from fourd4d.sampling.held import merged
from fourd4d.sampling.loop import (
    Intervention,
    Reader,
    decide,
    next_positions,
    prefill,
    prefill_reader,
    reader_rows,
    row_keys,
)
from fourd4d.sampling.spec import SamplingSpec

# A recorded token and what it was, in one number: one scatter instead of three.
_ENDED, _SAMPLED, _IMAGINED, _RECORDED = 1 << 27, 1 << 28, 1 << 29, 1 << 30
TOKEN = _ENDED - 1


@dataclasses.dataclass(frozen=True)
class EngineShape:
    """Static sizes, over all shards.

    Attributes:
      slots: responses decoded at once.
      lanes: prompts held. Prompts whose last responses run long keep their lanes: a few times
        ``slots / group`` keeps the slots busy.
      group: most responses of one prompt.
      tickets: responses waiting, running or not yet collected.
      length: longest prompt, tokens.
      reader: prompts may have a reader.
      mixed: responses draw each in their own way, see ``Engine.add``.
      shards: groups of rows, see the module's text; divides the others.
    """

    slots: int
    lanes: int
    group: int
    tickets: int
    length: int
    reader: bool = False
    shards: int = 1
    mixed: bool = False

    def __post_init__(self) -> None:
        for field in ("slots", "lanes", "group", "tickets", "length", "shards"):
            if getattr(self, field) < 1:
                raise InputError(f"EngineShape.{field}", f"bad value {getattr(self, field)}",
                                 "Use 1 or more")
        for field in ("slots", "lanes", "tickets"):
            if getattr(self, field) % self.shards:
                raise InputError(f"EngineShape.{field}", f"{getattr(self, field)} do not divide "
                                 f"over {self.shards} shards", "Use a multiple")

    @property
    def width(self) -> int:
        """Slots that may look into one lane."""
        return min(self.group, self.slots // self.shards)


@pytree
class Lanes:
    """N prompts.

    Attributes:
      prefix: their keys and values.
      hidden: of their last tokens.
      start: M-RoPE id of the first token after them.
      left: responses to each that have not ended; a lane with none is free.
      reader_prefix, reads: the reader's keys and values, and which prompts have one.
    """

    prefix: SlotCache
    hidden: Float[Array, "N D"]
    start: Int[Array, "N"]
    left: Int[Array, "N"]
    reader_prefix: SlotCache | None
    reads: Bool[Array, "N"] | None


@pytree
class Slots:
    """B rows; see ``loop.State`` for the fields it shares.

    Attributes:
      age: tokens chosen so far.
      rows, place: as in ``SlotCache``: live slots beside the others of their lane.
    """

    hidden: Float[Array, "B D"]
    cache: SlotCache
    block: Int[Array, "B"]
    count: Int[Array, "B"]
    age: Int[Array, "B"]
    live: Bool[Array, "B"]
    ticket: Int[Array, "B"]
    lane: Int[Array, "B"]
    reader: Reader | None
    rows: Int[Array, "shards N_D C"]
    place: Int[Array, "shards B_D"]


@pytree
class Tickets:
    """R responses, numbered within their shard; so are their lanes.

    Attributes:
      limit: most tokens; 0 of none.
      code: each token and what it was; 0 where none is recorded.
      running: asked for and not finished.
      draws: how each draws, where they differ.
      queue: tickets in the order they were asked for, a ring; ``head`` is the next to start,
        ``tail`` the next free place, both counted without end.
    """

    keys: Key[Array, "R"]
    lane: Int[Array, "R"]
    limit: Int[Array, "R"]
    code: Int[Array, "R T"]
    log_probs: Float[Array, "R T"]
    latents: Float[Array, "R Q D"]
    running: Bool[Array, "R"]
    draws: RowDraws | None
    queue: Int[Array, "R"]
    head: Int[Array, "shards"]
    tail: Int[Array, "shards"]


@pytree
class EngineState:
    """Everything on the device. ``turns``: tokens decoded in every slot so far; ``busy``: in how
    many slots a turn decoded one, summed over turns."""

    lanes: Lanes
    slots: Slots
    tickets: Tickets
    turns: Int[Array, ""]
    busy: Int[Array, ""]


def _split(x: Array, shards: int) -> Array:
    return x.reshape(shards, x.shape[0] // shards, *x.shape[1:])


def _each(function: Callable[..., Any], shards: int, *trees: Any) -> Any:
    """``function`` of every shard's part; what it gives is joined again."""
    parts = jax.tree.map(lambda x: _split(x, shards), trees)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(function)(*parts))


def _stored(into: Array, index: Array, rows: Array, shards: int) -> Array:
    """``rows`` at their ``index`` of every shard's part, which come one shard after the other; an
    index past the end is of no row."""
    index = index.reshape(shards, -1)
    put = jax.vmap(lambda x, i, row: x.at[i].set(row.astype(x.dtype), mode="drop"))
    return put(_split(into, shards), index, rows.reshape(*index.shape, *into.shape[1:])).reshape(
        into.shape)


@functools.partial(jax.jit, static_argnames=("graphdef", "shape", "spec"))
def empty(graphdef: Any, states: tuple[Any, ...], shape: EngineShape, spec: SamplingSpec
          ) -> EngineState:
    """Nothing held, nothing asked for."""
    model = merged(graphdef, states)
    like = jax.eval_shape(lambda: model.empty_cache(1, 1))
    width, dtype = model.config.decoder.width, jnp.dtype(model.config.dtype)
    b, n, r, t = shape.slots, shape.lanes, shape.tickets, spec.max_tokens

    def zeros(rows: int, kind: Any = jnp.int32) -> Array:
        return jnp.zeros(rows, kind)

    def prompts() -> SlotCache:
        return SlotCache.empty(like, n, shape.length)

    def ring() -> SlotCache:
        return SlotCache.empty(like, b, t)

    reads = shape.reader and spec.max_blocks > 0
    lanes = Lanes(prompts(), jnp.zeros((n, width), dtype), zeros(n), zeros(n),
                  prompts() if reads else None, zeros(n, bool) if reads else None)
    hidden = jnp.zeros((b, width), dtype)
    slots = Slots(hidden, ring(), zeros(b), zeros(b), zeros(b), zeros(b, bool), zeros(b), zeros(b),
                  Reader(hidden, ring(), zeros(b, bool)) if reads else None,
                  *_lookups(zeros(b), zeros(b, bool), shape))
    latents = max(spec.max_blocks, 1) * spec.latent_size
    tickets = Tickets(
        keys=row_keys(jax.random.key(0), r), lane=zeros(r), limit=zeros(r),
        code=jnp.zeros((r, t), jnp.int32), log_probs=jnp.zeros((r, t)),
        latents=jnp.zeros((r, latents, width), dtype), running=zeros(r, bool),
        draws=RowDraws(jnp.zeros(r), jnp.ones(r), zeros(r, bool)) if shape.mixed else None,
        queue=zeros(r), head=zeros(shape.shards), tail=zeros(shape.shards))
    return _laid_out(EngineState(lanes, slots, tickets, jnp.zeros((), jnp.int32),
                                 jnp.zeros((), jnp.int32)))


def _laid_out(state: EngineState) -> EngineState:
    """Rows over the devices that split batches."""

    def place(path: Any, x: Array) -> Array:
        if not x.ndim or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        layers = getattr(path[-1], "name", "") in ("keys", "values")
        return constrain(x, *((None,) if layers else ()), "batch",
                         *(None,) * (x.ndim - 1 - layers))

    return jax.tree.map_with_path(place, state)


@pytree
class Read:
    """Prompts that were read, for ``admit`` to hold: P, those of a shard side by side.

    Attributes:
      hidden: of their last tokens.
      prefix: their keys and values.
      start: M-RoPE id of the first token after them.
      real: rows that are not of padding alone.
      reader_prefix, reads: the reader's keys and values, and which prompts have one.
    """

    hidden: Float[Array, "P D"]
    prefix: KVCache
    start: Int[Array, "P"]
    real: Bool[Array, "P"]
    reader_prefix: KVCache | None
    reads: Bool[Array, "P"] | None

    @property
    def length(self) -> int:
        """Tokens, padding included."""
        return self.prefix.keys.shape[2]


def _read(model: Any, batch: Batch, features: Any, reader: bool) -> Read:
    hidden, prefix = prefill(model, batch, features)
    own = prefill_reader(model, batch) if reader else None
    return Read(hidden, prefix, next_positions(batch),
                jnp.any(jnp.asarray(batch.segment_ids) != 0, axis=1), own,
                None if own is None else reader_rows(batch, 1))


@functools.partial(jax.jit, static_argnames=("graphdef", "reader"))
def read(graphdef: Any, states: tuple[Any, ...], batch: Batch, features: Any, reader: bool) -> Read:
    """Reads prompts, as many of each shard, which touches nothing that is held."""
    return _read(merged(graphdef, states), batch, features, reader)


@functools.partial(jax.jit, static_argnames=("graphdef", "shape", "spec"), donate_argnames="state")
def admit(graphdef: Any, states: tuple[Any, ...], state: EngineState, batch: Batch | Read,
          features: Any, where: Admission, shape: EngineShape, spec: SamplingSpec) -> EngineState:
    """Puts prompts into free lanes and queues responses to them; as many of each shard.

    Those that were not read are read here.
    """
    shards, lanes = shape.shards, state.lanes
    if isinstance(batch, Read):
        new = batch
    else:
        new = _read(merged(graphdef, states), batch, features, lanes.reads is not None)

    def store(into: Array, rows: Array, axis: int = 0) -> Array:
        """Rows into their shard's lanes; no row where the lane is past the end."""
        if shards == 1:  # In place, where the general way copies all lanes.
            return into.at[(slice(None),) * axis + (where.lane,)].set(
                rows.astype(into.dtype), mode="drop")
        into, rows = (jnp.moveaxis(x, axis, 0) for x in (into, rows))
        return jnp.moveaxis(_stored(into, where.lane, rows, shards), 0, axis)

    def hold(into: SlotCache, own: KVCache) -> SlotCache:
        spare = shape.length - own.keys.shape[2]
        wide = ((0, 0), (0, 0), (0, spare), (0, 0), (0, 0))
        return dataclasses.replace(
            into,
            keys=store(into.keys, jnp.pad(jnp.moveaxis(own.keys, 2, 4), [
                (0, 0), (0, 0), (0, 0), (0, 0), (0, spare)]), 1),
            values=store(into.values, jnp.moveaxis(jnp.pad(own.values, wide), 2, 3), 1),
            segment_ids=store(into.segment_ids, jnp.pad(own.segment_ids, ((0, 0), (0, spare)))))

    reader_prefix, reads = lanes.reader_prefix, lanes.reads
    if reader_prefix is not None:
        assert reads is not None
        if new.reader_prefix is None:
            reads = store(reads, jnp.zeros(len(where.lane), bool))
        else:
            assert new.reads is not None
            reader_prefix = hold(reader_prefix, new.reader_prefix)
            reads = store(reads, new.reads)
    limit = jnp.where(new.real[:, None], where.limit, 0)
    count = jnp.sum(where.ticket < shape.tickets // shards, axis=1)
    lanes = Lanes(hold(lanes.prefix, new.prefix), store(lanes.hidden, new.hidden),
                  store(lanes.start, new.start), store(lanes.left, count),
                  reader_prefix, reads)
    return _laid_out(dataclasses.replace(
        state, lanes=lanes, tickets=_asked(state.tickets, where, limit, shape)))


def _asked(tickets: Tickets, where: Admission, limit: Array, shape: EngineShape) -> Tickets:
    """The tickets of ``where`` as new, at the end of the queue."""
    shards, r = shape.shards, shape.tickets // shape.shards
    ticket = where.ticket.reshape(shards, -1)

    def write(into: Array, values: Any) -> Array:
        values = jnp.broadcast_to(jnp.asarray(values), (*where.ticket.shape, *into.shape[1:]))
        return _stored(into, ticket, values, shards)

    wanted = ticket < r
    place = tickets.tail[:, None] + jnp.cumsum(wanted, axis=1) - 1
    queue = jax.vmap(lambda q, i, v: q.at[jnp.where(v < r, i % r, r)].set(v, mode="drop"))(
        _split(tickets.queue, shards), place, ticket).reshape(-1)
    keys = jax.random.wrap_key_data(write(jax.random.key_data(tickets.keys),
                                          jax.random.key_data(where.keys)))
    return dataclasses.replace(
        tickets, keys=keys, lane=write(tickets.lane, where.lane[:, None]),
        limit=write(tickets.limit, limit), code=write(tickets.code, 0),
        log_probs=write(tickets.log_probs, 0.0), latents=write(tickets.latents, 0),
        running=write(tickets.running, True),
        draws=jax.tree.map(write, tickets.draws, where.draws), queue=queue,
        tail=tickets.tail + jnp.sum(wanted, axis=1))


@pytree
class Admission:
    """Where P prompts go, those of a shard side by side. G responses to each.

    Attributes:
      lane: within the shard; past the end for a prompt that is not there.
      ticket: of each response, within the shard; past the end for none.
      keys: of the responses.
      limit: most tokens of each.
      draws: how each draws, where they differ.
    """

    lane: Int[AnyArray, "P"]
    ticket: Int[AnyArray, "P G"]
    keys: Key[AnyArray, "P G"]
    limit: Int[AnyArray, "P G"]
    draws: RowDraws | None


def _refilled(state: EngineState, gone: Bool[Array, "B"], shape: EngineShape) -> EngineState:
    """The responses of slots that are ``gone`` are finished; free slots take the next tickets of
    their shard's queue."""
    state = _released(state, gone, shape)
    s, t, shards = state.slots, state.tickets, shape.shards
    r = shape.tickets // shards
    free = _split(~s.live, shards)
    rank = jnp.sum(jnp.tril(jnp.broadcast_to(free[:, None], (*free.shape, free.shape[1])), -1), 2)
    take = free & (rank < (t.tail - t.head)[:, None])
    place = jnp.where(take, (t.head[:, None] + rank) % r, 0)
    ticket = jnp.where(take, dealt(t.queue, place), _split(s.ticket, shards))
    lane = jnp.where(take, dealt(t.lane, ticket), _split(s.lane, shards))
    limit = dealt(t.limit, ticket).reshape(-1)
    hidden = dealt(state.lanes.hidden, lane).reshape(s.hidden.shape)
    took, lane_B, ticket_B = (x.reshape(-1) for x in (take, lane, ticket))

    def fresh(new: Any, old: Array) -> Array:
        return jnp.where(took.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    def emptied(cache: Any) -> Any:
        return dataclasses.replace(cache, segment_ids=fresh(0, cache.segment_ids))

    reader = s.reader
    if reader is not None:
        assert state.lanes.reads is not None
        reader = Reader(fresh(hidden, reader.hidden), emptied(reader.cache),
                        fresh(dealt(state.lanes.reads, lane).reshape(-1), reader.rows))
    live = fresh(limit > 0, s.live)
    slots = Slots(
        hidden=fresh(hidden, s.hidden), cache=emptied(s.cache), block=fresh(0, s.block),
        count=fresh(0, s.count), age=fresh(0, s.age), live=live, ticket=ticket_B, lane=lane_B,
        reader=reader, **dict(zip(("rows", "place"), _lookups(lane_B, live, shape), strict=True)))
    stillborn = took & (limit == 0)
    return _released(dataclasses.replace(
        state, slots=slots,
        tickets=dataclasses.replace(t, head=t.head + jnp.sum(take, axis=1))), stillborn, shape)


def _released(state: EngineState, gone: Bool[Array, "B"], shape: EngineShape) -> EngineState:
    """The tickets of these slots are finished, and their lanes have one response less."""

    def one(left: Array, running: Array, lane: Array, ticket: Array, gone: Array) -> Any:
        return (left.at[jnp.where(gone, lane, left.shape[0])].add(-1, mode="drop"),
                running.at[jnp.where(gone, ticket, running.shape[0])].set(False, mode="drop"))

    left, running = _each(one, shape.shards, state.lanes.left, state.tickets.running,
                          state.slots.lane, state.slots.ticket, gone)
    return dataclasses.replace(
        state, lanes=dataclasses.replace(state.lanes, left=left),
        tickets=dataclasses.replace(state.tickets, running=running))


def _lookups(lane: Int[Array, "B"], live: Bool[Array, "B"], shape: EngineShape
             ) -> tuple[Array, Array]:
    """``rows`` and ``place`` of slots that look into these lanes."""
    b, n = shape.slots // shape.shards, shape.lanes // shape.shards

    def one(lane: Array, live: Array) -> tuple[Array, Array]:
        before = jnp.tril((lane[:, None] == lane) & live, -1)
        place = jnp.where(live, lane * shape.width + jnp.sum(before, axis=1), n * shape.width)
        rows = jnp.full(n * shape.width, b, jnp.int32).at[place].set(jnp.arange(b), mode="drop")
        return rows.reshape(n, shape.width), place

    return jax.vmap(one)(_split(lane, shape.shards), _split(live, shape.shards))


def _turn(model: Any, state: EngineState, shape: EngineShape, spec: SamplingSpec,
          intervene: Intervention | None, data: Any) -> EngineState:
    """A token in every slot: chosen, recorded, fed. Then slots that ended are refilled."""
    s, t, lanes, shards = state.slots, state.tickets, state.lanes, shape.shards
    ticket, lane = _split(s.ticket, shards), _split(s.lane, shards)

    def of_ticket(x: Array) -> Array:
        return dealt(x, ticket).reshape(-1, *x.shape[1:])

    keys = jax.random.wrap_key_data(of_ticket(jax.random.key_data(t.keys)))
    keys = jax.vmap(jax.random.fold_in)(keys, s.age)
    # Only an intervention looks at what was fed before.
    fed = t.latents[:1] if intervene is None else of_ticket(t.latents)
    tokens, sampled, imagined, log_probs, latent = decide(
        model, s, keys, fed, spec, intervene,
        None if intervene is None else jax.tree.map(of_ticket, data),
        own=jax.tree.map(of_ticket, t.draws))
    ended = sampled & jnp.isin(tokens, jnp.asarray(spec.ends))

    def record(code: Array, kept: Array, latents: Array, row: Array, live: Array, age: Array,
               count: Array, token: Array, log_prob: Array, imagined: Array, latent: Array) -> Any:
        row = jnp.where(live, row, len(code))
        return (code.at[row, age].set(token, mode="drop"),
                kept.at[row, age].set(log_prob, mode="drop"),
                latents.at[row, jnp.where(imagined, count, latents.shape[1])].set(
                    latent, mode="drop"))

    coded = tokens | _RECORDED | jnp.where(ended, _ENDED, 0) | jnp.where(
        sampled, _SAMPLED, 0) | jnp.where(imagined, _IMAGINED, 0)
    code, kept, latents = _each(
        record, shards, t.code, t.log_probs, t.latents, s.ticket, s.live, s.age, s.count, coded,
        log_probs, imagined, latent)
    embeds = model.embed(tokens[:, None], None, None, jnp.where(imagined, 0, -1)[:, None],
                         latent[:, None])
    start = dealt(lanes.start, lane).reshape(-1)
    positions = jnp.broadcast_to((start + s.age)[None, :, None], (3, len(tokens), 1))
    segments = s.live.astype(jnp.int32)[:, None]

    def prompts(held: SlotCache) -> SlotCache:
        return dataclasses.replace(held, rows=s.rows, place=s.place)

    hidden, cache = model.decode(embeds, positions, segments, s.cache, prompts(lanes.prefix))
    reader = s.reader
    if reader is not None:
        assert lanes.reader_prefix is not None
        read, own = model.decode(embeds, positions, segments, reader.cache,
                                 prompts(lanes.reader_prefix))
        reader = Reader(read[:, 0], own, reader.rows)
    starts = sampled & (tokens == spec.latent_start)
    over = s.live & (ended | (s.age + 1 >= of_ticket(t.limit)))
    slots = dataclasses.replace(
        s, hidden=hidden[:, 0], cache=cache,
        block=jnp.where(starts, spec.latent_size + 1, jnp.maximum(s.block - 1, 0)),
        count=s.count + imagined, age=s.age + 1, live=s.live & ~over, reader=reader)
    tickets = dataclasses.replace(t, code=code, log_probs=kept, latents=latents)
    state = EngineState(lanes, slots, tickets, state.turns + 1, state.busy + jnp.sum(s.live))
    waiting = jnp.any(tickets.head < tickets.tail) & ~jnp.all(slots.live)
    return jax.lax.cond(jnp.any(over) | waiting, lambda s: _refilled(s, over, shape), lambda s: s,
                        state)


@functools.partial(jax.jit, static_argnames=("graphdef", "shape", "spec", "intervene"),
                   donate_argnames="state")
def segment(graphdef: Any, states: tuple[Any, ...], state: EngineState, turns: Int[AnyArray, ""],
            waiting: Int[AnyArray, "shards"], shape: EngineShape, spec: SamplingSpec,
            intervene: Intervention | None = None, data: Any = None) -> EngineState:
    """Decodes until nothing is left, ``turns`` are over, or waiting prompts can have lanes.

    Args:
      waiting: how many prompts the host has for each shard, and wants lanes for at once.
      data: for ``intervene``; every leaf has a first axis of tickets.
    """
    last = state.turns + turns

    def goes_on(s: EngineState) -> Array:
        free = jnp.sum(_split(s.lanes.left == 0, shape.shards), axis=1)
        room = (waiting > 0) & (free >= waiting)
        work = jnp.any(s.slots.live) | jnp.any(s.tickets.head < s.tickets.tail)
        return work & ~jnp.any(room) & (s.turns < last)

    return jax.lax.while_loop(
        goes_on,
        lambda s: _turn(merged(graphdef, states), s, shape, spec, intervene, data),
        _refilled(state, jnp.zeros(shape.slots, bool), shape))


@jax.jit
def responses(tickets: Tickets) -> Rollout:
    """All tickets as rows of a rollout; those never used are empty."""
    code = tickets.code
    mask, imagined = (code & _RECORDED) != 0, (code & _IMAGINED) != 0
    return Rollout(
        tokens=code & TOKEN, mask=mask, sampled=(code & _SAMPLED) != 0,
        log_probs=tickets.log_probs, latents=tickets.latents,
        latent_index=jnp.where(imagined, jnp.cumsum(imagined, axis=1) - 1, -1),
        truncated=mask[:, 0] & ~jnp.any((code & _ENDED) != 0, axis=1))


@functools.partial(jax.jit, static_argnames="shape", donate_argnames="state")
def stopped(state: EngineState, chosen: Bool[AnyArray, "R"], shape: EngineShape) -> EngineState:
    """The chosen tickets decode no further; those that wait never start."""
    mine = dealt(jnp.asarray(chosen), _split(state.slots.ticket, shape.shards)).reshape(-1)
    gone = state.slots.live & mine
    state = dataclasses.replace(
        state, slots=dataclasses.replace(state.slots, live=state.slots.live & ~gone),
        tickets=dataclasses.replace(
            state.tickets, limit=jnp.where(chosen, 0, state.tickets.limit)))
    return _released(state, gone, shape)


@functools.partial(jax.jit, static_argnames="shape", donate_argnames="data")
def written(data: Any, new: Any, ticket: Int[AnyArray, "P G"], shape: EngineShape) -> Any:
    """``data`` with its rows of these tickets replaced."""
    return jax.tree.map(lambda x, v: _stored(x, ticket, v, shape.shards), data, new)


@jax.jit
def picked(tree: Any, index: Int[AnyArray, "shards P"]) -> Any:
    """Rows ``index`` of every shard's rows of a batch or its features."""

    def pick(path: Any, x: Any) -> Array:
        x = jnp.asarray(x)
        axis = batch_axes(path, x.ndim).index("batch")
        rows = dealt(jnp.moveaxis(x, axis, 0), index)
        return jnp.moveaxis(rows.reshape(index.size, *rows.shape[2:]), 0, axis)

    return jax.tree.map_with_path(pick, tree)
