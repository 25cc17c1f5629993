"""What a training run would need, told before it begins: ``--dry_run`` of both trainers.

    python -m fourd4d.dift --config=configs/dift_3b.py --dry_run
    python -m fourd4d.rl --config=configs/rl_3b.py --dry_run --topology=v5p:2x2x2

Reads the data and the checkpoint's description, not its weights; compiles the run's own programs
from shapes; writes nothing. With ``--topology`` they are compiled for a TPU that is not here, which
needs ``libtpu``.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from fourd4d.bench import fit
from fourd4d.bench.common import flops
from fourd4d.bench.common.accelerators import CHIPS, PEAKS
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.terminal import plain_console
from fourd4d.models import ModelConfig, Thinker
from fourd4d.parallel import DEFAULT_RULES, make_mesh, use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.parallel.memory import free_bytes
from fourd4d.processing import Processor
from fourd4d.processing.latent_spans import marked
from fourd4d.rl.grpo import gather
from fourd4d.rl.grpo import update as rl_update
from fourd4d.rl.trainer import encode
from fourd4d.sampling import generate
from fourd4d.train import OptimizerSpec, abstract_state, make_optimizer

_PADS: Final = re.compile(r"((?:<\|(?:image|video)_pad\|>)+)")
_TEXT: Final = 900  # Characters shown of a row.


@dataclasses.dataclass(frozen=True)
class Device:
    """What the programs are compiled for.

    Attributes:
      name: as printed.
      room: bytes of memory of each device that are free; None where unknown.
      rate: operations a second that a device is held to reach; None where unknown.
      how: where the rate comes from.
    """

    name: str
    room: int | None
    rate: float | None
    how: str


def mesh_and_device(spec: str, topology: str = "") -> tuple[Mesh, Device]:
    """The run's mesh over the devices here, or over those of a TPU topology."""
    if topology:
        mesh, chip = make_mesh(spec, fit.devices_of(topology)), CHIPS[topology.partition(":")[0]]
        return mesh, Device(topology, chip.hbm_bytes, fit.UTILISATION * chip.peak_flops,
                            f"{fit.UTILISATION:.0%} of the chip's bfloat16 peak")
    mesh = make_mesh(spec)
    devices = list(mesh.devices.flat)
    kind = devices[0].device_kind
    peak = next((value for name, value in PEAKS.items() if name in kind), None)
    if peak is not None:
        rate, how = fit.UTILISATION * peak, f"{fit.UTILISATION:.0%} of the chip's bfloat16 peak"
    elif devices[0].platform == "cpu":
        rate = fit.UTILISATION * _product_rate() / mesh.size
        how = f"{fit.UTILISATION:.0%} of what a matrix product reaches here"
    else:
        rate, how = None, ""
    return mesh, Device(kind, free_bytes(devices), rate, how)


def _product_rate(side: int = 1024) -> float:
    """Operations a second of float32 matrix products on this host."""
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((side, side), jnp.float32)
    jax.block_until_ready(product(x))
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled part of an update. ``used`` bytes a device; None where it does not fit."""

    name: str
    used: int | None
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would be.

    Attributes:
      state: of shapes and shardings.
      programs: compiled parts of an update; they do not run at once.
      flops: operations of one update on all devices.
      steps: updates of the run.
      batch: the run's first, on this host.
      notes: what the numbers leave out.
    """

    mesh: Mesh
    device: Device
    state: Any
    programs: Sequence[Program]
    flops: float
    steps: int
    batch: Batch
    processor: Processor
    notes: Sequence[str] = ()


def dift_plan(config: Any, model: ModelConfig, processor: Processor, shape: BatchShape,
              batch: Batch, *, spec: Any, optimizer: OptimizerSpec, topology: str = "") -> Plan:
    """The plan of a DIFT run; ``shape`` is this host's."""
    mesh, device = mesh_and_device(config.mesh, topology)
    whole = dataclasses.replace(shape, rows=shape.rows * jax.process_count())
    options: dict[str, Any] = dict(trainable=config.trainable, accumulate=config.accumulate,
                                   spec=spec, optimizer=optimizer)
    _, state, _ = fit.step_of(model, processor.protocol, whole, mesh, **options)
    program = _compiled("update", lambda: fit.compile_step(
        model, processor.protocol, whole, mesh, **options))
    count = fit.operations(dataclasses.replace(model, attention="xla"), processor.protocol, whole,
                           mesh, **options)
    return Plan(mesh, device, state, [program], count, config.steps, batch, processor)


