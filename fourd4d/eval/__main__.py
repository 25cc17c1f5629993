"""Scores a checkpoint: ``python -m fourd4d.eval --config=configs/eval_heldout.py …``.

``python -m fourd4d.eval compare A B`` compares two result folders, item by item.

A benchmark in its own files: ``--config.benchmark=NAME --config.root=DIR`` (``eval.benchmarks``).

``python -m fourd4d.eval probe --config=configs/probe_heldout.py …`` asks whether its answers depend
on what it imagines; see ``probes``.

Below ``config.out`` it leaves ``items-*.jsonl`` (one log per shard; a stopped run resumes),
``result.json`` and ``page.html`` (both once every shard is complete); several protocols, modes or
runs of a benchmark lie in folders of their own beside ``table.json`` and ``table.html``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fourd4d.config import fields
from fourd4d.config.build import frozen
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.environment import environment
from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.core.storage import as_path, check_writable
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import Source, open_source
from fourd4d.eval import compare, report
from fourd4d.eval.benchmarks import BenchmarkSource, get, kits
from fourd4d.eval.benchmarks.grid import (
    Cell,
    cells,
    counted,
    failures,
    keys_json,
    read_subset,
    table,
)
from fourd4d.eval.benchmarks.grid import page as grid_page
from fourd4d.eval.benchmarks.grid import summary as benchmark_summary
from fourd4d.eval.benchmarks.overlap import overlap, sentence, training_data
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import (
    Item,
    ItemLog,
    Record,
    read_items,
    read_log,
    run_seed,
    shard,
    spread,
)
from fourd4d.eval.probes import pairs
from fourd4d.eval.probes.diagnosis import add_diagnosis, diagnose, recorder, stores
from fourd4d.eval.runner import Observe, run
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.eval.vision_store import VisionStore
from fourd4d.models import ModelConfig
from fourd4d.pages import Page
from fourd4d.parallel import make_mesh, start, use
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.open import open_checkpoint


def evaluate(config: Any) -> dict[str, Any] | None:
    """Evaluates what ``config`` describes; see ``configs/eval_heldout.py``.

    Returns:
      What ``result.json`` holds, of several evaluations of a benchmark what ``table.json`` does;
      None while other shards are unfinished.
    """
    benchmark = config.get("benchmark", "")
    for field in ("checkpoint", "root" if benchmark else "data"):
        if not config[field]:
            raise InputError(f"config.{field}", "nothing given", f"Give --config.{field}=…")
    check_writable(config.out)
    start()
    mesh = make_mesh(config.mesh, jax.local_devices())
    spec = frozen(EvalSpec, config.eval, "eval")
    if benchmark:
        rows = get(benchmark).open(config.root, split=config.split, seed=spec.seed)
        grid = cells(rows, as_path(config.out), config.protocols, config.modes, config.runs)
        subset = read_subset(config.subset)
        if config.runs > 1 and not spec.temperature:
            raise InputError("config.runs", f"{config.runs} runs at temperature 0 are all the same",
                             "Give --config.eval.temperature=1.0, or one run")
    else:
        source = open_source(config.data, config.root or None, keep_bad=True)
        items = read_items(source, config.limit)
    with use(mesh):
        bundle = open_checkpoint(config.checkpoint, mesh, step=config.step or None,
                                 **config.model.to_dict())
    subject = Subject(bundle.graphdef, (bundle.tree,), bundle.processor, config.checkpoint, mesh,
                      bundle.config.decoder.max_positions)
    asking = _Asking(config, subject, bundle, VisionStore(spec.cache_bytes))
    if not benchmark:
        return evaluate_source(asking, Rows(config, source), items, spec, as_path(config.out))
    return evaluate_grid(asking, rows, grid, spec, subset)


@dataclasses.dataclass(frozen=True)
class _Asking:
    """What all evaluations of a command have in common."""

    config: Any
    subject: Subject
    bundle: ModelBundle
    store: VisionStore


class Rows:
    """What an evaluation of rows of our own says of itself."""

    def __init__(self, config: Any, source: Source):
        self.source, self.name, self.title = source, config.data, config.title
        self.about = config.data
        self.header: dict[str, Any] = {}

    def counted(self, items: list[Item], records: dict[str, Record]) -> list[Item]:
        """The items that accuracies count."""
        del records
        return items

    def summary(self, items: list[Item], records: dict[str, Record]) -> dict[str, Any]:
        """What its result has beside the usual."""
        del items, records
        return {}

    def write_kits(self, items: list[Item], records: dict[str, Record], out: Path, model: str
                   ) -> None:
        """Its results in the layouts of other kits, if it has one."""


class BenchmarkRows(Rows):
    """The same of a benchmark, by one protocol in one mode.

    Args:
      seen: gives its overlap with what the checkpoint was trained on.
    """

    def __init__(self, source: BenchmarkSource, seen: Callable[[], dict[str, Any]]):
        self.source: BenchmarkSource = source
        self.name, self.title = source.benchmark.name, source.benchmark.title
        self.about = f"{self.title}, protocol {source.protocol}, mode {source.mode}"
        self.header, self._seen = {"benchmark": source.describe()}, seen

    def counted(self, items: list[Item], records: dict[str, Record]) -> list[Item]:
        mode = self.source.mode
        return [item for item in items if counted([records[item.key]], mode)]

    def summary(self, items: list[Item], records: dict[str, Record]) -> dict[str, Any]:
        return benchmark_summary(self.source, items, records) | {"overlap": self._seen()}

    def write_kits(self, items: list[Item], records: dict[str, Record], out: Path, model: str
                   ) -> None:
        if self.source.mode == "normal":
            kits.write(self.source, items, records, out / "kits", model)


def evaluate_grid(asking: _Asking, rows: BenchmarkSource, grid: Sequence[Cell], spec: EvalSpec,
                  subset: Collection[str] | None) -> dict[str, Any] | None:
    """Every cell of a benchmark's grid; of several, also ``table.json`` and ``table.html``."""
    config = asking.config
    seen = functools.cache(  # Once, and only where a result is written.
        lambda: overlap(rows, *training_data(config.checkpoint, config.step or None)))
    found: list[tuple[Cell, dict[str, Record]]] = []
    results = []
    for cell in grid:
        source = rows.with_(cell.protocol, cell.mode, subset)
        items = source.items(config.limit)
        if not items:
            raise InputError("config.subset", "no item of the benchmark is in it", "Give its keys")
        result = evaluate_source(asking, BenchmarkRows(source, seen), items,
                                 dataclasses.replace(spec, seed=run_seed(spec.seed, cell.run)),
                                 cell.folder)
        results.append(result)
        logs = sorted(cell.folder.glob("items-*-of-*.jsonl"))
        records: dict[str, Record] = {}
        for log in logs:
            records |= read_log(log)[1]
        if result is not None:
            found.append((cell, {item.key: records[item.key] for item in items}))
    if len(grid) == 1 or len(found) < len(grid):
        return results[0] if len(grid) == 1 else None
    out, benchmark = as_path(config.out), rows.benchmark
    whole = table(found) | {
        "overlap": seen(), "benchmark": benchmark.name, "title": benchmark.title,
        "model": config.checkpoint, "split": rows.split,
        "published": [dataclasses.asdict(p) for p in benchmark.published]}
    chance = results[0]["overall"]["chance"] if results[0] else 0.0
    for protocol, part in whole.get("needs_video", {}).items():
        with replacing(out / f"needs_video_{protocol}.json") as file:
            file.write_text(keys_json(part["keys"], part["rule"]), encoding="utf-8")
    report.write_json(out / "table.json", whole)
    grid_page(f"{benchmark.title}: {config.checkpoint}", whole, chance,
              benchmark.published).write(out / "table.html")
    return whole


