"""The programs of a 4DRL step, from shapes alone: rollout, scoring, update."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from fourd4d.bench.common import flops
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.losses import PolicySpec
from fourd4d.models import ModelConfig, Thinker
from fourd4d.parallel import row_split
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.rl.grpo import RLSpec, gather, update
from fourd4d.rl.setup import trains_vision
from fourd4d.rl.trainer import encode
from fourd4d.sampling import SamplingSpec, engine, generate, refill
from fourd4d.train import OptimizerSpec, TrainState, abstract_state, make_optimizer
from fourd4d.train.state import shapes


@dataclasses.dataclass(frozen=True)
class RLProgram:
    """A part of a step.

    Attributes:
      name: ``rollout`` (``prefill`` and ``decode`` where slots are refilled), ``score`` or
        ``update``.
      lower: gives what is to be compiled; call it within ``parallel.use(mesh)``.
      beside: bytes on a device that are held meanwhile and are not among its arguments.
      flops: operations of its runs in one step, on all devices.
      runs: in one step.
    """

    name: str
    lower: Callable[[], Any]
    beside: int
    flops: float
    runs: int = 1


@dataclasses.dataclass(frozen=True)
class RLPrograms:
    """The programs of one step, in order.

    Attributes:
      turns: of decoding: tokens that every row, or slot, is fed one after the other.
    """

    state: TrainState
    parts: Sequence[RLProgram]
    turns: int

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)


def rl_programs(model: ModelConfig, protocol: ProtocolSpec, shape: BatchShape, mesh: Mesh, *,
                spec: RLSpec, policy: PolicySpec, sampling: SamplingSpec,
                optimizer: OptimizerSpec, trainable: Sequence[str]) -> RLPrograms:
    """What ``rl.trainer.Step`` runs for prompts of one shape, all hosts together.

    Call it within ``parallel.use(mesh)``. Every response is taken to use its whole budget, so that
    the cache is at its largest. With ``spec.pack``, scoring and update are those of responses that
    are not packed.
    """
    tx = make_optimizer(optimizer)
    graphdef, state = abstract_state(lambda rngs: Thinker(model, rngs), tx, mesh,
                                     trainable=trainable)
    # Kernels hide their operations, and the weights are the same.
    plain, _ = shapes(lambda rngs: Thinker(dataclasses.replace(model, attention="xla"), rngs))
    prompts = placed(Batch.spec(dataclasses.replace(shape, overlays=0), protocol), mesh)
    states = state.params, state.frozen
    features = None
    if shape.slots and not trains_vision(state.params):
        features = placed(jax.eval_shape(functools.partial(encode, graphdef), states, prompts),
                          mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def sample(graphdef: Any, states: Any, prompts: Any, features: Any, key: Any) -> Any:
        return generate(graphdef, states, prompts, key, sampling, spec.group, features=features)

    asked = states, prompts, features, key
    rollout = placed(jax.eval_shape(functools.partial(sample, graphdef), *asked), mesh)

    def score(graphdef: Any, *args: Any) -> Any:
        return gather(*args, graphdef=graphdef, spec=spec, policy=policy, sampling=sampling)[0]

    rewards = jax.ShapeDtypeStruct((shape.rows, spec.group), jnp.float32)
    scored = *states, state.params, prompts, features, rollout, rewards
    experience = placed(jax.eval_shape(functools.partial(score, graphdef), *scored), mesh)

    def learn(graphdef: Any, state: Any, experience: Any) -> Any:
        return update(state, experience, 0, graphdef=graphdef, tx=tx, spec=spec, policy=policy,
                      sampling=sampling)

    def program(name: str, function: Any, args: tuple[Any, ...], beside: Any, runs: int = 1,
                more: float = 0.0, **options: Any) -> RLProgram:
        return RLProgram(
            name, lambda: jax.jit(functools.partial(function, graphdef), **options).lower(*args),
            local_bytes(beside), more + runs * flops.count(functools.partial(function, plain),
                                                           *args), runs)

    responses, turns = shape.rows * spec.group, sampling.max_tokens
    weights = weights_read(state)
    # One turn is in the traced program.
    decoding = 2.0 * weights * responses * (turns - 1)
    held = state.opt_state, state.params  # The reference is as large as what is trained.
    parts = [program("rollout", sample, asked, held, more=decoding)]
    slots = responses
    if spec.slots:
        slots = min(spec.slots, responses)
        parts = _engine(graphdef, asked, shape, mesh, spec, sampling, local_bytes(held),
                        parts[0].flops)
    parts += [program("score", score, scored, state.opt_state),
              program("update", learn, (state, experience), (state.params, rollout),
                      spec.epochs * spec.minibatches, donate_argnums=0)]
    return RLPrograms(state, parts, -(-responses * turns // slots))


def _engine(graphdef: Any, asked: tuple[Any, ...], shape: BatchShape, mesh: Mesh, spec: RLSpec,
            sampling: SamplingSpec, held: int, count: float) -> list[RLProgram]:
    """Reading prompts into lanes, and decoding in slots that are refilled."""
    states, prompts, features, _ = asked
    shards = row_split(mesh)
    sizes = engine.shape_for(prompts, spec.group, slots=spec.slots, shards=shards)
    # Its arrays lie where the compiler puts them.
    made = refill.empty.lower(graphdef, states, sizes, sampling)
    try:
        places = made.compile().output_shardings
    except jax.errors.JaxRuntimeError:  # Empty caches do not fit: who compiles this part is told.
        return [RLProgram("decode", lambda: made, held, count)]
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                         made.out_info, places)

    together = engine.read_at_once(sizes)

    def some(tree: Any) -> Any:
        return placed(jax.eval_shape(
            lambda tree: refill.picked(tree, jnp.zeros((shards, together), jnp.int32)), tree), mesh)

    def admission() -> refill.Admission:
        each = jnp.zeros((shards * together, spec.group), jnp.int32)
        return refill.Admission(each[:, 0], each, jax.vmap(jax.vmap(jax.random.key))(each), each,
                                None)

    where = jax.eval_shape(admission)
    waiting = jax.ShapeDtypeStruct((shards,), jnp.int32)
    held += local_bytes((prompts, features))
    return [
        RLProgram("prefill", lambda: refill.admit.lower(
            graphdef, states, state, some(prompts), some(features), where, sizes, sampling), held,
            0.0, -(-shape.rows // (shards * together))),
        RLProgram("decode", lambda: refill.segment.lower(
            graphdef, states, state, jax.ShapeDtypeStruct((), jnp.int32), waiting, sizes,
            sampling), held, count)]


def placed(tree: Any, mesh: Mesh) -> Any:
    """Shapes with their rows split over the mesh."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        tree, batch_shardings(tree, mesh))


def local_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes on one device."""

    def one(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize if hasattr(x.dtype, "itemsize") else 0

    return sum(map(one, jax.tree.leaves(tree)))


def sizes(tree: Any) -> Mapping[str, tuple[int, int]]:
    """(numbers, bytes on one device) by the first part of the path."""
    found: dict[str, tuple[int, int]] = {}
    for part in tree if isinstance(tree, tuple) else (tree,):
        for path, leaf in nnx.to_flat_state(part):
            value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            before = found.get(str(path[0]), (0, 0))
            found[str(path[0])] = (before[0] + math.prod(value.shape),
                                   before[1] + local_bytes(value))
    return found


def weights_read(state: TrainState) -> int:
    """Parameters that decoding a token multiplies with.

    All but the vision encoder's, and but a table of embeddings that is no output matrix too.
    """
    found = sizes((state.params, state.frozen))
    idle = {"vision", "embedding"} if "output" in found else {"vision"}
    return sum(size for name, (size, _) in found.items() if name not in idle)