def rl_plan(config: Any, model: ModelConfig, processor: Processor, shape: BatchShape, batch: Batch,
            *, optimizer: OptimizerSpec, cache_features: bool, **fixed: Any) -> Plan:
    """The plan of a 4DRL run; ``shape`` is this host's.

    Args:
      fixed: ``spec``, ``policy`` and ``sampling`` of the trainer; ``topology``.
    """
    mesh, device = mesh_and_device(config.mesh, fixed.pop("topology", ""))
    spec, sampling = fixed["spec"], fixed["sampling"]
    whole = dataclasses.replace(shape, rows=shape.rows * jax.process_count())
    tx = make_optimizer(optimizer)
    with use(mesh):
        graphdef, state = abstract_state(lambda rngs: Thinker(model, rngs), tx, mesh,
                                         DEFAULT_RULES, config.trainable)
        prompts = _placed(_prompts(whole, processor.protocol), mesh)
        states = state.params, state.frozen
        features = _placed(jax.eval_shape(lambda *a: encode(graphdef, *a), states, prompts),
                           mesh) if cache_features else None
        key = jax.eval_shape(lambda: jax.random.key(0))

        def sample(states: Any, prompts: Any, features: Any, key: Any) -> Any:
            return generate(graphdef, states, prompts, key, sampling, spec.group,
                            features=features)

        rollout = jax.eval_shape(sample, states, prompts, features, key)
        rewards = jax.ShapeDtypeStruct((whole.rows, spec.group), jnp.float32)

        def collect(params: Any, frozen: Any, prompts: Any, features: Any, rollout: Any,
                    rewards: Any) -> Any:
            return gather(params, frozen, params, prompts, features, rollout, rewards,
                          graphdef=graphdef, **fixed)[0]

        given = state.params, state.frozen, prompts, features, rollout, rewards
        experience = _placed(jax.eval_shape(collect, *given), mesh)

        def learn(state: Any, experience: Any) -> Any:
            return rl_update(state, experience, 0, graphdef=graphdef, tx=tx, **fixed)

        programs = [
            _compiled("sampling", lambda: jax.jit(sample).lower(
                states, prompts, features, key).compile()),
            _compiled("update", lambda: jax.jit(learn, donate_argnums=0).lower(
                state, experience).compile())]
        updates = spec.epochs * spec.minibatches
        decoded = 2.0 * _weights_read(state) * whole.rows * spec.group * sampling.max_tokens
        count = (flops.count(sample, states, prompts, features, key) + decoded
                 + flops.count(collect, *given) + updates * flops.count(learn, state, experience))
    notes = ["every response is taken to use its whole budget of tokens",
             "memory leaves out the frozen reference's weights, as large as the trained ones"]
    if spec.slots:
        notes.append(f"sampling is compiled for all responses at once, not for {spec.slots} slots")
    if spec.pack:
        notes.append("the update is compiled for responses that are not packed")
    return Plan(mesh, device, state, programs, count, config.steps, batch, processor, notes)


def _prompts(shape: BatchShape, protocol: ProtocolSpec) -> Batch:
    return Batch.spec(dataclasses.replace(shape, overlays=0), protocol)


