"""Tokens a second of DIFT steps on the devices here, beside what the chips can do.

    python -m fourd4d.bench dift --preset 3b --rows 4 --frames 16 --json dift.json

Random weights and rows of the shape ``bench fit`` compiles, no data pipeline. Operations are those
of the matrix products as traced; ``model_flops_utilisation`` leaves out what rematerialisation
computes twice, ``hardware_flops_utilisation`` counts it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax

from fourd4d.bench import fit
from fourd4d.bench.common.accelerators import PEAKS
from fourd4d.bench.common.result import Result
from fourd4d.core import metrics as metrics_lib
from fourd4d.core.batch import Batch
from fourd4d.dift.step import DiftSpec
from fourd4d.models import Thinker, preset, preset_protocol
from fourd4d.models.config import Remat
from fourd4d.parallel import DEFAULT_RULES, host_to_global, make_mesh, use
from fourd4d.train import OptimizerSpec, create_state, make_optimizer


def arguments(parser: argparse.ArgumentParser) -> None:
    fit.step_arguments(parser, preset="tiny", mesh="gpu-node", rows=4)
    parser.add_argument("--self_feed_passes", type=int, default=0, help="see DiftSpec")
    parser.add_argument("--steps", type=int, default=5, help="steps timed; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batch")


def main(args: argparse.Namespace) -> Result:
    protocol = preset_protocol(args.preset)
    config = dataclasses.replace(preset(args.preset), param_dtype=args.param_dtype,
                                 remat=args.remat, attention=args.attention)
    shape = fit.budget(protocol, args.rows, args.frames, args.overlays, args.text)
    mesh, rules = make_mesh(args.mesh), DEFAULT_RULES.replicating("kv_heads")
    options: dict[str, Any] = dict(
        rules=rules, accumulate=args.accumulate,
        spec=DiftSpec(self_feed_passes=args.self_feed_passes))

    def operations(remat: Remat) -> float:
        plain = dataclasses.replace(config, remat=remat, attention="xla")  # Kernels hide theirs.
        return fit.operations(plain, protocol, shape, mesh, **options)

    began = time.perf_counter()
    compiled = fit.compile_step(config, protocol, shape, mesh, **options)
    compiling = time.perf_counter() - began
    with use(mesh, rules):
        _, state = create_state(lambda rngs: Thinker(config, rngs), args.seed,
                                make_optimizer(OptimizerSpec()), mesh, rules, fit.DECODER_ONLY)
        batch = host_to_global(Batch.fake(shape, protocol, seed=args.seed), mesh, rules)
        state, _ = jax.block_until_ready(compiled(state, batch))
        seconds = []
        for _ in range(args.steps):
            began = time.perf_counter()
            state, found = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    metrics = {"seconds_per_step": median, "tokens_per_second": shape.rows * shape.length / median,
               "compile_seconds": compiling, "loss": metrics_lib.compute(found)["loss"]}
    model, hardware = operations("none"), operations(config.remat)
    metrics |= {"model_flops": model, "hardware_flops": hardware}
    device = mesh.devices.flat[0]
    peak = next((v for k, v in PEAKS.items() if k in device.device_kind), None)
    if peak:
        metrics |= {"model_flops_utilisation": model / median / peak / mesh.size,
                    "hardware_flops_utilisation": hardware / median / peak / mesh.size}
    memory = device.memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        metrics["peak_bytes_in_use"] = memory["peak_bytes_in_use"]
    return Result("dift", metrics, {
        "config": {k: v for k, v in vars(args).items() if k not in ("name", "json")},
        "mesh": dict(mesh.shape), "device": device.device_kind, "seconds": seconds,
        "batch": dataclasses.asdict(shape)})
