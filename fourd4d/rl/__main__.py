"""Trains by 4DRL: ``python -m fourd4d.rl --config=configs/rl_tiny.py --config.field=value``."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Final

import jax
import numpy as np

from fourd4d.checkpoint.orbax import CheckpointManager
from fourd4d.config import fields
from fourd4d.config.build import frozen
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.storage import check_writable, home
from fourd4d.core.terminal import say
from fourd4d.data import (
    FailureLimit,
    Reading,
    Shard,
    collate,
    open_source,
    prompt_pipeline,
)
from fourd4d.eval import heatmaps
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.losses import PolicySpec
from fourd4d.models import ModelConfig
from fourd4d.parallel import start
from fourd4d.pretrained.open import described, specs, training
from fourd4d.processing import Processor
from fourd4d.rewards import JointReward, named_rewards
from fourd4d.rl.grpo import RLSpec
from fourd4d.rl.setup import policy_spec, prompt_shape, trains_vision
from fourd4d.rl.trainer import Setting, Step, copied
from fourd4d.sampling import SamplingSpec
from fourd4d.train import (
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


def data_of(config: Any, processor: Processor) -> tuple[Any, BatchShape, Any]:
    """(source, shape of this host's prompts, its batches of prompts in the run's order)."""
    fps, limit = config.data.assumed_fps or None, FailureLimit.of(config.data.to_dict())
    source = open_source(config.data.path, config.data.root or None, keep_bad=True)
    rows = config.prompts // jax.process_count()
    shape = prompt_shape(source, processor, rows, look_at=config.data.measure or None,
                         round_to=config.data.round_to, assumed_fps=fps, limit=limit)
    return source, shape, iter(prompt_pipeline(
        source, processor, rows, seed=config.seed, epochs=config.epochs or None,
        shard=Shard(jax.process_index(), jax.process_count()), assumed_fps=fps,
        reading=frozen(Reading, config.reading, "reading"), limit=limit, shape=shape,
        pairs=config.data.pairs))


def optimizer_of(config: Any, spec: RLSpec) -> OptimizerSpec:
    """The optimizer, whose schedule counts updates."""
    return frozen(OptimizerSpec, config.optimizer, "optimizer",
                  total_steps=config.steps * spec.epochs * spec.minibatches)


def policy_of(config: Any) -> PolicySpec:
    return policy_spec(config.variant, config.sampling.max_tokens, config.policy.to_dict())


def sampling_of(config: Any, processor: Processor) -> SamplingSpec:
    return SamplingSpec.of(processor.tokenizer, processor.protocol, imagery=config.imagery,
                           **config.sampling)


def plan(config: Any, topology: str = "") -> None:
    """Tells what the run would need; see ``fourd4d.dry_run``."""
    from fourd4d import dry_run

    start()
    model, processor = described(config)
    _, shape, batches = data_of(config, processor)
    with contextlib.closing(batches):
        examples = [prompt.example for prompt in next(batches)]
    spec = frozen(RLSpec, config.rl, "rl")
    dry_run.show(dry_run.rl_plan(
        config, model, processor, shape, collate(examples, shape, processor.protocol),
        optimizer=optimizer_of(config, spec), spec=spec,
        policy=policy_of(config), sampling=sampling_of(config, processor), topology=topology))


def train(config: Any) -> Outcome:
    """Runs, or resumes, what ``config`` describes; see ``configs/rl_tiny.py``."""
    workdir = home(config.workdir)
    check_writable(workdir)
    rewards = rewards_of(config.rewards)
    if not config.data.pairs and any(isinstance(one, JointReward) for one in rewards):
        raise InputError("config.data.pairs", "False, with a reward of pairs",
                         "Give --config.data.pairs=True")
    with training(config) as (mesh, bundle):
        processor = bundle.processor
        source, shape, batches = data_of(config, processor)

        spec = frozen(RLSpec, config.rl, "rl")
        tx = make_optimizer(optimizer_of(config, spec))
        state = state_from(bundle.tree, tx, mesh, trainable=config.trainable)
        reference = copied(state.params)
        about = specs(config, bundle.config, processor, config.trainable) | origin(
            reference, config.seed, source.fingerprint() + " in pairs" * config.data.pairs)

        with contextlib.closing(batches), CheckpointManager(
                workdir / "checkpoints", keep=config.keep,
                processor=processor.save) as checkpoints:
            first, state = resumed(checkpoints, state, batches, about, workdir)
            log_parameters(state)
            with MetricWriter(workdir, first + 1) as writer:
                step = Step(Setting(
                    graphdef=bundle.graphdef, tx=tx, reference=reference, spec=spec,
                    policy=policy_of(config), sampling=sampling_of(config, processor),
                    processor=processor, mesh=mesh, seed=config.seed, writer=writer, shape=shape,
                    rewards=rewards,
                    cache_features=not trains_vision(state.params),
                    show_every=config.show_every,
                    keep_imagery=functools.partial(
                        keep_maps, MapStore(workdir / "maps"), processor.protocol)),
                    lambda: next(batches, None))
                return run(
                    state, step, batches, first=first, total=config.steps, writer=writer,
                    place=step.place, tokens=lambda _: 0, save_every=config.save_every,
                    save=lambda at, now: checkpoints.save(at, now, batches, about, force=True),
                    log_every=config.log_every, name="rl")


def keep_maps(store: MapStore, protocol: ProtocolSpec, step: int, example: Example,
              latents: np.ndarray, features: np.ndarray) -> None:
    """Keeps the heat maps of a step's written response, under the step's number."""
    store.save(str(step), heatmaps.mental_images(latents, features, example, protocol))


def rewards_of(section: Any) -> Any:
    """Weights by name, and ``functions``."""
    weights = {name: value for name, value in section.items() if name != "functions"}
    return named_rewards(weights, tuple(section.get("functions", ())))


HELP: Final = Help(fields.RL, {
    "optimizer": OptimizerSpec, "reading": Reading, "model": ModelConfig, "protocol": ProtocolSpec,
    "rl": RLSpec, "policy": PolicySpec, "sampling": SamplingSpec}, "rl_3b")


def main(config: Any) -> None:
    outcome = train(config)
    say(f"{outcome.reason} at step {outcome.step}: {config.workdir}")


if __name__ == "__main__":
    launch(main, about=HELP, dry=plan)
