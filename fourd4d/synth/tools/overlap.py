"""The ``overlap`` command: training clips that a benchmark holds too."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fourd4d.core import jsonl
from fourd4d.synth.tools import duplicates
from fourd4d.synth.tools.common import require_jsonl, row_of
from fourd4d.synth.tools.duplicates import ClipPrint, clip_name, hashes_at
from fourd4d.synth.video.discover import SUFFIXES


def run_overlap(args: argparse.Namespace) -> str:
    """List the clips of a training set that a benchmark holds too, by name and by appearance."""
    require_jsonl(args.data)
    benchmark = Path(args.benchmark)
    looks: dict[str, ClipPrint] = {}
    if benchmark.suffix == ".txt":
        names = {line.strip() for line in benchmark.read_text(encoding="utf-8").splitlines()}
    else:
        looks = hashes_at(benchmark, args.benchmark_root)
        names = set(looks)
        if benchmark.is_dir():
            names |= {path.stem for path in benchmark.rglob("*")
                      if path.suffix.lower() in SUFFIXES}
    train = [clip_name(sample) for sample in jsonl.read(args.data)]
    by_name = overlap(train, names - {""})
    by_looks = duplicates.alike(hashes_at(args.data, args.root), looks, args.bits) if looks else {}
    counts = collections.Counter(train)
    found = {**{name: name for name in by_name}, **by_looks}
    lines = [f"  {name} is {found[name]} of the benchmark ({_how(name, by_name, by_looks)}): "
             f"{counts[name]} samples" for name in sorted(found)]
    lost = sum(counts[name] for name in found)
    lines.append(f"{len(found)} of {len(counts)} clips overlap ({len(by_name)} by name, "
                 f"{len(by_looks)} by looks); {lost} of {len(train)} samples")
    if args.out:
        count = jsonl.write(args.out, (row_of(s) for s in jsonl.read(args.data)
                                       if clip_name(s) not in found))
        lines.append(f"{count} samples without overlap in {args.out}")
    return "\n".join(lines)


def _how(name: str, by_name: Mapping[str, Any], by_looks: Mapping[str, Any]) -> str:
    return " and ".join(how for how, table in (("name", by_name), ("looks", by_looks))
                        if name in table)


def add_arguments_overlap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="TRAIN", help="JSONL file")
    parser.add_argument("benchmark", metavar="BENCHMARK",
                        help="JSONL file, folder of videos, or .txt of video ids")
    parser.add_argument("--root", default="", help="where the paths in TRAIN start")
    parser.add_argument("--benchmark-root", default="", help="where those in BENCHMARK start")
    parser.add_argument("--bits", type=float, default=8.0, help="as for dedup")
    parser.add_argument("--out", default="", help="JSONL file of what does not overlap")


def overlap(train: Iterable[str], benchmark: Iterable[str]) -> dict[str, int]:
    """Return the video ids in both, with their number of training samples."""
    held = set(benchmark)
    return dict(collections.Counter(name for name in train if name in held))
