"""Trains by DIFT: ``python -m fourd4d.dift --config=configs/dift_tiny.py --config.field=value``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

import jax

from fourd4d.checkpoint.orbax import CheckpointManager
from fourd4d.config import fields
from fourd4d.config.build import frozen
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.storage import check_writable, home
from fourd4d.core.terminal import say
from fourd4d.data import (
    FailureLimit,
    Reading,
    Shard,
    dift_pipeline,
    measure,
    open_source,
)
from fourd4d.data.collate import holding_both
from fourd4d.dift.features import CachedEncoder
from fourd4d.dift.step import DiftSpec, evaluate, update
from fourd4d.models import ModelConfig
from fourd4d.parallel import host_to_global, start
from fourd4d.pretrained.open import described, packed_rows, specs, training
from fourd4d.processing import Processor
from fourd4d.train import (
    Every,
    MetricWriter,
    OptimizerSpec,
    Outcome,
    make_optimizer,
    origin,
    run,
    state_from,
)
from fourd4d.train.overview import log_parameters
from fourd4d.train.resume import resumed


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
      shape: of this host's batches before examples are packed; ``rows`` after.
      batches: this host's, in the run's order.
      read, size: a source → its batches; its shape.
    """

    source: Any
    shape: BatchShape
    rows: BatchShape
    batches: Any
    read: Callable[..., Any]
    size: Callable[..., BatchShape]


def data_of(config: Any, processor: Processor) -> Data:
    """Opens the run's data, and looks at it to find the batches' shape."""
    limit, fps = FailureLimit.of(config.data.to_dict()), config.data.assumed_fps or None
    read = functools.partial(
        dift_pipeline, processor=processor, imagery=config.imagery, assumed_fps=fps,
        shard=Shard(jax.process_index(), jax.process_count()), limit=limit)
    size = functools.partial(
        measure, processor=processor, rows=config.batch // jax.process_count(),
        imagery=config.imagery, examples=config.data.measure or None,
        round_to=config.data.round_to, assumed_fps=fps, limit=limit)
    source = open_source(config.data.path, config.data.root or None, keep_bad=True)
    shape = size(source)
    rows = packed_rows(shape, config.data.pack)
    batches = iter(read(source, shape=rows, seed=config.seed, epochs=config.epochs or None,
                        pack=bool(config.data.pack), reading=frozen(
                            Reading, config.reading, "reading")))
    return Data(source, shape, rows, batches, read, size)


def plan(config: Any, topology: str = "") -> None:
    """Tells what the run would need; see ``fourd4d.dry_run``."""
    from fourd4d import dry_run

    start()
    model, processor = described(config)
    data = data_of(config, processor)
    with contextlib.closing(data.batches):
        batch = next(data.batches)
    dry_run.show(dry_run.dift_plan(
        config, model, processor, data.rows, batch, spec=frozen(DiftSpec, config.dift, "dift"),
        optimizer=frozen(OptimizerSpec, config.optimizer, "optimizer", total_steps=config.steps),
        topology=topology))


def train(config: Any) -> Outcome:
    """Runs, or resumes, what ``config`` describes; see ``configs/dift_tiny.py``."""
    workdir = home(config.workdir)
    check_writable(workdir)
    with training(config) as (mesh, bundle):
        data = data_of(config, bundle.processor)
        source, batches = data.source, data.batches

        tests = None
        if config.data.held_out:
            test = open_source(config.data.held_out, config.data.held_out_root or None,
                               keep_bad=True)
            tests = data.read(test, shape=holding_both(data.shape, data.size(test)), epochs=1,
                              shuffle=False, remainder="pad")

        spec = frozen(DiftSpec, config.dift, "dift")
        tx = make_optimizer(frozen(OptimizerSpec, config.optimizer, "optimizer",
                                   total_steps=config.steps))
        state = state_from(bundle.tree, tx, mesh, trainable=config.trainable)
        step = jax.jit(functools.partial(
            update, graphdef=bundle.graphdef, tx=tx, spec=spec, accumulate=config.accumulate,
            seed=config.seed),
            donate_argnums=0)

        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(batches))
            checkpoints = stack.enter_context(CheckpointManager(
                workdir / "checkpoints", keep=config.keep, processor=bundle.processor.save))
            encoded: Callable[[Batch], Batch] = lambda batch: batch
            if config.data.feature_cache:
                encoded = stack.enter_context(CachedEncoder(
                    bundle.graphdef, state, bundle.config, config.data.feature_cache,
                    config.data.feature_cache_bytes))

            def place(batch: Batch) -> Batch:
                return host_to_global(encoded(batch), mesh)

            about = specs(config, bundle.config, bundle.processor, config.trainable) | origin(
                state.params, config.seed, source.fingerprint())
            first, state = resumed(checkpoints, state, batches, about, workdir)
            log_parameters(state)
            writer = MetricWriter(workdir, first + 1)

            def held_out(at: int, now: Any) -> None:
                losses = evaluate(now.params, now.frozen, tests or (), graphdef=bundle.graphdef,
                                  spec=spec, place=place)
                writer.write_scalars(at, {f"held_out/{k}": v for k, v in losses.items()})

            hooks = [] if tests is None else [Every(config.eval_every, held_out, last=True)]
            with writer:
                return run(
                    state, step, batches, first=first, total=config.steps, writer=writer,
                    place=place, hooks=hooks,
                    save=lambda at, now: checkpoints.save(at, now, batches, about, force=True),
                    save_every=config.save_every, log_every=config.log_every, name="dift")


HELP: Final = Help(fields.DIFT, {"optimizer": OptimizerSpec, "reading": Reading,
                                 "model": ModelConfig, "protocol": ProtocolSpec}, "dift_3b")


def main(config: Any) -> None:
    outcome = train(config)
    say(f"{outcome.reason} at step {outcome.step}: {config.workdir}")


if __name__ == "__main__":
    launch(main, sections={"dift": DiftSpec}, about=HELP, dry=plan)