def evaluate_source(asking: _Asking, rows: Rows, items: list[Item], spec: EvalSpec, out: Path
                    ) -> dict[str, Any] | None:
    """Answers the items of one source into ``out``; None while other shards are unfinished."""
    config, subject, source = asking.config, asking.subject, rows.source
    protocol = subject.processor.protocol
    header = report.header(spec.answers_json(), asking.bundle.tree, protocol, source, items)
    header |= rows.header
    count = config.shards or jax.process_count()
    index = config.shard if config.shards else jax.process_index()
    logs = [out / f"items-{i:05d}-of-{count:05d}.jsonl" for i in range(count)]
    shown = spread(items, config.page_items)
    maps, (latents, targets) = MapStore(out / "maps"), stores(out)
    looked_at = spread(items, config.imagery_items)
    watch = recorder(latents, {item.key for item in [*looked_at, *shown]}) if looked_at else None
    with ItemLog(logs[index], header, config.retry_failed) as log:
        answer(asking, source, shard(items, index, count), spec, log, maps, shown, watch)
    records = gather(logs, header)
    if len(records) < len(items):
        plain_console().print(f"{len(records)} of {len(items)} items are in {out}; the result is "
                              "written by the shard that finishes last", soft_wrap=True)
        return None

    imagery: dict[str, Any] = {"images": 0, "warnings": []}
    facts: dict[str, list[str]] = {}
    if looked_at:
        imagery, facts = diagnose(subject, source, looked_at, spec, latents, targets, records)
    paired = pairs.both_right(records)
    if paired:
        paired |= pairs.moved(latents, targets, records, protocol.latent_size)
    result = {
        "model": config.checkpoint, **header,
        **report.summarise(rows.counted(items, records), records), **rows.summary(items, records),
        "imagery": imagery, **({"pairs": paired} if paired else {}), "benchmark": rows.name,
        "config": config.to_dict(), **environment(),
    }
    report.write_json(out / "result.json", result)
    rows.write_kits(items, records, out, Path(config.checkpoint).name)
    lead = (f"{len(items)} items of {rows.about}, answered by {config.checkpoint} "
            f"{'greedily' if not spec.temperature else f'at temperature {spec.temperature:g}'}.")
    page = add_diagnosis(report.add_summary(Page(rows.title, lead), result), imagery)
    pairs.add_pairs(page, paired)
    page.add_cards("Items", report.cards(source, shown, records, maps, protocol,
                                         spec.assumed_fps or None, facts), report.CARDS_NOTE)
    page.write(out / "page.html")
    return result


