"""Items a second of an evaluation with many questions a video, beside one item at a time.

    python -m fourd4d.bench eval --json eval.json

A random model answers a benchmark in VLM4D's layout, once as ``python -m fourd4d.eval`` does and
once item by item: each video read, encoded and prefilled anew for every question, the next one read
while one is decoded. Both in turn, in one process, after a first pass of each that compiles.

``token_mismatches`` counts tokens that differ. ``processor_…`` compares the processor's time,
which other processes on the machine disturb less. ``compiled_while_timed`` has to be 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.bench.common.result import Result
from fourd4d.core.rollout import Rollout
from fourd4d.core.terminal import say
from fourd4d.eval.benchmarks import BenchmarkSource, fakes, get
from fourd4d.eval.items import ItemLog, Record
from fourd4d.eval.runner import AskedBatch, encode, run
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.open import fresh, open_checkpoint
from fourd4d.sampling import generate, read_head

_WAYS = ("left", "right", "up", "down", "towards the camera", "away from the camera")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", help="directory; else random weights")
    parser.add_argument("--preset", default="tiny", help="of the random weights")
    parser.add_argument("--videos", type=int, default=3, help="of the benchmark")
    parser.add_argument("--questions", type=int, default=10, help="about each video")
    parser.add_argument("--seconds", type=int, default=16, help="of a video, one frame each shown")
    parser.add_argument("--rate", type=int, default=24, help="frames a second of a video")
    parser.add_argument("--height", type=int, default=480, help="of a video, pixels")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a response")
    parser.add_argument("--rows", type=int, default=16, help="responses decoded together")
    parser.add_argument("--protocol", default="kit_direct", help="of VLM4D's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, videos and draws")
    parser.add_argument("--repeats", type=int, default=2, help="timings; the best counts")


def main(args: argparse.Namespace) -> Result:
    mesh = make_mesh("single")
    with use(mesh):
        bundle = (open_checkpoint(args.checkpoint, mesh) if args.checkpoint
                  else fresh(args.preset, mesh, args.seed))
    subject = Subject(bundle.graphdef, (bundle.tree,), bundle.processor, mesh=mesh)
    together = EvalSpec(max_tokens=args.tokens, temperature=1.0, seed=args.seed, rows=args.rows)
    alone = dataclasses.replace(together, rows=1, workers=1, lookahead=1, cache_bytes=0)
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), args)
        times: dict[str, list[float]] = {"together": [], "alone": []}
        busy: dict[str, list[float]] = {"together": [], "alone": []}
        said: dict[str, dict[str, np.ndarray]] = {}
        compiled = 0
        for turn in range(args.repeats + 1):  # The first one compiles.
            for name, spec in (("together", together), ("alone", alone)):
                began, used = time.perf_counter(), time.process_time()
                said[name] = answers(subject, root, args.protocol, spec)
                times[name].append(time.perf_counter() - began)
                busy[name].append(time.process_time() - used)
                say(f"{'timed' if turn else 'compiling'}, {name}: {times[name][-1]:.1f} s, "
                    f"{busy[name][-1]:.1f} s of processors", stderr=True)
            compiled = compiled if turn else programs()
        compiled = programs() - compiled
    count = args.videos * args.questions
    batch, one = (min(times[name][1:]) for name in ("together", "alone"))
    wrong = sum(int((tokens != said["alone"][key]).sum())
                for key, tokens in said["together"].items())
    metrics = {
        "speedup_vs_sequential": one / batch,
        "processor_speedup_vs_sequential": min(busy["alone"][1:]) / min(busy["together"][1:]),
        "items_per_second": count / batch,
        "sequential_items_per_second": count / one, "token_mismatches": wrong,
        "compiled_while_timed": compiled, "items": len(said["together"]),
        "mean_tokens": float(np.mean([
            (tokens >= 0).sum() for tokens in said["together"].values()]))}
    return Result("eval", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})


def programs() -> int:
    """Programs that this process has compiled to answer items."""
    jitted: tuple[Any, ...] = encode, read_head, generate
    return sum(function._cache_size() for function in jitted)


def answers(subject: Subject, root: Path, protocol: str, spec: EvalSpec
            ) -> dict[str, np.ndarray]:
    """Each item's tokens, -1 past the end of its response."""
    source: BenchmarkSource = get("vlm4d").open(
        root, protocol, "real", cache_bytes=spec.cache_bytes)
    items, found = source.items(), {}

    def observe(keys: Sequence[str], asked: AskedBatch, rollout: Rollout) -> list[Record]:
        del asked
        for row, key in enumerate(keys):
            found[key] = np.where(rollout.mask[row], rollout.tokens[row], -1)
        return [{} for _ in keys]

    for record in run(subject, source, items, spec, ItemLog(None, {}), observe=observe):
        if record["status"] == "failed":
            raise RuntimeError(f"{record['key']}: {record['reason']}")
    return found


def write(root: Path, args: argparse.Namespace) -> Path:
    """A benchmark in VLM4D's layout, whose videos have many questions each."""
    rng = np.random.default_rng(args.seed)
    rows = []
    for number in range(args.videos):
        name = f"videos_real/bench/{number}.mp4"
        fakes.video(root / name, args.seed + number, args.seconds * args.rate, args.rate,
                    height=args.height, width=args.height * 4 // 3)
        for turn in range(args.questions):
            ways = rng.permutation(_WAYS)[:4].tolist()
            rows.append(dict(
                id=f"validation_{len(rows) + 1}", video=name, question_type="multiple-choice",
                question=f"Which way does the {('red square', 'small thing')[turn % 2]} move "
                         f"{'as seen by the camera ' * (turn % 3)}in part {turn + 1}?",
                choices=dict(zip("ABCD", ways, strict=True)), answer=ways[0]))
    fakes.json_file(root / "QA" / "real_mc.json", rows)
    return root
