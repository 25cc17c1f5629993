"""What a GPU makes of it, in fifteen minutes: one command for whoever has one.

    python -m fourd4d.bench gpu --out runs/gpu

A DIFT update of 3B at 4 rows of 2,944 packed tokens, by each implementation of attention and
rematerialisation: compile time, tokens a second, share of the chip's peak. Then decoding at 128
rows: bytes of weights and caches a second, share of the chip's bandwidth. Each is a process of its
own, which ends when the time of all is over; what is done is in ``--out`` by then. On a machine
without a GPU, ``--preset tiny --rows 2`` goes the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from flax import nnx

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.accelerators import BANDWIDTHS
from fourd4d.bench.common.result import Result, write
from fourd4d.core.terminal import say
from fourd4d.sampling import generate

_SHORTER: Final = 8  # Decoding is the difference of a whole budget and one this many times less.


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=16, tokens=128)
    parser.set_defaults(preset="3b", param_dtype="bfloat16", length=512, slots=0)
    parser.add_argument("--out", default="runs/gpu", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=14.0, help="of all parts together")
    parser.add_argument("--rows", type=int, default=4, help="of the DIFT update")
    parser.add_argument("--frames", type=int, default=16, help="of each of its rows")
    parser.add_argument("--attentions", nargs="*",
                        help="implementations to time; by default the platform's")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> Result:
    if args.part == "decode":
        return Result("gpu", decode(args))
    ends, out = time.monotonic() + 60 * args.minutes, Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float | int] = {}
    failed: dict[str, str] = {}
    env = dict(os.environ)
    env.pop("JAX_COMPILATION_CACHE_DIR", None)  # Compiling is timed.
    for name, command in _commands(args).items():
        say(name, stderr=True)
        file = out / f"{name}.json"
        file.unlink(missing_ok=True)
        left = ends - time.monotonic()
        if left < 1:
            failed[name] = "no time was left"
            continue
        try:
            ran = subprocess.run([sys.executable, "-m", "fourd4d.bench", *command, "--json",
                                  str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 text=True, timeout=left, check=False, env=env)
            told = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            told = "it did not end in time"
        if not file.exists():
            failed[name] = told
            say(f"{name}: {told}", stderr=True)
            continue
        found = json.loads(file.read_text())["metrics"]
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
        write(Result("gpu", metrics, {"failed": failed}), out / "gpu.json")
    return Result("gpu", {**metrics, "failed": len(failed)}, {"failed": failed})


def _commands(args: argparse.Namespace) -> Mapping[str, list[str]]:
    # Not asked of JAX here: it would take the GPU's memory from the parts.
    gpu = Path("/proc/driver/nvidia").exists()
    attentions = args.attentions or (["cudnn", "flash"] if gpu else ["auto"])
    update = ["dift", "--preset", args.preset, "--rows", str(args.rows), "--frames",
              str(args.frames), "--mesh", "single"]
    commands = {f"dift_{attention}_{remat}": [*update, "--attention", attention, "--remat", remat]
                for attention in attentions for remat in ("full", "dots")}
    same = ("preset", "layers", "width", "param_dtype", "prompts", "group", "length", "tokens",
            "seed", "repeats")
    return {**commands, "decode": ["gpu", "--part", "decode", *(
        word for name in same for word in (f"--{name}", str(getattr(args, name))))]}


def decode(args: argparse.Namespace) -> dict[str, float]:
    """Bytes read a second by decoding, prompts not counted."""
    made = tiny_rollout.make(args, endless=True)
    graphdef, state = nnx.split(made.model)
    rng, rows = jax.random.key(args.seed), args.prompts * args.group

    def seconds(limit: int) -> float:
        return tiny_rollout.seconds(lambda: generate(
            graphdef, (state,), made.prompts, rng, made.spec, args.group,
            limit=np.int32(limit)).tokens, args.repeats)

    began = time.perf_counter()
    seconds(1)
    compiling = time.perf_counter() - began
    few = max(1, args.tokens // _SHORTER)
    turn = (seconds(args.tokens) - seconds(few)) / (args.tokens - few)
    weights = sum(value.nbytes for path, value in nnx.to_flat_state(state)
                  if path[0] != "vision")
    cache: Any = jax.eval_shape(lambda: made.model.empty_cache(1, 1))
    token = 2 * cache.keys.size * cache.keys.dtype.itemsize
    # A prompt's keys are read once for its group; a response's have room for its whole budget.
    read = weights + token * (args.prompts * args.length + rows * args.tokens)
    metrics = {"seconds_per_turn": turn, "tokens_per_second": rows / turn,
               "bytes_per_turn": read, "bytes_per_second": read / turn,
               "first_call_seconds": compiling}
    kind = jax.devices()[0].device_kind
    peak = next((v for k, v in BANDWIDTHS.items() if k in kind), None)
    return metrics | ({"bandwidth_utilisation": read / turn / peak} if peak else {})
