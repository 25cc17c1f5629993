"""One thread decodes: it takes requests in as slots fall free, and hands tokens out.

Where the mesh is a single device a second thread reads the prompts that come next meanwhile; where
it is not, programs must start in one order on all devices, and the first thread reads them too.

Requests come from other threads (``submit``, ``cancel``); what becomes of them is told through
each job's ``emit``, called on the worker's threads. A response depends on its prompt and seed
alone, not on its company, so that jobs whose engine failed are begun anew and their streams go on
where they were.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from fourd4d.core.batch import BatchShape, VisionInput
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.example import Example
from fourd4d.core.rollout import Rollout
from fourd4d.data.collate import collate
from fourd4d.parallel import DEFAULT_RULES, to_host, use
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.sampling import Engine, EngineShape, RowDraws, SamplingSpec
from fourd4d.sampling.held import Held, merged
from fourd4d.sampling.interventions import FROZEN, NATURAL, TABLE, RowProbe, by_row
from fourd4d.serve.errors import ApiError, of
from fourd4d.serve.shapes import Family
from fourd4d.serve.spec import ServeSpec

_TRIES: Final = 2  # Of a job, where the engine fails with several on it.
_MOST_FAILURES: Final = 3  # Of the engine, one after another.
_AHEAD: Final = 2  # A prompt is read ahead for so many slots.
_FULL: Final = 0.9  # Slots in use from which decoding does not wait for prompts being read.


@dataclasses.dataclass(frozen=True)
class Said:
    """Tokens that follow those told before."""

    tokens: Int[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A response has ended.

    Attributes:
      rollout: one row.
      features: the prompt's vision features, where the job wanted them.
    """

    rollout: Rollout
    features: Float[np.ndarray, "F U E"] | None


@dataclasses.dataclass(frozen=True)
class Failed:
    """There will be no response."""

    error: ApiError


Event = Said | Finished | Failed


@dataclasses.dataclass(eq=False)
class Job:
    """One response that is wanted.

    Attributes:
      shape: what ``shapes.fitting`` gives.
      limit: most tokens.
      seed, number: the draws are those of row ``number`` of ``generate`` with this seed.
      probe: ``zero``, ``swap`` or ``freeze``; ``donor`` are the latents for ``swap``.
      features: whether the prompt's vision features are wanted.
      streams: tokens are told as they come; otherwise only the first of them.
      deadline: by ``time.monotonic``.
      emit: is told what happens; must not block.
    """

    example: Example
    shape: BatchShape
    limit: int
    emit: Callable[[Event], None]
    seed: int = 0
    number: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    imagery: bool = True
    probe: str | None = None
    donor: np.ndarray | None = None
    features: bool = False
    streams: bool = True
    deadline: float = float("inf")
    # The worker's own.
    cancelled: bool = False
    enough: bool = False
    tries: int = 0
    told: int = 0
    kept: Any = None


