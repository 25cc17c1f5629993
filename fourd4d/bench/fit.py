"""Does a training step fit a TPU or a GPU, and how long must it take? Compiled without one.

    python -m fourd4d.bench fit --preset 7b --topology v5p:2x2x2 --json fit.json
    python -m fourd4d.bench fit --config=configs/rl_7b.py --topology v5e:8x8 \\
        --config.mesh=fsdp=16,tensor=4

With a config of a trainer its own step is compiled: a DIFT update; of 4DRL the rollout with the
cache at its largest, the scoring and the update, each with what else a device holds meanwhile.
``fits`` is 1 where all of them fit. Videos have as many frames as the protocol allows, unless
``--frames`` says otherwise.

The least time of a step is that of the compiled program's own operations, bytes of memory and
bytes between chips at the chip's peaks, whichever takes longest: ``roofline_seconds``.
``compile_seconds`` are those of tracing and compiling it here, without the compilation cache;
other work on the machine stretches ``compile_processor_seconds`` least.

    python -m fourd4d.bench fit --table fit.jsonl

compiles every shipped config of a trainer for every machine of the documentation's table, each in
a process of its own, and goes on where it stopped; ``--cells`` names some of them.

Needs ``libtpu`` (``pip install "fourd4d[tpu]"``), whose compiler knows every topology; for a node
of H100s, ``--topology h100:8``, JAX's CUDA plugin (``pip install "fourd4d[cuda]"``), but no GPU.
``--topology gpu:8`` needs neither, and counts what each of 8 GPUs of 80 GB holds of the training
state alone, without activations and caches.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
from absl import flags
from jax.sharding import Mesh

from fourd4d.bench.common import fit_table, flops, roofline
from fourd4d.bench.common.accelerators import CHIPS, Chip
from fourd4d.bench.common.result import Result
from fourd4d.bench.common.rl_programs import local_bytes, rl_programs
from fourd4d.bench.common.topologies import compiled_for, devices_of, gpu_count
from fourd4d.config.build import frozen
from fourd4d.config.flags import define, only_given, read_flags
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.terminal import say
from fourd4d.dift.step import DiftSpec, update
from fourd4d.models import ModelConfig, Thinker, preset, preset_protocol
from fourd4d.models.presets import named_in, names
from fourd4d.parallel import DEFAULT_RULES, Rules, make_mesh, use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.pretrained.open import SHIPPED, described
from fourd4d.rl.grpo import RLSpec
from fourd4d.rl.setup import policy_spec
from fourd4d.sampling import SamplingSpec
from fourd4d.train import OptimizerSpec, abstract_state, make_optimizer

DECODER_ONLY: Final = (r"(?!vision/).*",)

UTILISATION: Final = 0.4  # Share of the peak that well-tuned training of this kind reaches.
# What compilers of libtpu say when a program does not fit, older ones first.
_OVERFLOWS = tuple(map(re.compile, (
    r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm",
    r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")))
_TIME_TOKENS: Final = 8  # ``<123.5 seconds>``: a token a digit.
_GPU_BYTES: Final = 80 * 10**9
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def step_of(
    config: ModelConfig, protocol: ProtocolSpec, shape: BatchShape, mesh: Mesh, *,
    rules: Rules = DEFAULT_RULES, trainable: tuple[str, ...] = DECODER_ONLY, accumulate: int = 1,
    spec: DiftSpec | None = None, optimizer: OptimizerSpec | None = None,
) -> tuple[Any, Any, Any]:
    """A DIFT step, and the shapes and shardings of its state and batch; allocates nothing."""
    tx = make_optimizer(optimizer or OptimizerSpec())
    with use(mesh, rules):
        graphdef, state = abstract_state(
            lambda rngs: Thinker(config, rngs), tx, mesh, rules, trainable)
        rows = Batch.spec(shape, protocol)
        batch = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            rows, batch_shardings(rows, mesh, rules))
    step = functools.partial(update, graphdef=graphdef, tx=tx, spec=spec or DiftSpec(),
                             accumulate=accumulate)
    return step, state, batch


def compile_step(config: ModelConfig, protocol: ProtocolSpec, shape: BatchShape, mesh: Mesh,
                 rules: Rules = DEFAULT_RULES, **options: Any) -> Any:
    """A compiled DIFT step, from shapes alone; see ``step_of``."""
    step, state, batch = step_of(config, protocol, shape, mesh, rules=rules, **options)
    with use(mesh, rules):
        return compiled_for(mesh, jax.jit(step, donate_argnums=0).lower(state, batch))


def operations(config: ModelConfig, protocol: ProtocolSpec, shape: BatchShape, mesh: Mesh,
               rules: Rules = DEFAULT_RULES, **options: Any) -> float:
    """Operations of a DIFT step on all devices; see ``step_of`` and ``flops.count``."""
    parts = step_of(config, protocol, shape, mesh, rules=rules, **options)
    with use(mesh, rules):
        return flops.count(*parts)


def measure(
    config: ModelConfig, protocol: ProtocolSpec, shape: BatchShape, mesh: Mesh, chip: Chip,
    **options: Any,
) -> dict[str, float | int]:
    """Memory per device, seconds of tracing and compiling, and the least time of a step.

    See ``compile_step``.

    A program that does not fit is refused by the compiler, which says how much its temporaries
    alone would use; then the others are absent.
    """
    compiled, refused, taken = compiled_or_refused(
        lambda: compile_step(config, protocol, shape, mesh, **options))
    if refused is not None:
        return refused
    count = operations(config, protocol, shape, mesh, **options)
    used = used_bytes(compiled)
    return {
        "hbm_used_bytes": used,
        "hbm_limit_bytes": chip.hbm_bytes,
        "fits": int(used <= chip.hbm_bytes),
        "flops": count,
        **taken,
        **least_seconds(roofline.cost(compiled.as_text()), chip),
    }


def compiled_or_refused(make: Callable[[], Any]
                        ) -> tuple[Any, dict[str, float | int] | None, dict[str, float]]:
    """What ``make`` compiles, None, and the seconds that took, by the clock and of processors; or
    None, the numbers of its compiler's refusal, and nothing.
    """
    began, busy = time.perf_counter(), time.process_time()
    try:
        made = make()
    except jax.errors.JaxRuntimeError as error:
        refused = overflow(str(error))
        if refused is None:
            raise
        return None, refused, {}
    return made, None, {"compile_seconds": time.perf_counter() - began,
                        "compile_processor_seconds": time.process_time() - busy}


def least_seconds(cost: roofline.Cost, chip: Chip) -> dict[str, float | int]:
    """``Cost.seconds``, and what each kind of exchange sends."""
    sent = {f"{kind.replace('-', '_')}_bytes_sent": size for kind, size in cost.sent_bytes.items()}
    return {**cost.seconds(chip), **sent}


def used_bytes(compiled: Any) -> int:
    """Memory of a compiled program on each device: what it is given, makes and needs between."""
    memory = compiled.memory_analysis()
    return int(memory.argument_size_in_bytes + memory.output_size_in_bytes
               - memory.alias_size_in_bytes + memory.temp_size_in_bytes
               + memory.generated_code_size_in_bytes)


def overflow(message: str) -> dict[str, float | int] | None:
    """The numbers in a compiler's refusal of a program that is too large; None in other errors."""
    found = next(filter(None, (pattern.search(message) for pattern in _OVERFLOWS)), None)
    if found is None:
        return None
    used, limit = (int(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
    return {"hbm_used_bytes": used, "hbm_limit_bytes": limit, "fits": 0}


def budget(protocol: ProtocolSpec, rows: int, frames: int, overlays: int, text: int) -> BatchShape:
    """The shape of ``rows`` samples with frames of the protocol's largest size."""
    merged = protocol.patch_size * protocol.merge
    media = math.ceil(frames / protocol.temporal_patch)
    pixels, marks = protocol.max_pixels, 2
    if protocol.budget == "video":  # All frames share them; none is smaller than a token.
        pixels = max(pixels // max(media * protocol.temporal_patch, 1), merged**2)
    if protocol.times == "text":
        marks += _TIME_TOKENS
    tokens = pixels // merged**2
    windows = math.ceil(math.sqrt(pixels) / protocol.window) ** 2
    length = media * (tokens + marks) + overlays * (protocol.latent_size + 2) + text
    return BatchShape(rows=rows, length=-(-length // 128) * 128, slots=media + overlays,
                      windows=windows, overlays=overlays)


def step_arguments(parser: argparse.ArgumentParser, preset: str, mesh: str, rows: int) -> None:
    """Flags of the model, the mesh and the samples of a step, with some defaults."""
    parser.add_argument("--preset", default=preset, help="one of " + ", ".join(names()))
    parser.add_argument("--mesh", default=mesh, help="a preset, or fsdp=-1,tensor=2")
    parser.add_argument("--rows", type=int, default=rows,
                        help="samples a step, all devices together")
    parser.add_argument("--frames", type=int, default=16, help="video frames of a sample")
    parser.add_argument("--overlays", type=int, default=4, help="mental images of a row")
    parser.add_argument("--text", type=int, default=768, help="text tokens of a sample")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of an update")
    parser.add_argument("--param_dtype", default="float32", help="of stored parameters")
    parser.add_argument("--remat", default="full", help="none, dots or full")
    parser.add_argument("--attention", default="auto", help="auto, xla, splash, cudnn or flash")


def arguments(parser: argparse.ArgumentParser) -> None:
    step_arguments(parser, preset="3b", mesh="pod", rows=8)
    parser.add_argument("--topology", default="v5p:2x2x1", help="CHIP:AxB[xC], h100:N, or gpu:N "
                        "with --config")
    parser.add_argument("--replicable", nargs="*", default=("kv_heads",),
                        help="logical axes replicated where they do not divide")
    parser.add_argument("--config", default="",
                        help="of a trainer: its step, by its mesh, batch and model; change its "
                        "fields by --config.field=value. Of the other flags only --topology, "
                        "--frames, --overlays and --text count, and --preset where the config's "
                        "init is not here and does not name its size")
    parser.add_argument("--table", default="", help="JSON lines: every shipped config on every "
                        "machine; goes on where it stopped")
    parser.add_argument("--cells", nargs="*", default=(),
                        help="of the table, such as rl_7b@v5e-64; all by default")
    parser.set_defaults(preset=None, frames=None)


def main(args: argparse.Namespace) -> Result:
    if args.table:
        return table(args)
    # A program found in the cache would seem to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    if args.config:
        return of_config(args)
    args.preset, args.frames = args.preset or "3b", args.frames or 16
    protocol = preset_protocol(args.preset)
    config = dataclasses.replace(preset(args.preset), param_dtype=args.param_dtype,
                                 remat=args.remat, attention=args.attention)
    shape = budget(protocol, args.rows, args.frames, args.overlays, args.text)
    mesh = make_mesh(args.mesh, devices_of(args.topology))
    started = time.perf_counter()
    metrics = measure(
        config, protocol, shape, mesh, CHIPS[args.topology.partition(":")[0]],
        rules=DEFAULT_RULES.replicating(*args.replicable), accumulate=args.accumulate)
    return _result(args, metrics, mesh, shape, started)


def table(args: argparse.Namespace) -> Result:
    """Fills the table and prints it."""
    rows = fit_table.fill(args.table, args.cells)
    print(fit_table.markdown(rows))
    compiled = [row["metrics"] for row in rows if "fits" in row.get("metrics", {})]
    return Result("fit", {"cells": len(rows), "compiled": len(compiled),
                          "fits": sum(metrics["fits"] for metrics in compiled),
                          "failed": sum("error" in row for row in rows)},
                  {"table": args.table})


def _result(args: argparse.Namespace, metrics: dict[str, float | int], mesh: Mesh,
            shape: BatchShape, started: float, **more: Any) -> Result:
    return Result("fit", metrics, {
        "config": {k: v for k, v in vars(args).items() if k not in ("name", "json")},
        "mesh": dict(mesh.shape), "batch": dataclasses.asdict(shape),
        "compile_seconds": round(time.perf_counter() - started, 1), **more})


def of_config(args: argparse.Namespace) -> Result:
    """The step or steps that a trainer's config runs.

    Raises:
      InputError: not a trainer's config, or a model whose size is not known.
    """
    config = _opened(args.config, getattr(args, "fields", ()))
    size, model, protocol = _model(config, args.preset)
    if args.topology.startswith("gpu:"):
        return Result("fit", state_on_gpus(config, model, args.topology), {"size": size})
    devices, chip = devices_of(args.topology), CHIPS[args.topology.partition(":")[0]]
    mesh, started = make_mesh(config.mesh, devices), time.perf_counter()
    frames = args.frames or protocol.max_frames
    if "rl" not in config:
        shape = budget(protocol, config.batch, frames, args.overlays, args.text)
        metrics = measure(
            model, protocol, shape, mesh, chip, accumulate=config.accumulate,
            trainable=config.trainable, spec=frozen(DiftSpec, config.dift, "dift"),
            optimizer=frozen(OptimizerSpec, config.optimizer, "optimizer",
                             total_steps=config.steps))
        return _result(args, metrics, mesh, shape, started, size=size)
    shape = budget(protocol, config.prompts, frames, 0, args.text)
    return _result(args, measure_rl(config, model, protocol, shape, mesh, chip), mesh, shape,
                   started, size=size)


def state_on_gpus(config: Any, model: ModelConfig, topology: str) -> dict[str, float | int]:
    """Bytes of the training state on each of N GPUs of 80 GB (``gpu:N``): weights, moments,
    gradients, and of 4DRL the reference. From shapes; nothing is compiled.
    """
    number = gpu_count(topology)
    with contextlib.suppress(RuntimeError):  # JAX has its devices already.
        jax.config.update("jax_num_cpu_devices", number)
    stands_for = jax.devices("cpu")[:number]
    mesh = make_mesh(config.mesh, stands_for)
    optimizer = frozen(OptimizerSpec, config.optimizer, "optimizer", total_steps=config.steps)
    with use(mesh):
        _, state = abstract_state(lambda rngs: Thinker(model, rngs), make_optimizer(optimizer),
                                  mesh, trainable=config.trainable)
    copies = 2 if "rl" in config else 1  # Gradients, and the reference.
    held = local_bytes(state) + copies * local_bytes(state.params)
    return {"state_bytes": held, "hbm_limit_bytes": _GPU_BYTES,
            "state_fits": int(held <= _GPU_BYTES)}


def measure_rl(config: Any, model: ModelConfig, protocol: ProtocolSpec, shape: BatchShape,
               mesh: Mesh, chip: Chip) -> dict[str, float | int]:
    """Memory of every program of a 4DRL step, with what a device holds beside it, and least times.

    Those of a part are for all its runs in a step; ``roofline_seconds`` of the step adds up the
    parts', and is absent where one does not fit. Every response uses its whole budget.
    """
    spec = frozen(RLSpec, config.rl, "rl")
    vocab = model.decoder.valid_vocab or model.decoder.vocab
    sampling = SamplingSpec(  # Which tokens these are changes nothing.
        vocab=vocab, latent_start=vocab - 1, latent_pad=vocab - 2, latent_end=vocab - 3,
        ends=(vocab - 4,), forbidden=(vocab - 2, vocab - 3), latent_size=protocol.latent_size,
        imagery=config.imagery, **config.sampling)
    metrics: dict[str, float | int] = {}
    least: list[float] = []
    with use(mesh):
        found = rl_programs(
            model, protocol, shape, mesh, spec=spec, sampling=sampling,
            policy=policy_spec(config.variant, config.sampling.max_tokens,
                               config.policy.to_dict()),
            optimizer=frozen(OptimizerSpec, config.optimizer, "optimizer",
                             total_steps=config.steps),
            trainable=config.trainable)
        for part in found.parts:
            say(f"compiling {part.name}", stderr=True)
            compiled, refused, taken = compiled_or_refused(
                lambda part=part: compiled_for(mesh, part.lower()))
            used = refused["hbm_used_bytes"] if refused is not None else used_bytes(compiled)
            metrics[f"{part.name}_bytes"] = used + part.beside
            metrics[f"{part.name}_fits"] = int(used + part.beside <= chip.hbm_bytes)
            if refused is None:
                metrics |= {f"{part.name}_{name}": value for name, value in taken.items()}
                cost = roofline.cost(compiled.as_text(), found.turns) * part.runs
                metrics |= {f"{part.name}_{name}": value
                            for name, value in least_seconds(cost, chip).items()}
                least.append(cost.seconds(chip)["roofline_seconds"])
            del compiled
    return {
        "hbm_used_bytes": max(v for k, v in metrics.items() if k.endswith("_bytes")),
        "hbm_limit_bytes": chip.hbm_bytes,
        "fits": int(all(v for k, v in metrics.items() if k.endswith("_fits"))),
        **metrics, "flops": found.flops,
        **({"roofline_seconds": sum(least)} if len(least) == len(found.parts) else {})}


def _opened(path: str, fields: Sequence[str]) -> Any:
    """A trainer's config with some fields changed."""
    values, words = flags.FlagValues(), ["bench fit", f"--config={path}", *fields]
    define(values, {"dift": DiftSpec}, words)
    read_flags(words, values)
    opened: Any = values["config"].value
    config = only_given(opened, ("dift",))
    if not {"mesh", "trainable", "optimizer"} <= set(config) or not {"rl", "dift"} & set(config):
        raise InputError("--config", f"{path} is not a config of a trainer",
                         "Give one of dift or rl, such as configs/dift_7b.py")
    return config


def _model(config: Any, size: str | None) -> tuple[str, ModelConfig, ProtocolSpec]:
    """The size's name, the model and the protocol that a config starts from.

    Of a checkpoint that is here, its own; else of ``size``, or of the size in the checkpoint's
    path.
    """
    changes, protocol = config.model.to_dict(), config.protocol.to_dict()
    if not size and config.init and (config.init in SHIPPED or Path(config.init).is_dir()):
        model, processor = described(config)
        return config.init, model, processor.protocol
    named = named_in(config.init)
    size = size or config.preset or (named[0] if len(named) == 1 else "")
    if not size:
        raise InputError("config.init", f"{config.init!r} is not here, and names no known size",
                         f"Give --preset, one of {', '.join(names())}")
    spec = dataclasses.replace(preset_protocol(size), **protocol)
    return size, preset(size).changed(**changes), spec
