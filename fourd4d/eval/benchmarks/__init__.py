"""Published benchmarks, read from their own files and scored by their own rules.

``python -m fourd4d.eval --config=configs/eval_benchmark.py --config.benchmark=NAME
--config.root=DIR`` chooses one of ``TABLE``; ``TABLE[NAME].open(root)`` gives its rows, and
``TABLE[NAME].fake(folder)`` writes a tiny copy of its layout. What each folder must hold is told in
``docs/benchmarks/NAME.md``.

To add one, make a module here, or anywhere else, with a ``Benchmark``:

1. ``read(root, split)`` returns a ``Question`` for every row of the file, also for those that
   cannot be asked: they have a ``problem``. ``tables.questions_of`` and ``tables.choice`` do that,
   and read parquet, TSV, CSV, JSON and JSONL.
2. ``protocols`` names the ways to ask: a prompt (texts and media in order), a rule for frames
   (``frames``), and the kit's own reading of answers (``scoring``). ``base.imagery_protocol()`` is
   the one that this package trains with.
3. ``aggregate(questions, scores)`` is the table that the benchmark's authors publish.
4. ``write_fake(folder)`` writes a few rows in the official layout, with ``fakes``.

Then ``TABLE[benchmark.name] = benchmark``. It runs under every mode and statistic; its tests are
those of ``tests/eval/benchmarks``, which go through the table.
"""

from __future__ import annotations

from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.eval.benchmarks import (
    dsi_bench,
    dsr_bench,
    dyn_bench,
    mmsi_video,
    our_jsonl,
    revsi,
    sti_bench,
    vlm4d,
    vsi_bench,
)
from fourd4d.eval.benchmarks.base import (
    AskProtocol,
    Benchmark,
    Clip,
    Published,
    Question,
    imagery_protocol,
)
from fourd4d.eval.benchmarks.source import BenchmarkSource

TABLE: Final[dict[str, Benchmark]] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (dsr_bench, vlm4d, sti_bench, vsi_bench, revsi, dyn_bench, dsi_bench, mmsi_video,
                   our_jsonl)}

__all__ = ["TABLE", "AskProtocol", "Benchmark", "BenchmarkSource", "Clip", "Published", "Question",
           "get", "imagery_protocol"]


def get(name: str) -> Benchmark:
    """The benchmark of that name. Raises InputError, naming those there are."""
    if name not in TABLE:
        raise InputError("config.benchmark", f"there is no {name!r}", f"Use one of {sorted(TABLE)}")
    return TABLE[name]
