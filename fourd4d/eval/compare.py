"""``python -m fourd4d.eval compare A B``: two result folders, item by item."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fourd4d.core.errors import InputError
from fourd4d.core.files import file_errors_told
from fourd4d.core.storage import as_path
from fourd4d.core.terminal import plain_console
from fourd4d.eval.items import Record, read_log
from fourd4d.eval.statistics import (
    Agreement,
    Difference,
    clustered,
    detectable_difference,
    paired_bootstrap,
)
from fourd4d.pages import Interval, Page


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs over the same items.

    Attributes:
      difference: of B over A, its interval by video.
      detectable: the smallest true difference that these items would show, 4 times in 5; None
        where all differences are the same, so that neither this nor the interval is known.
    """

    items: int
    videos: int
    accuracy_a: float
    accuracy_b: float
    interval_a: tuple[float, float]
    interval_b: tuple[float, float]
    difference: Difference
    agreement: Agreement
    detectable: float | None

    def to_json(self) -> dict[str, Any]:
        """Return its numbers as JSON values."""
        return dataclasses.asdict(self)


def read_folder(folder: str | Path) -> dict[str, Record]:
    """All records of a result folder.

    Raises:
      InputError: it is none, a shard is missing or of another evaluation.
    """
    folder = as_path(folder)
    logs = sorted(folder.glob("items-*-of-*.jsonl"))
    if not logs:
        raise InputError(folder, "no items-*.jsonl here", "Give the folder of one evaluation")
    counts = {log.stem.rpartition("-of-")[2] for log in logs}
    if len(counts) > 1 or len(logs) != int(counts.copy().pop()):
        raise InputError(folder, f"{len(logs)} logs of {sorted(counts)} shards",
                         "Finish every shard first")
    records: dict[str, Record] = {}
    headers = []
    for log in logs:
        header, part = read_log(log)
        headers.append(header)
        records |= part
    if headers[0] is None or any(header != headers[0] for header in headers):
        raise InputError(folder, "its shards belong to different evaluations", "Run one again")
    if len(records) < headers[0]["items"]:
        raise InputError(folder, f"{len(records)} of {headers[0]['items']} items are answered",
                         "Finish the evaluation first")
    return records


def paired(a: Mapping[str, Record], b: Mapping[str, Record], common: bool
           ) -> list[tuple[Record, Record]]:
    """Records of the same items; raises InputError where the items differ and may not."""
    both = [key for key in a if key in b]
    lost = len(a) + len(b) - 2 * len(both)
    if not both or lost and not common:
        raise InputError("compare", f"{lost} items are in one folder alone, {len(both)} in both",
                         "Compare the same benchmark, or give --common")
    pairs = [(a[key], b[key]) for key in both]
    return [pair for pair in pairs if all(r.get("mapped", True) for r in pair)]


def comparison(pairs: Sequence[tuple[Record, Record]], field: str = "score") -> Comparison:
    """Of paired records; ``field`` is ``score``, ``lenient_score`` or ``own_score``."""
    a, b = (np.array([_score(pair[i], field) for pair in pairs]) for i in (0, 1))
    videos = [first["video_id"] or first["key"] for first, _ in pairs]
    said = {"score": "chosen", "lenient_score": "lenient", "own_score": "own"}[field]
    return Comparison(
        len(pairs), len(set(videos)), float(a.mean()), float(b.mean()), clustered(a, videos),
        clustered(b, videos), paired_bootstrap(a, b, videos),
        Agreement.of((a == 1.0).tolist(), (b == 1.0).tolist(), [x.get(said) for x, _ in pairs],
                     [y.get(said) for _, y in pairs]),
        detectable_difference(a, b, videos))


def _score(record: Record, field: str) -> float:
    plain = {"score": "correct", "lenient_score": "lenient_correct"}
    if field not in record and field not in plain:
        raise InputError("compare", f"item {record['key']!r} has no {field}",
                         "Choose a protocol with a reading of its own, or --reading strict")
    return float(record[field] if field in record else record[plain[field]])


def by_kind(pairs: Sequence[tuple[Record, Record]], field: str) -> dict[str, Comparison]:
    """A comparison for each question type."""
    groups: dict[str, list[tuple[Record, Record]]] = collections.defaultdict(list)
    for pair in pairs:
        groups[pair[0]["kind"]].append(pair)
    return {kind: comparison(part, field) for kind, part in sorted(groups.items())}


