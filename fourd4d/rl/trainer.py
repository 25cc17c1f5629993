"""One RL step on the host: sample, score the texts, gather the experience, update on it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fourd4d.core import metrics as metrics_lib
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.metrics import Mean
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import Sample
from fourd4d.data import Prompt, collate
from fourd4d.losses import PolicySpec
from fourd4d.parallel import host_to_global, is_main, row_split, to_host
from fourd4d.processing import Processor
from fourd4d.rewards import DEFAULT, JointReward, Reward, score
from fourd4d.rewards.joint import partners
from fourd4d.rl.grpo import RLSpec, gather, update
from fourd4d.rl.refill import Groups, refill
from fourd4d.sampling import SamplingSpec, generate, rollout, texts
from fourd4d.sampling.interventions import replace
from fourd4d.sampling.tails import pack_tails, padding_share
from fourd4d.train import MetricWriter, TrainState


@dataclasses.dataclass(frozen=True)
class Questions:
    """The prompts of one step: this host's samples, the batch of all hosts, the first example."""

    samples: tuple[Sample, ...]
    batch: Batch
    example: Example | None = None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What stays the same from step to step.

    Attributes:
      graphdef: of the model; weights are in the train state.
      reference: the frozen reference's trainable weights.
      shape: of this host's prompts.
      seed: of the draws.
      cache_features: encode each video once a step; for frozen vision encoders.
      show_every: steps between written responses; 0 for never.
      keep_imagery: told of each written response with imagery: its step, the prompt's example, the
        latents (Q, D) and the features of the example's frames (F, U, E).
    """

    graphdef: Any
    tx: optax.GradientTransformation
    reference: Any
    spec: RLSpec
    policy: PolicySpec
    sampling: SamplingSpec
    processor: Processor
    mesh: Mesh
    shape: BatchShape
    seed: int = 0
    rewards: Sequence[Reward | JointReward] = DEFAULT
    cache_features: bool = True
    show_every: int = 0
    writer: MetricWriter | None = None
    keep_imagery: Callable[[int, Example, np.ndarray, np.ndarray], None] | None = None

    def __post_init__(self) -> None:
        if self.sampling.top_p < 1:
            raise InputError("SamplingSpec.top_p", f"{self.sampling.top_p} in training",
                             "Train with top_p=1: log-probs must be those of the whole softmax")
        if self.sampling.temperature == 0:
            raise InputError("SamplingSpec.temperature", "greedy decoding in training",
                             "A group of equal responses teaches nothing; use 1")
        parts = self.spec.minibatches * self.spec.accumulate
        prompts = self.shape.rows * jax.process_count()
        if prompts % parts:
            raise InputError("RLSpec.minibatches", f"{prompts} prompts a step do not divide into "
                             f"{self.spec.minibatches} minibatches of {self.spec.accumulate} parts",
                             "Change one of the three")
        if self.spec.slots % row_split(self.mesh):
            raise InputError("RLSpec.slots", f"{self.spec.slots} do not divide over "
                             f"{row_split(self.mesh)} devices", "Use a multiple")


@dataclasses.dataclass(frozen=True)
class _Round:
    groups: Groups
    rewards: np.ndarray
    metrics: dict[str, Mean]
    responses: list[str]
    tokens: float


class Step:
    """``state, metrics = step(state, questions)``; ``place`` makes the questions.

    Args:
      more: this host's next prompts for a further round of the same step; None where there are no
        more. All hosts are asked alike.
    """

    def __init__(self, setting: Setting,
                 more: Callable[[], Sequence[Prompt] | None] = lambda: None):
        self.setting = s = setting
        self._more = more
        fixed = dict(graphdef=s.graphdef, spec=s.spec, policy=s.policy, sampling=s.sampling)
        self._gather = jax.jit(functools.partial(gather, **fixed))
        self._update = jax.jit(functools.partial(update, tx=s.tx, **fixed), donate_argnums=0)

    def place(self, prompts: Sequence[Prompt]) -> Questions:
        """This host's prompts → a batch of all hosts'."""
        s, protocol = self.setting, self.setting.processor.protocol
        if not s.sampling.imagery:  # Who never imagines is never read.
            protocol = dataclasses.replace(protocol, reader=None)
        batch = collate([p.example for p in prompts], s.shape, protocol,
                        names=[p.where for p in prompts])
        return Questions(tuple(p.sample for p in prompts), host_to_global(batch, s.mesh),
                         prompts[0].example if prompts else None)

    def sample(self, state: TrainState, batch: Batch, number: int = 0, fed: Any = None
               ) -> tuple[Any, Rollout]:
        """(features or None, responses). The keys depend on seed, update, round and row.

        Args:
          fed: what ``interventions.replace`` feeds, a table for each response; by default the
            responses' own latents.
        """
        s = self.setting
        other: dict[str, Any] = {} if fed is None else dict(intervene=replace, data=fed)
        key = jax.random.key(s.seed)
        if number:  # Counted down from the end, where no update's number is.
            key = jax.random.fold_in(key, 2**32 - number)
        key = jax.random.fold_in(key, int(state.step))
        states = state.params, state.frozen
        features = encode(s.graphdef, states, batch) if s.cache_features else None
        if not s.spec.slots:
            return features, generate(s.graphdef, states, batch, key, s.sampling, s.spec.group,
                                      features=features, **other)
        return features, rollout(s.graphdef, states, batch, key, s.sampling, s.spec.group,
                                 slots=s.spec.slots, shards=row_split(s.mesh), features=features,
                                 **other)

    def swapped(self, state: TrainState, questions: Questions, rollout: Rollout, number: int = 0
                ) -> list[str]:
        """This host's texts of the same draws, fed what their counterparts imagined.

        Response k to a prompt is fed the latents of response k to the prompt that it is a pair
        with, over and over where they are too few. Where those are none, its own.
        """
        s, group = self.setting, self.setting.spec.group
        said = own_rows(to_host(rollout), jax.process_index(), jax.process_count())
        whose = np.arange(s.shape.rows)
        whose[: len(questions.samples)] = partners(questions.samples)
        rows = (whose[:, None] * group + np.arange(group)).reshape(-1)
        counts = said.latent_index.max(axis=1)[rows] + 1
        places = np.arange(said.latents.shape[1]) % np.maximum(counts, 1)[:, None]
        table = np.take_along_axis(np.asarray(said.latents[rows], np.float32), places[..., None],
                                   axis=1)
        fed = host_to_global((table, counts > 0), s.mesh)
        again = self.sample(state, questions.batch, number, fed)[1]
        again = dataclasses.replace(again, latents=np.zeros((again.tokens.shape[0], 0, 0)))
        again = own_rows(to_host(again), jax.process_index(), jax.process_count())
        return texts(again, s.processor.tokenizer, s.sampling)

    def score(self, questions: Questions, rollout: Rollout, swapped: Sequence[str] | None = None
              ) -> tuple[np.ndarray, dict[str, Mean], list[str]]:
        """(rewards of all hosts' responses (P, G), means of the parts, this host's texts).

        Args:
          swapped: what the method of that name gave, for rewards that compare with it.
        """
        s, group = self.setting, self.setting.spec.group
        single = [reward for reward in s.rewards if not isinstance(reward, JointReward)]
        curious = any(getattr(reward, "wants_latents", False) for reward in single)
        said = rollout if curious else dataclasses.replace(
            rollout, latents=np.zeros((rollout.tokens.shape[0], 0, 0)))
        said = own_rows(to_host(said), jax.process_index(), jax.process_count())
        responses = texts(said, s.processor.tokenizer, s.sampling)
        filler = [{r.name: 0.0 for r in s.rewards} | {"reward": 0.0}] * group
        fed = said.latent_index.max(axis=1) + 1

        def value(sample: Sample, row: int) -> dict[str, float]:
            own = (said.latents[row, : fed[row]],) if curious else ()
            return score(sample, responses[row], single, *own)

        parts = [value(sample, i * group + k) for i, sample in enumerate(questions.samples)
                 for k in range(group)]
        for reward in s.rewards:
            if isinstance(reward, JointReward):
                told = reward(questions.samples, self._by_prompt(questions, responses),
                              None if swapped is None else self._by_prompt(questions, swapped))
                for part, one in zip(parts, told.reshape(-1), strict=True):
                    part[reward.name] = float(one)
                    part["reward"] += reward.weight * float(one)
        real = np.arange(s.shape.rows * group) < len(parts)
        parts += filler * (s.shape.rows - len(questions.samples))
        table = {name: np.array([p[name] for p in parts], np.float32) for name in parts[0]}
        everyone = to_host(host_to_global({"real": real, **table}, s.mesh))
        means = {f"reward/{name}".removesuffix("/reward"): Mean.of(everyone[name],
                                                                   everyone["real"])
                 for name in table}
        return everyone["reward"].reshape(-1, group), means, responses

    def _by_prompt(self, questions: Questions, responses: Sequence[str]) -> list[Sequence[str]]:
        group = self.setting.spec.group
        return [responses[i * group : (i + 1) * group] for i in range(len(questions.samples))]

    def __call__(self, state: TrainState, questions: Questions
                 ) -> tuple[TrainState, dict[str, Mean]]:
        s, began = self.setting, time.perf_counter()
        number = int(state.step)
        first = self._round(state, questions, 0)
        metrics, tokens = first.metrics, first.tokens

        def another(at: int) -> tuple[Groups, np.ndarray] | None:
            nonlocal metrics, tokens
            prompts = self._more()
            if prompts is None:
                return None
            drawn = self._round(state, self.place(prompts), at)
            metrics, tokens = metrics_lib.add(metrics, drawn.metrics), tokens + drawn.tokens
            return drawn.groups, drawn.rewards

        found = refill(first.groups, first.rewards, s.spec.rounds, s.mesh, another)
        groups, rewards, rollout = found.groups, found.rewards, found.groups.rollout
        if s.spec.rounds > 1:
            metrics |= {"rounds": Mean(found.rounds, 1.0),
                        "replaced_groups": Mean(found.replaced, 1.0)}
        sampled = time.perf_counter()
        tails = None
        if s.spec.pack:
            lengths = to_host(rollout.mask).sum(axis=1).reshape(-1, s.spec.group)
            tails = pack_tails(lengths, s.sampling.max_tokens)
            metrics["update_padding"] = Mean(padding_share(tails), 1.0)
        experience, gathered = self._gather(state.params, state.frozen, s.reference, groups.prompts,
                                            groups.features, rollout, rewards, tails=tails)
        metrics |= gathered
        seen: dict[str, Mean] = {}
        for at in range(s.spec.epochs * s.spec.minibatches):
            state, learnt = self._update(state, experience, at % s.spec.minibatches)
            # Only before the first update are the weights those that sampled.
            gap = {k: learnt.pop(k) for k in ("logp_diff_mean", "logp_diff_max")}
            if at == 0 and "logp_diff_max" not in metrics:
                metrics |= gap
            seen = metrics_lib.add(seen, learnt)
        jax.block_until_ready(state.step)
        ended = time.perf_counter()
        self._show(number, questions, first.responses, first.rewards, first.groups.features,
                   first.groups.rollout)
        return state, {
            **metrics, **seen,
            "rollout_tokens_per_second": Mean(tokens, sampled - began),
            "response_tokens_per_second": Mean(tokens, ended - began),
        }

    def _round(self, state: TrainState, questions: Questions, number: int) -> _Round:
        features, rollout = self.sample(state, questions.batch, number)
        swaps = any(getattr(reward, "swaps", False) for reward in self.setting.rewards)
        rewards, metrics, responses = self.score(questions, rollout, *(
            [self.swapped(state, questions, rollout, number)] if swaps else []))
        return _Round(Groups(questions.batch, features, rollout), rewards, metrics, responses,
                      float(np.sum(to_host(rollout.mask))))

    def _show(self, number: int, questions: Questions, responses: list[str],
              rewards: np.ndarray, features: Any, rollout: Rollout) -> None:
        s = self.setting
        updates = s.spec.epochs * s.spec.minibatches
        if s.writer is None or not s.show_every or (number // updates) % s.show_every:
            return
        first = jax.process_index() * s.shape.rows
        s.writer.write_texts(number // updates + 1, {
            "sample": questions.samples[0].id, "response": responses[0],
            "response_reward": f"{float(rewards[first, 0]):g}"})
        if s.keep_imagery is None or features is None:
            return
        seen, latents, index = to_host(first_rows((features, rollout.latents,
                                                   rollout.latent_index), s.mesh))
        fed = int(index.max()) + 1
        if is_main() and questions.example is not None and fed:
            s.keep_imagery(number // updates + 1, questions.example, latents[:fed], seen)


def own_rows(tree: Any, process: int, processes: int) -> Any:
    """A process's part of arrays that hold all processes' rows."""

    def part(x: np.ndarray) -> np.ndarray:
        rows = len(x) // processes
        return x[process * rows : (process + 1) * rows]

    return jax.tree.map(part, tree)


@functools.partial(jax.jit, static_argnums=1)
def first_rows(arrays: Any, mesh: Mesh) -> Any:
    """The first row of each array, on every device."""
    return jax.lax.with_sharding_constraint(
        jax.tree.map(lambda x: x[0], arrays), NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames="graphdef")
def encode(graphdef: Any, states: tuple[Any, ...], batch: Batch) -> Any:
    """Features of a batch's frames; None without frames."""
    if not batch.vision.patches.shape[1]:
        return None
    return nnx.merge(graphdef, *states).encode(batch.vision)


def copied(params: Any) -> Any:
    """The weights in buffers of their own: the reference outlives donated train states."""
    return jax.tree.map(jnp.copy, params)
