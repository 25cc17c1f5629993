"""The loop both trainers run: step, log one step late, act now and then, save, stop cleanly."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from fourd4d.core import metrics as metrics_lib
from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told
from fourd4d.core.metrics import Mean
from fourd4d.parallel import ending_together
from fourd4d.train.progress import Progress
from fourd4d.train.writer import MetricWriter

S = TypeVar("S")


class NonFiniteError(RuntimeError):
    """A metric became NaN or infinite; the message names the step and the metrics."""

    def __init__(self, step: int, values: Mapping[str, float]):
        self.step = step
        self.names = sorted(key for key, value in values.items() if not math.isfinite(value))
        finite = {k: round(v, 6) for k, v in values.items() if math.isfinite(v)}
        super().__init__(
            f"step {step}: {', '.join(self.names)} not finite; the run stops before it saves. "
            f"The others: {finite}. Resume from the last checkpoint with a lower learning rate, "
            "or look at the batch of this step.")


class Preemption:
    """Notices SIGTERM inside a ``with`` block; a second SIGTERM acts as usual."""

    def __init__(self) -> None:
        self._seen = False
        self._before: Any = None

    def _note(self, *_: Any) -> None:
        self._seen = True
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def __enter__(self) -> Preemption:
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # Only the main thread may set handlers; elsewhere nobody signals us.
            self._before = None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """True once a stop was asked for; on several hosts all say so at the same step."""
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step)) or bool(
                np.any(multihost_utils.process_allgather(np.array(self._seen))))
        return self._seen


@dataclasses.dataclass(frozen=True)
class Every:
    """Calls ``act(step, state)`` after every ``steps`` updates and, with ``last``, at the end."""

    steps: int
    act: Callable[[int, Any], None]
    last: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[S]):
    """Why a run ended, and its state."""

    state: S
    step: int
    reason: Literal["finished", "end of data", "preempted"]


class _Log:
    """Metrics of steps not yet read, and their running means."""

    def __init__(self, writer: MetricWriter, progress: Progress, every: int):
        self._writer, self._progress, self._every = writer, progress, every
        self._pending: tuple[int, dict[str, Any], int] | None = None
        self._means: dict[str, Mean] = {}
        self._tokens, self._steps = 0, 0
        self._since: float | None = None

    def push(self, step: int, metrics: Mapping[str, Any], tokens: int) -> None:
        """Reads the step before this one: by now the device is busy with this one."""
        before, self._pending = self._pending, (step, dict(metrics), tokens)
        if before is not None:
            self._read(*before)

    def settle(self) -> None:
        """Waits for the pending step. Raises NonFiniteError."""
        before, self._pending = self._pending, None
        if before is not None:
            self._read(*before)

    def _read(self, step: int, metrics: dict[str, Any], tokens: int) -> None:
        host = jax.device_get(metrics)
        means = {k: v if isinstance(v, Mean) else Mean(float(v), 1.0) for k, v in host.items()}
        means = {k: Mean(np.float64(m.total), np.float64(m.weight)) for k, m in means.items()}
        values = {k: float(m.total / m.weight) if m.weight else 0.0 for k, m in means.items()}
        if not all(math.isfinite(v) for v in values.values()):
            raise NonFiniteError(step, values)
        now = time.perf_counter()
        if self._since is None:  # The first step compiles; the clock starts after it.
            self._since = now
        else:
            self._tokens, self._steps = self._tokens + tokens, self._steps + 1
        self._means = metrics_lib.add(self._means, means)
        if step % self._every == 0:
            self.write(step)

    def write(self, step: int) -> None:
        """Means since the last writing; then they start afresh."""
        if not self._means:
            return
        out = {k: float(m.total / m.weight) if m.weight else 0.0 for k, m in self._means.items()}
        now = time.perf_counter()
        if self._since is not None and self._steps and now > self._since:
            seconds = now - self._since
            out["seconds_per_step"] = seconds / self._steps
            if self._tokens:
                out["tokens_per_second"] = self._tokens / seconds
            self._since, self._tokens, self._steps = now, 0, 0
        self._means = {}
        self._writer.write_scalars(step, out)
        self._writer.flush()
        self._progress.update(step, out)


def count_tokens(batch: Any) -> int:
    """Tokens of a host batch that are not padding, over all hosts; 0 if it has no segments."""
    segments = getattr(batch, "segment_ids", None)
    if segments is None:
        return 0
    return int(np.count_nonzero(np.asarray(segments))) * jax.process_count()


@ending_together((InputError, NonFiniteError))  # Before anything waits for the others to end.
def run(
    state: S,
    step: Callable[[S, Any], tuple[S, Mapping[str, Any]]],
    batches: Iterator[Any],
    *,
    first: int,
    total: int,
    writer: MetricWriter,
    place: Callable[[Any], Any] = lambda batch: batch,
    save: Callable[[int, S], Any] | None = None,
    save_every: int = 0,
    hooks: Sequence[Every] = (),
    log_every: int = 1,
    tokens: Callable[[Any], int] = count_tokens,
    name: str = "train",
    show: bool = True,
) -> Outcome[S]:
    """Runs updates ``first + 1 … total`` and returns the state after the last.

    Each round: draw a batch, step, read the *previous* step's metrics, run the hooks, save. Saving
    comes before the next batch is drawn, so that the iterator's position fits the weights. The end,
    the end of the data and SIGTERM all save.

    Args:
      step: (state, batch) → (state, metrics): ``Mean`` pairs, or scalars. It may donate the state.
      batches: host batches.
      first: updates already made (0, or the restored step).
      place: host batch → device batch, e.g. ``host_to_global``.
      save: writes a checkpoint of the state (and of the iterator) after a given number of updates.
      save_every: 0 saves only at the end.
      log_every: metrics are means over this many steps.
      tokens: host batch → its number of tokens, for ``tokens_per_second``.

    Raises:
      NonFiniteError: before anything non-finite is saved.
      DiskFullError: no space left.
    """
    saved, now, reason = first, first, "finished"
    lost = getattr(batches, "failed", 0)

    def keep(at: int) -> None:
        nonlocal saved
        log.settle()
        writer.flush(now=True)  # A resumed run begins with the rows up to here.
        if save is not None and saved != at:
            with full_disk_told(f"checkpoint of step {at}"):
                save(at, state)
            saved = at

    with Progress(name, first, total, show) as progress, Preemption() as preemption:
        log = _Log(writer, progress, log_every)
        while now < total:
            try:
                batch = next(batches)
            except StopIteration:
                reason = "end of data"
                break
            count = tokens(batch)
            state, metrics = step(state, place(batch))
            now += 1
            log.push(now, metrics, count)
            if lost != (lost := getattr(batches, "failed", 0)):
                writer.write_scalars(now, {"rows_left_out": lost})
            for hook in hooks:
                if hook.steps and now % hook.steps == 0:
                    hook.act(now, state)
            if save_every and now % save_every == 0:
                keep(now)
            if preemption.reached(now):
                reason = "preempted"
                break
        log.settle()
        log.write(now)
        if reason != "preempted":  # There is little time then: save and leave.
            for hook in hooks:
                if hook.last and not (hook.steps and now % hook.steps == 0 and now > first):
                    hook.act(now, state)
        keep(now)
    if lost:
        logging.warning("%d rows were left out of training in all", lost)
    writer.flush()
    return Outcome(state, now, reason)
