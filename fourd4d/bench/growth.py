"""Does cost grow as work does? Time and memory by frames, responses and rows, as a picture.

    python -m fourd4d.bench growth --out runs/growth

``frames``: a DIFT update on one video of 8 to 200 frames. ``responses``: sampling and the gradient
of 1 to 32 responses to a prompt. ``rows``: a JSONL file of 1,000 to 100,000 rows: opened, every row
read once in another order, and batches made. Each point is a process of its own, so that its memory
is its own: of the first two what the compiled programs hold, of the last the most that the process
held above what it held before.

``exponent`` is the slope of the logarithms, 1 where twice the work costs twice as much. It is that
of the whole range; ``last`` is that of the two largest points, where fixed costs hide least.
Writes ``growth.png`` and ``growth.json`` into ``--out``; needs matplotlib (``[notebook]``).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.bench import fit
from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.core import jsonl
from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.core.sample import Sample
from fourd4d.core.terminal import say
from fourd4d.data import Reading, dift_pipeline, measure, open_source
from fourd4d.dift.step import DiftSpec, update
from fourd4d.models import Thinker, preset, preset_protocol
from fourd4d.parallel import DEFAULT_RULES, host_to_global, make_mesh, use
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.sampling import generate
from fourd4d.sampling.replay import response_hidden, score_hidden
from fourd4d.train import OptimizerSpec, create_state, make_optimizer

_AT: Final[Mapping[str, tuple[int, ...]]] = {
    "frames": (8, 16, 32, 64, 128, 200),
    "responses": (1, 2, 4, 8, 16, 32),
    "rows": (1_000, 3_000, 10_000, 30_000, 100_000)}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/growth", help="folder of the picture")
    parser.add_argument("--axes", nargs="*", default=tuple(_AT), help="some of " + ", ".join(_AT))
    parser.add_argument("--most", type=int, default=0, help="leave out larger points; 0: none")
    parser.add_argument("--preset", default="tiny", help="tiny, 3b, 7b, 32b or 72b")
    parser.add_argument("--repeats", type=int, default=3, help="timings; the best counts")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "AT"), help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> Result:
    if args.point:
        axis, at = args.point
        return Result("growth", _POINTS[axis](int(at), args))
    unknown = sorted(set(args.axes) - set(_AT))
    if unknown:
        raise InputError("--axes", f"unknown {unknown}", f"They are {', '.join(_AT)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("bench growth", "matplotlib is not installed",
                         'Install "fourd4d[notebook]"') from error
    found: dict[str, dict[str, list[float]]] = {}
    metrics: dict[str, float] = {}
    for axis in args.axes:
        places = [at for at in _AT[axis] if at <= (args.most or math.inf)]
        if len(places) < 2:
            raise InputError("--most", f"{args.most} leaves {len(places)} points of {axis}",
                             f"Use {_AT[axis][1]} or more")
        points = [_measured(axis, at, args) for at in places]
        columns = {"at": [float(at) for at in places], **{
            key: [float(point[key]) for point in points] for key in ("seconds", "bytes")}}
        found[axis] = columns
        for key in ("seconds", "bytes"):
            metrics |= {f"{axis}_{key}_exponent": slope(columns["at"], columns[key]),
                        f"{axis}_{key}_last": slope(columns["at"][-2:], columns[key][-2:])}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "growth.json") as draft:
        draft.write_text(json.dumps({"points": found, "metrics": metrics}, indent=1) + "\n")
    with replacing(out / "growth.png") as draft:
        _picture(found, metrics).savefig(draft, format="png", dpi=110)
    return Result("growth", metrics, {"points": found})


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the logarithms, by least squares."""
    return float(np.polyfit(np.log(x), np.log(np.maximum(y, 1e-12)), 1)[0])


