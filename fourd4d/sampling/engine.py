"""Decoding without waiting: a response that ends gives its slot to the next one.

``sampling.refill`` is what runs on the device; here are the host's books of lanes and tickets.

A response has the tokens, latents and log-probs of ``loop.generate``: its draws depend on its own
key and the number of its token, and attention sums over the same keys in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key

from fourd4d.core.batch import Batch
from fourd4d.core.environment import cores
from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.core.struct import AnyArray
from fourd4d.parallel import in_this_context, one_cpu, to_host
from fourd4d.sampling.distribution import RowDraws
from fourd4d.sampling.held import Held
from fourd4d.sampling.loop import Intervention, row_keys
from fourd4d.sampling.refill import (
    TOKEN,
    Admission,
    EngineShape,
    Read,
    admit,
    empty,
    picked,
    read,
    responses,
    segment,
    stopped,
    written,
)
from fourd4d.sampling.spec import SamplingSpec

_FILLING = 1024  # Tokens that a device reads at once in little more time than fewer.
_SMALL = 32 << 20  # Bytes of a model whose turns leave cores of a CPU idle: at 18 MB two streams on
# two cores were a sixth faster than one, at 90 MB a twentieth slower.


class Engine:
    """Decodes for a caller that brings prompts as they come and takes responses as they end.

        engine = Engine(graphdef, states, shape, spec)
        while True:
            while requests and engine.room():
                (tickets,) = engine.add(prompt, keys)     # One prefill.
            engine.run(turns=32, waiting=bool(requests))
            for ticket, rollout in engine.collect():
                ...

    One compilation serves all of it, for prompts of one shape; another length (at most
    ``shape.length`` tokens) or number of prompts compiles another prefill only.

    Args:
      graphdef, states: ``graphdef, *states = nnx.split(model, …)``.
      intervene, data: as in ``loop.sample``, every leaf of ``data`` with a first axis of tickets.
    """

    def __init__(self, graphdef: Any, states: tuple[Any, ...], shape: EngineShape,
                 spec: SamplingSpec, *, intervene: Intervention | None = None, data: Any = None):
        self.shape, self.spec = shape, spec
        self._model = Held.of(graphdef, states)
        self._intervene, self._data = intervene, data
        self.state = empty(*self._model, shape, spec)
        self._left = np.zeros((shape.shards, shape.lanes // shape.shards), np.int64)
        # Tickets that nobody has asked for, or whose responses were collected.
        self._unused = [list(range(shape.tickets // shape.shards)) for _ in range(shape.shards)]
        self._open: set[int] = set()

    def room(self, shard: int = 0) -> int:
        """Prompts that may be added: each takes a lane, and tickets for a whole group."""
        return min(int((self._left[shard] == 0).sum()),
                   len(self._unused[shard]) // self.shape.group)

    def read(self, batch: Batch, features: Any = None) -> Read:
        """Reads prompts as ``add`` would; any thread may, while another decodes."""
        return read(*self._model, batch, features, self.state.lanes.reads is not None)

    def add(self, batch: Batch | Read, keys: Key[AnyArray, "P G"], *,
            limits: Int[AnyArray, "P G"] | None = None, draws: RowDraws | None = None,
            data: Any = None, features: Any = None,
            present: Sequence[bool] | np.ndarray | None = None) -> list[list[int]]:
        """Asks for responses to P prompts, as many of each shard; their tickets, by prompt.

        Args:
          batch: the prompts, one a row, those of a shard side by side; padding on either side. Or
            what ``read`` gave for such a batch.
          keys: one of each response, at most ``shape.group`` of a prompt.
          limits: most tokens of each response; ``spec.max_tokens`` by default.
          draws: how each response draws, of an engine whose shape is ``mixed``, and of no other.
          data: for ``intervene``, these responses' part: every leaf has first axes (P, G).
          features: what ``model.encode`` gave for the prompts, if it ran already.
          present: rows that really are prompts; by default all.

        Raises:
          InputError: no room, prompts that do not divide over the shards, or too many responses or
            tokens.
        """
        shape, (prompts, responses_each) = self.shape, keys.shape
        if prompts % shape.shards:
            raise InputError("Engine.add", f"{prompts} prompts for {shape.shards} shards",
                             "Bring as many for each; present tells which are there")
        there = np.ones(prompts, bool) if present is None else np.asarray(present)
        full = [shard for shard, own in enumerate(np.split(there, shape.shards))
                if own.sum() > self.room(shard)]
        if full:
            raise InputError("Engine.add", f"no lane is free for all prompts of shards {full}",
                             "Run it until room() tells of as many")
        length = batch.length if isinstance(batch, Read) else batch.tokens.shape[1]
        if responses_each > shape.group or length > shape.length:
            raise InputError("Engine.add", f"{responses_each} responses to {length} "
                             f"tokens; it was made for {shape.group} to {shape.length}",
                             "Make it larger, or bring less")
        if (draws is not None) != shape.mixed:
            raise InputError("Engine.add", f"draws {'given' if shape.mixed is False else 'missing'}"
                             f" where EngineShape.mixed is {shape.mixed}", "Let both agree")
        if limits is None:
            limits = np.full(keys.shape, self.spec.max_tokens)
        limits = np.minimum(np.asarray(limits, np.int32), self.spec.max_tokens)
        lane = np.full(prompts, self._left.shape[1], np.int32)
        ticket = np.full(keys.shape, shape.tickets // shape.shards, np.int32)
        shards = np.arange(prompts) // (prompts // shape.shards)
        for number in np.flatnonzero(there):
            shard = shards[number]
            lane[number] = int(np.flatnonzero(self._left[shard] == 0)[0])
            ticket[number] = [self._unused[shard].pop(0) for _ in range(responses_each)]
            self._left[shard, lane[number]] = responses_each
        where = Admission(lane, ticket, keys, limits, draws)
        if data is not None:
            self._data = written(self._data, data, ticket, shape)
        self.state = admit(*self._model, self.state, batch, features, where, shape, self.spec)
        each = shape.tickets // shape.shards
        names = [[int(shards[number]) * each + int(t) for t in ticket[number] if t < each]
                 for number in range(prompts)]
        self._open.update(name for row in names for name in row)
        return names

    def run(self, turns: int | None = None,
            waiting: int | Int[np.ndarray, "shards"] = 0) -> bool:
        """Decodes for some turns, or until all is done; whether anything is left to decode.

        Args:
          turns: most tokens of a slot; None for no bound.
          waiting: come back as soon as so many lanes are free (of one of the shards).
        """
        shape = self.shape
        most = np.iinfo(np.int32).max // 2 if turns is None else turns
        self.state = segment(*self._model, self.state, np.int32(most),
                             np.broadcast_to(np.int32(waiting), shape.shards), shape, self.spec,
                             self._intervene, self._data)
        self._left = to_host(self.state.lanes.left).reshape(self._left.shape).astype(np.int64)
        return bool(self._left.any())

    def progress(self) -> dict[int, Int[np.ndarray, "_"]]:
        """Tokens so far of each response that has begun and was not collected, by its ticket."""
        tickets = self.state.tickets
        code = to_host(tickets.code)
        return {ticket: code[ticket, : np.count_nonzero(code[ticket])] & TOKEN
                for ticket in self._open}

    def cancel(self, tickets: Sequence[int]) -> None:
        """Stops responses; ``collect`` hands out what they had said by then, as truncated.

        One that had not begun counts as finished at the next ``run``.
        """
        chosen = np.zeros(self.shape.tickets, bool)
        chosen[list(tickets)] = True
        self.state = stopped(self.state, chosen, self.shape)

    def collect(self) -> list[tuple[int, Rollout]]:
        """(ticket, its rollout of one row) of every finished response; its ticket is free again."""
        running = to_host(self.state.tickets.running)
        done = sorted(ticket for ticket in self._open if not running[ticket])
        if not done:
            return []
        rollout = to_host(responses(self.state.tickets))
        each = self.shape.tickets // self.shape.shards
        for ticket in done:
            self._open.remove(ticket)
            self._unused[ticket // each].append(ticket % each)
        return [(ticket, jax.tree.map(lambda x, t=ticket: x[t : t + 1], rollout))
                for ticket in done]


def shape_for(batch: Batch, group: int, *, slots: int, lanes: int = 0, shards: int = 1,
              streams: int = 1) -> EngineShape:
    """What ``rollout`` decodes a batch's responses in, each of its streams; the arguments are its
    own."""
    prompts = -(-batch.tokens.shape[0] // streams)
    rows = prompts * group
    slots = min(-(-slots // streams), rows)
    width = min(group, slots // shards)
    # Of groups that are not yet answered in full each keeps a lane.
    spare = 4 * -(-slots // width) if group > 1 else slots + -(-slots // 4)
    lanes = min(-(-lanes // streams) or spare, prompts)
    lanes = -(-lanes // shards) * shards
    return EngineShape(slots=slots, lanes=lanes, group=group, tickets=rows,
                       length=batch.tokens.shape[1], reader=batch.reader is not None,
                       shards=shards)


def read_at_once(shape: EngineShape) -> int:
    """Prompts of a shard that ``rollout`` reads at once.

    A quarter of the lanes, so that the others keep the slots busy until they are free, and no more
    than have together the tokens that fill a device.
    """
    return max(min(shape.lanes // shape.shards // 4, _FILLING // shape.length), 1)


def streams_for(states: tuple[Any, ...], prompts: int, group: int, slots: int) -> int:
    """Engines that ``rollout`` runs side by side: as many as a CPU has cores for, else one.

    A turn of a small model is many small operations one after the other, which one core does as
    fast as several. A large one's products fill all cores, and every stream reads all weights.
    """
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(states))
    if not one_cpu() or weights > _SMALL:
        return 1
    return max(min(cores(), slots // group, prompts), 1)


def rollout(graphdef: Any, states: tuple[Any, ...], batch: Batch, rng: Any, spec: SamplingSpec,
            group: int = 1, *, slots: int, lanes: int = 0, shards: int = 1, streams: int = 0,
            features: Any = None, limits: Int[AnyArray, "R"] | None = None,
            intervene: Intervention | None = None, data: Any = None,
            on_segment: Callable[[Engine], None] | None = None) -> Rollout:
    """``loop.generate`` with no more than ``slots`` rows at once, none of which waits for others.

    Args:
      slots: responses decoded at once, over all shards and streams.
      lanes: prompts held at once; 0 for four times as many as fill the slots, or of prompts with
        one response each for a quarter more.
      shards: devices that the prompts' rows are split over.
      streams: engines that decode a part of the prompts each, side by side in threads; 0 for
        ``streams_for``. One where there are shards.
      limits: most tokens of each response.
      data: for ``intervene``; every leaf has a first axis of responses.
      on_segment: called after every segment of an engine, in its thread, to show progress.
    """
    prompts = batch.tokens.shape[0]
    streams = 1 if shards > 1 else streams or streams_for(states, prompts, group, slots)
    shape = shape_for(batch, group, slots=slots, lanes=lanes, shards=shards, streams=streams)
    # Handed to the devices once, not at every prompt; keys are cut here, which takes no program.
    batch, features = jax.tree.map(jnp.asarray, (batch, features))
    keys = np.asarray(jax.random.key_data(row_keys(rng, prompts * group)))
    most = np.full(prompts * group, spec.max_tokens) if limits is None else np.asarray(limits)
    asked = _Asked(batch, features, keys.reshape(prompts, group, -1), most.reshape(prompts, group))
    each = shape.tickets // group

    def stream(first: int) -> _Stream:
        rows = np.minimum(np.arange(first * group, first * group + shape.tickets),
                          prompts * group - 1)
        own = data if streams == 1 else jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
        engine = Engine(graphdef, states, shape, spec, intervene=intervene, data=own)
        return _Stream(engine, asked, first, min(first + each, prompts), on_segment)

    if streams == 1:
        return stream(0).responses()
    parts = [stream(first) for first in range(0, prompts, each)]
    parts[0].begin()  # Compiled once, before all need it.
    with ThreadPoolExecutor(len(parts), thread_name_prefix="stream") as pool:
        call = in_this_context()
        found = [pool.submit(call, part.responses) for part in parts]
    return _joined([one.result() for one in found], [(part.last - part.first) * group
                                                     for part in parts])


def _joined(rollouts: Sequence[Rollout], rows: Sequence[int]) -> Rollout:
    """The first rows of each, one after the other."""
    return jax.tree.map(lambda *parts: jnp.concatenate(
        [part[:count] for part, count in zip(parts, rows, strict=True)]), *rollouts)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Prompts, and of each of their responses the key's data and the most tokens."""

    batch: Batch
    features: Any
    keys: np.ndarray
    limits: np.ndarray