class Worker:
    """Decodes jobs together.

    Args:
      mesh: of one row shard; see ``parallel.make_mesh``.
      shapes: of prompts; see ``shapes.family``.
      probes: jobs may be probed. Costs some memory and time.
    """

    def __init__(self, bundle: ModelBundle, mesh: Any, spec: ServeSpec,
                 shapes: Family, *, probes: bool = False):
        rows = [dict(mesh.shape).get(axis, 1) for axis in DEFAULT_RULES.mesh_axes("batch", True)]
        if any(size > 1 for size in rows):
            raise InputError("--mesh", "it splits rows over devices", "Use tensor=N, and start one "
                             "server for each group of devices")
        self.sampling = SamplingSpec.of(bundle.processor.tokenizer, bundle.processor.protocol,
                                        max_tokens=spec.max_tokens)
        self.shapes, self.probes, self.spec = shapes, probes, spec
        self._model = Held.of(bundle.graphdef, (bundle.tree,))
        self._processor, self._mesh = bundle.processor, mesh
        self._width = bundle.config.decoder.width
        each = bundle.processor.protocol.window_patches // bundle.processor.protocol.merge**2
        self._merged = each * max(map(math.prod, shapes.pictures))  # Tokens of a prompt's frames.
        self._shape = EngineShape(
            slots=spec.slots, lanes=spec.slots, group=1, tickets=spec.slots,
            length=shapes.lengths[-1], mixed=True,
            reader=bundle.processor.protocol.reader is not None)
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._reading: Job | None = None
        self._read: collections.deque[tuple[Job, dict[str, Any]]] = collections.deque()
        self._running: dict[int, Job] = {}
        self._entering: Job | None = None
        self._stopping = False
        self._failures = 0
        self.broken = ""
        self.tokens = 0
        self._apart = mesh.size == 1  # Prompts are read on a thread of their own.
        self._threads = [threading.Thread(target=self._main, name="device", daemon=True)]
        if self._apart:
            self._threads.append(threading.Thread(target=self._read_ahead, name="reader",
                                                  daemon=True))

    def start(self, warmed: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Compiles all that will be needed, then serves; raises what that raises.

        Args:
          warmed: called with how many programs are done, and how many there are.
        """
        with use(self._mesh):
            self._engine = self._fresh()
            self._warm(warmed)
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs; raises ApiError once the worker ends or cannot go on."""
        with self._changed:
            if self.broken or self._stopping:
                raise ApiError(503, self.broken or "the server is stopping", code="unavailable",
                               retry=None if self.broken else 10)
            self._waiting.extend(jobs)
            self._changed.notify_all()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ends jobs that nobody waits for; nothing is emitted for them any more."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify_all()

    def finish(self, jobs: Sequence[Job]) -> None:
        """Ends jobs that have said enough; what they said is emitted as finished."""
        with self._changed:
            for job in jobs:
                job.enough = True
            self._changed.notify_all()

    def close(self, seconds: float = 60.0) -> bool:
        """Ends the threads once their jobs are done; whether that was within the time."""
        end = time.monotonic() + seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(end - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def load(self) -> tuple[int, int]:
        """(jobs waiting, jobs being decoded)."""
        reading = len(self._read) + (self._reading is not None)
        return len(self._waiting) + reading, len(self._running)

    def _fresh(self) -> Engine:
        probes = None
        if self.probes:
            latents = max(self.sampling.max_blocks, 1) * self.sampling.latent_size
            probes = RowProbe(jnp.zeros(self._shape.tickets, jnp.int32),
                              jnp.zeros((self._shape.tickets, latents, self._width)))
        return Engine(*self._model, self._shape, self.sampling,
                      intervene=by_row if self.probes else None, data=probes)

    def _warm(self, warmed: Callable[[int, int], None]) -> None:
        example = self._processor.prompt("?", ())
        done, count = 0, len(self.shapes.pictures) + len(self.shapes.lengths)
        for size in self.shapes.pictures:
            shape = BatchShape(1, self.shapes.lengths[0], *size, 0)
            empty = collate([example], shape, self._processor.protocol).vision
            self._blank = jnp.zeros_like(_encoded(*self._model, empty, self._merged)[1])
            warmed(done := done + 1, count)
        for length in self.shapes.lengths:
            job = Job(example, BatchShape(1, length, 0, 1, 0), 1, lambda event: None)
            ticket = self._add(self._prepared(job))
            self._engine.run(turns=1)
            self._engine.progress()
            self._engine.cancel([ticket])
            self._engine.run(turns=1)
            self._engine.collect()
            warmed(done := done + 1, count)

    def _main(self) -> None:
        with use(self._mesh):
            while True:
                with self._changed:
                    while not (self._next() or self._running and self._full()):
                        if self._stopping and not sum(self.load):
                            self._changed.notify_all()
                            return
                        self._changed.wait()
                try:
                    self._turn()
                    self._failures = 0
                except Exception as error:  # The device's errors are of many types.
                    self._recover(error)

    def _next(self) -> bool:
        """Whether a job may enter the engine."""
        return bool(self._read if self._apart else self._waiting)

    def _full(self) -> bool:
        """Whether to decode: a turn takes as long with few slots in use as with all."""
        coming = self._waiting or self._reading is not None
        return not coming or len(self._running) >= _FULL * self.spec.slots

    def _read_ahead(self) -> None:
        """Reads prompts, a few more than have slots."""
        most = max(self.spec.slots // _AHEAD, 1)
        with use(self._mesh):
            while True:
                with self._changed:
                    while not self._waiting or len(self._read) >= most:
                        if self._stopping and not sum(self.load):
                            return
                        self._changed.wait()
                self._read_one()

    def _read_one(self) -> None:
        """Takes the first job that waits, if any, and reads its prompt."""
        with self._changed:
            self._reading = job = self._waiting.popleft() if self._waiting else None
        prepared = None
        if job is not None and not job.cancelled:
            try:
                prepared = self._prepared(job)
            except Exception as error:  # Its own fault: the engine has not seen it.
                self._tell(job, Failed(of(error)))
        with self._changed:
            self._reading = None
            if job is not None and prepared is not None:
                self._read.append((job, prepared))
            self._changed.notify_all()

    def _taken(self) -> tuple[Job, dict[str, Any]] | None:
        """The next job, with what ``_prepared`` gave; None where none is ready."""
        while self._next():
            if not self._apart:
                self._read_one()
            with self._changed:
                if self._read:
                    self._changed.notify_all()
                    return self._read.popleft()
        return None

    def _turn(self) -> None:
        """Takes in, decodes, hands out."""
        self._drop()
        while self._engine.room() and (taken := self._taken()) is not None:
            self._entering, prepared = taken
            self._running[self._add(prepared)] = taken[0]
            self._entering = None
        if not self._running or self._apart and not self._full():
            return
        self._engine.run(turns=self.spec.turns, waiting=self._next())
        for ticket, rollout in self._engine.collect():
            job = self._running.pop(ticket)
            self.tokens += int(rollout.mask.sum()) - job.told
            self._tell(job, Finished(
                rollout, None if job.kept is None else np.asarray(to_host(job.kept))[0]))
            job.kept = None
        for ticket, tokens in self._engine.progress().items():
            job = self._running[ticket]
            if len(tokens) > job.told:
                if job.streams or not job.told:
                    self._tell(job, Said(tokens[job.told :]))
                self.tokens += len(tokens) - job.told
                job.told = len(tokens)

    def _drop(self) -> None:
        """Jobs that were cancelled, or whose time is over, leave."""
        now = time.monotonic()
        late = ApiError(504, "the request took longer than the server's time limit",
                        code="timeout")

        def stays(job: Job) -> bool:
            if job.deadline < now:
                self._tell(job, Failed(late))
                job.cancelled = True
            return not job.cancelled

        with self._changed:
            self._waiting = collections.deque(filter(stays, self._waiting))
            self._read = collections.deque(one for one in self._read if stays(one[0]))
        gone = []
        for ticket, job in self._running.items():
            if job.deadline < now:
                self._tell(job, Failed(late))
                job.cancelled = True
            if job.cancelled or job.enough:
                gone.append(ticket)
        if gone:
            self._engine.cancel(gone)

    def _prepared(self, job: Job) -> dict[str, Any]:
        """What ``Engine.add`` takes."""
        batch = collate([job.example], job.shape, self._processor.protocol)
        features = self._blank  # One program for prompts with frames and without.
        if job.shape.slots:
            own, features = _encoded(*self._model, batch.vision, self._merged)
            job.kept = own if job.features else None
        blank = jax.tree.map(lambda x: x[:, :0, :0], batch.vision)  # It has been encoded.
        batch = dataclasses.replace(batch, vision=blank)
        if self._apart:
            batch, features = jax.block_until_ready(self._engine.read(batch, features)), None
        draws = RowDraws(*(np.array([[value]], kind) for value, kind in (
            (job.temperature, np.float32), (job.top_p, np.float32), (job.imagery, bool))))
        return dict(batch=batch, keys=_key(np.uint32(job.seed), np.uint32(job.number)), draws=draws,
                    limits=np.array([[job.limit]], np.int32), data=self._probe(job),
                    features=features)

    def _add(self, prepared: dict[str, Any]) -> int:
        return self._engine.add(**prepared)[0][0]

    def _probe(self, job: Job) -> RowProbe | None:
        if not self.probes:
            return None
        table = np.zeros((self.sampling.max_blocks * self.sampling.latent_size or
                          self.sampling.latent_size, self._width), np.float32)
        if job.probe == "swap" and job.donor is not None:
            table = job.donor[np.arange(len(table)) % len(job.donor)]
        kind = {None: NATURAL, "zero": TABLE, "swap": TABLE, "freeze": FROZEN}[job.probe]
        return RowProbe(np.array([[kind]], np.int32), table[None, None])

    def _recover(self, error: Exception) -> None:
        """A new engine, in which its jobs begin again."""
        logging.exception("the engine failed: %s", one_line(error))
        self._failures += 1
        jobs, self._running = list(self._running.values()), {}
        if self._entering is not None:
            jobs.append(self._entering)
            self._entering = None
        again = []
        for job in jobs:
            job.tries += 1
            job.kept = None
            if job.cancelled or job.tries >= _TRIES:
                self._tell(job, Failed(of(error)))
            else:
                again.append(job)
        try:
            if self._failures >= _MOST_FAILURES:
                raise error
            self._engine = self._fresh()
            with self._changed:
                self._waiting.extendleft(reversed(again))
                self._changed.notify_all()
        except Exception as fatal:
            self.broken = f"the server cannot decode any more ({one_line(fatal)})"
            logging.error(self.broken)
            with self._changed:
                again += [*(job for job, _ in self._read), *self._waiting]
                self._read.clear()
                self._waiting.clear()
            for job in again:
                self._tell(job, Failed(ApiError(503, self.broken, code="unavailable")))

    def _tell(self, job: Job, event: Event) -> None:
        if not job.cancelled:
            with contextlib.suppress(RuntimeError):  # The loop that listened has ended.
                job.emit(event)


@functools.partial(jax.jit, static_argnames=("graphdef", "room"))
def _encoded(graphdef: Any, states: tuple[Any, ...], vision: VisionInput, room: int
             ) -> tuple[Float[Array, "1 F U E"], Float[Array, "1 1 room E"]]:
    """Features of a prompt's frames; flat, in the one shape that prompts of any length take."""
    features = merged(graphdef, states).encode(vision)
    flat = features.reshape(1, 1, -1, features.shape[-1])
    return features, jnp.pad(flat, ((0, 0), (0, 0), (0, room - flat.shape[2]), (0, 0)))


@jax.jit
def _key(seed: Any, number: Any) -> Any:
    """(1, 1) key of a response: what ``sampling.row_keys`` gives its row."""
    return jax.random.fold_in(jax.random.key(seed), number)[None, None]