def _placed(tree: Any, mesh: Mesh) -> Any:
    """Shapes with their rows split over the mesh."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        tree, batch_shardings(tree, mesh))


def _weights_read(state: Any) -> int:
    """Parameters that decoding a token multiplies with.

    All but the vision encoder's, and but a table of embeddings that is no output matrix too.
    """
    sizes = _sizes((state.params, state.frozen))
    idle = {"vision", "embedding"} if "output" in sizes else {"vision"}
    return sum(size for name, (size, _) in sizes.items() if name not in idle)


def _compiled(name: str, compile_it: Any) -> Program:
    try:
        return Program(name, fit.used_bytes(compile_it()))
    except jax.errors.JaxRuntimeError as error:
        refused = fit.overflow(str(error))
        if refused is None:
            raise
        return Program(name, None, f"its temporaries alone need "
                                   f"{_bytes(refused['hbm_used_bytes'])}")


def _sizes(tree: Any) -> dict[str, tuple[int, int]]:
    """(numbers, bytes on one device) by the first part of the path."""
    found: dict[str, tuple[int, int]] = {}
    parts = tree if isinstance(tree, tuple) else (tree,)
    for part in parts:
        for path, leaf in nnx.to_flat_state(part):
            value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            before = found.get(str(path[0]), (0, 0))
            found[str(path[0])] = (before[0] + math.prod(value.shape),
                                   before[1] + _local_bytes(value))
    return found


def _local_bytes(x: Any) -> int:
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize if hasattr(x.dtype, "itemsize") else 0


def show(plan: Plan, console: Console | None = None) -> None:
    """Prints the plan."""
    out = console or plain_console()
    out.print(f"Dry run on {plan.mesh.size} × {plan.device.name}, mesh "
              f"{', '.join(f'{k}={v}' for k, v in plan.mesh.shape.items() if v > 1) or 'of one'}; "
              "nothing is written.\n", soft_wrap=True)
    _show_parameters(plan, out)
    _show_needs(plan, out)
    _show_batch(plan, out)


def _show_parameters(plan: Plan, out: Console) -> None:
    trained, frozen = _sizes(plan.state.params), _sizes(plan.state.frozen)
    table = _table("parameters", "trained", "frozen", "MB a device")
    rows: Mapping[str, Any] = {
        name: (trained.get(name, (0, 0)), frozen.get(name, (0, 0)))
        for name in sorted({**trained, **frozen})}
    for name, (t, f) in rows.items():
        table.add_row(name, f"{t[0]:,}", f"{f[0]:,}", f"{(t[1] + f[1]) / 1e6:,.1f}")
    table.add_row("all", *(f"{sum(n for n, _ in part.values()):,}" for part in (trained, frozen)),
                  f"{sum(b for part in (trained, frozen) for _, b in part.values()) / 1e6:,.1f}")
    out.print(table)


def _show_needs(plan: Plan, out: Console) -> None:
    optimizer = sum(map(_local_bytes, jax.tree.leaves(plan.state.opt_state)))
    table = _table("\nneeds", "", "")
    table.add_row("optimizer's state, a device", _bytes(optimizer), "")
    for program in plan.programs:
        fits = ""
        if program.used is None:
            fits = f"does not fit: {program.refused}"
        elif plan.device.room is not None:
            fits = ("fits" if program.used <= plan.device.room else "DOES NOT FIT") + (
                f" the {_bytes(plan.device.room)} free")
        table.add_row(f"memory of the {program.name}, a device",
                      "?" if program.used is None else _bytes(program.used), fits)
    table.add_row("operations of a step", f"{plan.flops:.3g}", "matrix products, all devices")
    if plan.device.rate:
        seconds = plan.flops / (plan.device.rate * plan.mesh.size)
        table.add_row("time of a step", _time(seconds), f"at {plan.device.how}")
        table.add_row(f"time of {plan.steps:,} steps", _time(seconds * plan.steps),
                      "without reading, compiling and evaluating")
    out.print(table)
    for note in plan.notes:
        out.print(f"  {note}", soft_wrap=True)


def _show_batch(plan: Plan, out: Console) -> None:
    batch, words = plan.batch, plan.processor.tokenizer
    segments, latent = np.asarray(batch.segment_ids), np.asarray(batch.latent_index)
    rows, length = segments.shape
    used = segments != 0
    table = _table("\nfirst batch of this host", "", "")
    table.add_row("rows", f"{rows}", f"of {length} tokens")
    table.add_row("tokens that are not padding", f"{used.mean():.1%}",
                  f"rows of {used.sum(1).min()} to {used.sum(1).max()}")
    table.add_row("tokens of frames", f"{(np.asarray(batch.vision_index) >= 0).sum():,}", "")
    table.add_row("frame slots", f"{np.asarray(batch.vision.mask).any((2, 3)).sum():,}",
                  "overlays to imagine among them")
    table.add_row("latents to imagine", f"{(latent >= 0).sum():,}", "")
    table.add_row("tokens of text to learn", f"{np.asarray(batch.text_weights).sum():,.0f}", "")
    out.print(table)
    text = words.decode([int(t) for t in np.asarray(batch.tokens)[0][used[0]]])
    shown = _PADS.sub(lambda run: f"[{run[1].count('|>')} frame tokens]", marked(text))
    out.print("\nfirst row:", soft_wrap=True)
    if len(shown) > _TEXT:
        shown = f"{shown[: _TEXT // 2]} … {shown[-_TEXT // 2 :]}"
    out.print(shown, soft_wrap=True)


def _table(*header: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number in (0, len(header) - 1)
                         and len(header) == 3 or number == 0 else "right")
    return table


def _bytes(count: float | int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