def main(argv: Sequence[str]) -> int:
    """The command; 0, or 2 with one line of what is wrong."""
    parser = argparse.ArgumentParser("python -m fourd4d.eval compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="folder of one evaluation")
    parser.add_argument("b", metavar="B", help="folder of the other")
    parser.add_argument("--reading", choices=("strict", "lenient", "own"), default="strict")
    parser.add_argument("--common", action="store_true",
                        help="compare the items that both have, where they differ")
    parser.add_argument("--out", default="", help="folder for compare.html and compare.json")
    args = parser.parse_args(argv)
    field = {"strict": "score", "lenient": "lenient_score", "own": "own_score"}[args.reading]
    try:
        with file_errors_told():
            pairs = paired(read_folder(args.a), read_folder(args.b), args.common)
            if not pairs:
                raise InputError("compare", "no item's answer is known in both", "Choose modes")
            whole, kinds = comparison(pairs, field), by_kind(pairs, field)
            if args.out:
                from fourd4d.eval.report import write_json

                write_json(as_path(args.out) / "compare.json", {
                    "a": args.a, "b": args.b, "reading": args.reading, "all": whole.to_json(),
                    "by_type": {kind: part.to_json() for kind, part in kinds.items()}})
                page(args.a, args.b, pairs, whole, kinds, field).write(
                    as_path(args.out) / "compare.html")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    show(args.a, args.b, whole, kinds)
    return 0


def show(a: str, b: str, whole: Comparison, kinds: Mapping[str, Comparison]) -> None:
    """The comparison on the terminal."""
    table = Table("type", "items", "A", "B", "B - A", "95 %, by video", "CC CW WC WW")
    for name, part in [*kinds.items(), ("all", whole)]:
        d, g = part.difference, part.agreement
        table.add_row(name or "untyped", str(part.items), f"{100 * part.accuracy_a:.1f}",
                      f"{100 * part.accuracy_b:.1f}", f"{100 * d.mean:+.1f}",
                      "–" if part.detectable is None
                      else f"{100 * d.low:+.1f} … {100 * d.high:+.1f}",
                      f"{g.cc} {g.cw} {g.wc} {g.ww}")
    console = plain_console()
    console.print(f"A {a}\nB {b}", soft_wrap=True)
    console.print(table)
    console.print(told(whole), soft_wrap=True)


def told(whole: Comparison) -> str:
    """The comparison in a sentence."""
    d = whole.difference
    shown = ("No difference is shown" if d.low <= 0 <= d.high
             else f"B is {'better' if d.mean > 0 else 'worse'}")
    interval, power = "", "The difference is the same everywhere: nothing tells how sure it is."
    if whole.detectable is not None:
        interval = f" ({100 * d.low:+.1f} … {100 * d.high:+.1f})"
        power = (f"These items would show a difference of {100 * whole.detectable:.1f} points, "
                 "4 times in 5.")
    return (f"{shown}: {100 * d.mean:+.1f} points{interval} on {whole.items} items of "
            f"{whole.videos} videos; McNemar's exact p = {whole.agreement.p_value:.3g}, items "
            f"taken alone; the same answer to {100 * whole.agreement.same:.1f} % of them. {power}")


def _gain(part: Comparison) -> tuple[str, str | None]:
    """The difference, and what would show, as cells."""
    d, mean = part.difference, f"{100 * part.difference.mean:+.1f}"
    if part.detectable is None:
        return mean, None
    return f"{mean} ({100 * d.low:+.1f} … {100 * d.high:+.1f})", f"{100 * part.detectable:.1f}"


def page(a: str, b: str, pairs: Sequence[tuple[Record, Record]], whole: Comparison,
         kinds: Mapping[str, Comparison], field: str) -> Page:
    """The comparison as a page: by type, counts, and the items whose answers differ in worth."""
    made = Page(f"{Path(a).name} and {Path(b).name}", f"A is {a}, B is {b}. {told(whole)}")
    rows = [[name or "untyped", part.items, Interval(part.accuracy_a, *part.interval_a),
             Interval(part.accuracy_b, *part.interval_b),
             *_gain(part)]
            for name, part in [*kinds.items(), ("all", whole)]]
    made.add_table("By question type", ["type", "items", "A, %", "B, %", "B - A, points",
                                        "would show"], rows,
                   "Intervals are of 95 %, questions of one video taken together; differences are "
                   "of the same items. The last column is the true difference that so many items "
                   "show 4 times in 5.")
    g = whole.agreement
    made.add_table("Right and wrong", ["", "B right", "B wrong"],
                   [["A right", g.cc, g.cw], ["A wrong", g.wc, g.ww]])
    changed = [[x["key"], x["kind"], x.get("answer"), x.get("chosen") or "none",
                y.get("chosen") or "none"] for x, y in pairs
               if _score(x, field) != _score(y, field)]
    if changed:
        made.add_table("Items that one of the two has right", ["item", "type", "key", "A", "B"],
                       changed[:500],
                       f"{min(len(changed), 500)} of {len(changed)}.")
    return made
