"""What a training run would need, told before it begins: ``--dry_run`` of both trainers.

    python -m fourd4d.dift --config=configs/dift_3b.py --dry_run
    python -m fourd4d.rl --config=configs/rl_3b.py --dry_run --topology=v5p:2x2x2

Reads the data and the checkpoint's description, not its weights; compiles the run's own programs
from shapes; writes nothing. With ``--topology`` they are compiled for a machine that is not here: a
TPU, which needs ``libtpu``, or a node of GPUs such as ``h100:8``, which needs JAX's CUDA plugin.
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
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from fourd4d.bench import fit
from fourd4d.bench.common.accelerators import CHIPS, PEAKS
from fourd4d.bench.common.rl_programs import local_bytes, rl_programs, sizes
from fourd4d.bench.common.topologies import compiled_for, devices_of
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.terminal import plain_console
from fourd4d.models import ModelConfig
from fourd4d.parallel import make_mesh, use
from fourd4d.parallel.memory import free_bytes
from fourd4d.processing import Processor
from fourd4d.processing.latent_spans import marked
from fourd4d.rl.grpo import RLSpec
from fourd4d.train import OptimizerSpec

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
    """The run's mesh over the devices here, or over those of a topology."""
    if topology:
        # What it keeps of programs for absent devices it cannot read back.
        jax.config.update("jax_enable_compilation_cache", False)
        mesh, chip = make_mesh(spec, devices_of(topology)), CHIPS[topology.partition(":")[0]]
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
            *, spec: RLSpec, topology: str = "", **fixed: Any) -> Plan:
    """The plan of a 4DRL run; ``shape`` is this host's.

    Args:
      fixed: ``policy``, ``sampling`` and ``optimizer`` of the trainer.
    """
    mesh, device = mesh_and_device(config.mesh, topology)
    whole = dataclasses.replace(shape, rows=shape.rows * jax.process_count())
    with use(mesh):
        found = rl_programs(model, processor.protocol, whole, mesh, spec=spec,
                            trainable=config.trainable, **fixed)
        programs = [_compiled(part.name, lambda part=part: compiled_for(mesh, part.lower()),
                              part.beside) for part in found.parts]
    notes = ["every response is taken to use its whole budget of tokens",
             "memory is each program's with what else a device holds meanwhile"]
    if spec.pack:
        notes.append("scoring and update are compiled for responses that are not packed")
    return Plan(mesh, device, found.state, programs, found.flops, config.steps, batch, processor,
                notes)


def _compiled(name: str, compile_it: Any, beside: int = 0) -> Program:
    """The program; ``beside``: bytes that are held while it runs."""
    try:
        return Program(name, fit.used_bytes(compile_it()) + beside)
    except jax.errors.JaxRuntimeError as error:
        refused = fit.overflow(str(error))
        if refused is None:
            raise
        return Program(name, None, f"its temporaries alone need "
                                   f"{_bytes(refused['hbm_used_bytes'])}")


def show(plan: Plan, console: Console | None = None) -> None:
    """Prints the plan."""
    out = console or plain_console()
    out.print(f"Dry run on {plan.mesh.size} × {plan.device.name}, mesh "
              f"{', '.join(f'{k}={v}' for k, v in plan.mesh.shape.items() if v > 1) or 'of one'}; "
              "nothing is written.\n", soft_wrap=True)
    _show_parameters(plan, out)
    out.print()
    _show_needs(plan, out)
    out.print()
    _show_batch(plan, out)


def _show_parameters(plan: Plan, out: Console) -> None:
    trained, frozen = sizes(plan.state.params), sizes(plan.state.frozen)
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
    optimizer = sum(map(local_bytes, jax.tree.leaves(plan.state.opt_state)))
    table = _table("needs", "", "")
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
    table = _table("first batch of this host", "", "")
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