class _Stream:
    """An engine, and the prompts ``first`` … ``last - 1`` that it answers, by shard."""

    def __init__(self, engine: Engine, asked: _Asked, first: int, last: int,
                 on_segment: Callable[[Engine], None] | None):
        self.first, self.last = first, last
        self._engine, self._asked, self._on_segment = engine, asked, on_segment
        self._each = (last - first) // engine.shape.shards
        self._following = np.zeros(engine.shape.shards, np.int32)
        self._places = np.arange(read_at_once(engine.shape))

    @property
    def _wanted(self) -> np.ndarray:
        """Prompts of each shard to be read next."""
        return np.minimum(self._each - self._following, len(self._places))

    def _add(self) -> bool:
        """Reads the next prompts, if there are lanes for them; whether there were."""
        engine, asked, wanted = self._engine, self._asked, self._wanted
        shards = engine.shape.shards
        taken = np.minimum(wanted, [engine.room(shard) for shard in range(shards)])
        if not ((wanted > 0) & (taken == wanted)).any():
            return False
        # Within the shard; where there are several, the first prompt is 0.
        own = self.first + np.minimum(self._following[:, None] + self._places, self._each - 1)
        at = np.arange(shards)[:, None] * self._each + own
        some, seen = picked((asked.batch, asked.features), own)
        engine.add(some, jax.random.wrap_key_data(jnp.asarray(asked.keys[at.reshape(-1)])),
                   limits=asked.limits[at.reshape(-1)], features=seen,
                   present=(self._places < taken[:, None]).reshape(-1))
        self._following += taken
        return True

    def begin(self) -> None:
        """Reads what comes first, and decodes nothing: all is compiled then."""
        self._add()
        self._engine.run(turns=0)

    def responses(self) -> Rollout:
        """Decodes all; the rows of the tickets, which follow the prompts."""
        engine = self._engine
        while True:
            while self._add():
                pass
            left = engine.run(waiting=self._wanted)
            if self._on_segment is not None:
                self._on_segment(engine)
            if not left and (self._following == self._each).all():
                return responses(engine.state.tickets)