def answer(asking: _Asking, source: Source, items: list[Item], spec: EvalSpec, log: ItemLog,
           maps: MapStore, shown: list[Item], watch: Observe | None = None) -> None:
    """Runs what the log lacks, under a progress bar."""
    done = sum(item.key in log.records for item in items)
    right = sum(record["correct"] for record in log.records.values())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[right]} right"))
    with Progress(*columns, console=plain_console(stderr=True)) as progress:
        task = progress.add_task("eval", total=len(items), completed=done, right=right)
        for record in run(asking.subject, source, items, spec, log, observe=watch, maps=maps,
                          keep={item.key for item in shown}, store=asking.store):
            right += record["correct"]
            progress.update(task, advance=1, right=right)


def gather(logs: list[Path], header: dict[str, Any]) -> dict[str, Record]:
    """The records of all shards written so far. Raises InputError when one is of another run."""
    records: dict[str, Record] = {}
    for path in logs:
        if not path.exists():
            continue
        found, part = read_log(path)
        if found is not None and found != header:
            raise InputError(path, "this shard belongs to another evaluation",
                             "Delete it, or choose another out directory")
        records |= part
    return records


def show(result: dict[str, Any], out: str) -> None:
    """The summary on the terminal."""
    console = plain_console()
    if "rows" in result:
        show_grid(result, out)
        return
    table = Table("type", "items", "accuracy", "95 %", "lenient", "chance-adjusted")
    for name, part in [*result["by_type"].items(), ("all", result["overall"])]:
        table.add_row(
            name or "untyped", str(part["items"]), report.percent(part["accuracy"]),
            report.span(part["accuracy_low"], part["accuracy_high"]),
            report.percent(part["lenient_accuracy"]), report.percent(part["chance_adjusted"]))
    console.print(table)
    if "benchmark_table" in result:
        for reading, metrics in result["benchmark_table"].items():
            told = ", ".join(f"{name} {report.percent(value)}" for name, value in metrics.items())
            console.print(f"{result['asked']['title']}, {result['asked']['protocol']}, "
                          f"{result['asked']['mode']}, {reading}: {told}", soft_wrap=True)
        show_published(result["published"])
        console.print(sentence(result["overlap"]), soft_wrap=True)
    for line in [*result["imagery"]["warnings"], *pairs.lines(result.get("pairs", {}))]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{out}/page.html  {out}/result.json", soft_wrap=True)
    if result["failed"]:
        console.print(f"could not be run, counted as wrong: {len(result['failed'])}; "
                      "result.json lists them")


def show_grid(result: dict[str, Any], out: str) -> None:
    """Protocols and modes of a benchmark on the terminal."""
    console = plain_console()
    table = Table("protocol", "mode", "items", "accuracy", "95 %", "no answer", "runs")
    for row in result["rows"]:
        told = ([report.percent(row["accuracy"]),
                 report.span(row["accuracy_low"], row["accuracy_high"]),
                 report.percent(row["no_answer_share"])] if row["items"] else [""] * 3)
        of = "" if row["items"] == row["of"] else f" of {row['of']}"
        table.add_row(row["protocol"], row["mode"], f"{row['items']}{of}", *told,
                      str(row["runs"]))
    console.print(table)
    for line in failures(result["rows"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    show_published(result["published"])
    console.print(sentence(result["overlap"]), soft_wrap=True)
    console.print(f"{out}/table.html  {out}/table.json", soft_wrap=True)


def show_published(published: Sequence[dict[str, Any]]) -> None:
    """Known results on the terminal."""
    for p in published:
        protocol = f", protocol {p['protocol']}" if p["protocol"] else ""
        plain_console().print(f"published: {p['model']} {p['metric']} {p['value']:g} %{protocol} "
                              f"({p['source']})", soft_wrap=True)


HELP: Final = Help(fields.EVAL, {"eval": EvalSpec, "model": ModelConfig}, "eval_heldout")


def main(config: Any) -> None:
    result = evaluate(config)
    if result is not None:
        show(result, config.out)


COMMANDS = {"compare": compare.main}
"""Words after ``python -m fourd4d.eval`` that do something else than evaluate."""

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
    if sys.argv[1:2] == ["probe"]:
        from fourd4d.eval.probes import __main__ as probe

        del sys.argv[1]
        launch(probe.main, about=probe.HELP, command="probe")
    else:
        launch(main, about=HELP)