def _measured(axis: str, at: int, args: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "point.json"
        ran = subprocess.run(
            [sys.executable, "-m", "fourd4d.bench", "growth", "--point", axis, str(at),
             "--preset", args.preset, "--repeats", str(args.repeats), "--json", str(result)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if ran.returncode:
            told = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
            raise InputError(f"{axis} = {at}", told, "Leave larger points out by --most")
        point = json.loads(result.read_text())["metrics"]
    say(f"{axis} {at:,}: {point['seconds']:.3g} s, {point['bytes'] / 1e6:,.1f} MB", stderr=True)
    return point


def _held(*programs: Any) -> int:
    """The most that one of these compiled programs holds."""
    return max(map(fit.used_bytes, programs))


def _frames(frames: int, args: argparse.Namespace) -> dict[str, float]:
    protocol, config = preset_protocol(args.preset), preset(args.preset)
    shape = fit.budget(protocol, 1, frames, 4, 128)
    mesh, rules = make_mesh("single"), DEFAULT_RULES.replicating("kv_heads")
    tx = make_optimizer(OptimizerSpec())
    with use(mesh, rules):
        graphdef, state = create_state(lambda rngs: Thinker(config, rngs), 0, tx, mesh, rules,
                                       fit.DECODER_ONLY)
        batch = host_to_global(Batch.fake(shape, protocol, seed=0), mesh, rules)
        step = jax.jit(functools.partial(update, graphdef=graphdef, tx=tx, spec=DiftSpec()),
                       donate_argnums=0).lower(state, batch).compile()
        now = [state]

        def once() -> Any:
            now[0], metrics = step(now[0], batch)
            return metrics

        seconds = tiny_rollout.seconds(once, args.repeats)
    return {"seconds": seconds, "bytes": _held(step)}


def _responses(group: int, args: argparse.Namespace) -> dict[str, float]:
    parser = argparse.ArgumentParser()
    tiny_rollout.arguments(parser, prompts=1, tokens=112)
    made = tiny_rollout.make(parser.parse_args(
        ["--preset", args.preset, "--group", str(group)]), endless=True)
    graphdef, params, frozen = nnx.split(made.model, lambda path, _: path[0] != "vision", ...)
    rng = jax.random.key(0)

    def gradient(params: Any, prompts: Batch, rollout: Any) -> Any:
        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, frozen)
            hidden = response_hidden(model, prompts, rollout, group)
            return -jnp.mean(score_hidden(model, hidden, rollout, made.spec)[0])

        return jax.grad(loss)(params)

    sample = generate.lower(graphdef, (params, frozen), made.prompts, rng, made.spec,
                            group).compile()
    rollout = sample((params, frozen), made.prompts, rng)
    learn = jax.jit(gradient).lower(params, made.prompts, rollout).compile()
    seconds = tiny_rollout.seconds(
        lambda: learn(params, made.prompts, sample((params, frozen), made.prompts, rng)),
        args.repeats)
    return {"seconds": seconds, "bytes": _held(sample, learn)}


def _rows(rows: int, args: argparse.Namespace) -> dict[str, float]:
    import PIL.Image

    processor = Processor(tiny_tokenizer(), preset_protocol(args.preset))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        PIL.Image.new("RGB", (64, 64), (200, 30, 30)).save(Path(folder) / "frame.png")
        one = Sample.fake()
        one = dataclasses.replace(one, frames=("frame.png",) * len(one.frames),
                                  overlays=("frame.png",) * len(one.overlays))
        jsonl.write(path, (jsonl.dift_row(dataclasses.replace(one, id=f"row{i}"))
                           for i in range(rows)))
        Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
        before, began = _memory("VmRSS"), time.perf_counter()
        source = open_source(path, folder)
        for index in np.random.default_rng(0).permutation(len(source)):
            source[int(index)]
        shape = measure(source, processor, 8, examples=256)
        batches = iter(dift_pipeline(source, processor, shape, epochs=None,
                                     reading=Reading(workers=0)))
        for _ in range(20):
            next(batches)
        seconds = time.perf_counter() - began
        batches.close()
        return {"seconds": seconds, "bytes": _memory("VmHWM") - before}


def _memory(name: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return 1024 * int(words[words.index(f"{name}:") + 1])


_POINTS: Final[Mapping[str, Callable[[int, argparse.Namespace], dict[str, float]]]] = {
    "frames": _frames, "responses": _responses, "rows": _rows}


def _picture(found: Mapping[str, Mapping[str, Sequence[float]]],
             metrics: Mapping[str, float]) -> Any:
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(3.6 * len(found), 5.4), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (name, values) in enumerate(found.items()):
        for axis, key, unit, scale in zip(axes[:, column], ("seconds", "bytes"), ("s", "MB"),
                                          (1.0, 1e6), strict=True):
            x, y = np.array(values["at"]), np.array(values[key]) / scale
            axis.loglog(x, y, "o-", label="measured")
            axis.loglog(x, y[-1] * x / x[-1], "--", color="gray", label="as work does")
            axis.set_title(f"{name}: exponent {metrics[f'{name}_{key}_exponent']:.2f}, last "
                           f"{metrics[f'{name}_{key}_last']:.2f}", fontsize=9)
            axis.set_xlabel(name, fontsize=8)
            axis.set_ylabel(unit, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    return figure
