"""Scores a checkpoint: ``python -m fourd4d.eval --config=configs/eval_heldout.py …``.

``python -m fourd4d.eval probe --config=configs/probe_heldout.py …`` asks whether its answers depend
on what it imagines; see ``probes``.

Below ``config.out`` it leaves ``items-*.jsonl`` (one log per shard; a stopped run resumes),
``result.json`` and ``page.html`` (both once every shard is complete).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fourd4d.config.build import frozen
from fourd4d.config.launch import launch
from fourd4d.core.environment import environment
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import Source, open_source
from fourd4d.eval import report
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record, read_items, read_log, shard, spread
from fourd4d.eval.probes.diagnosis import add_diagnosis, diagnose, recorder, stores
from fourd4d.eval.runner import EvalSpec, Observe, Subject, run
from fourd4d.pages import Page
from fourd4d.parallel import make_mesh, start, use
from fourd4d.pretrained.open import open_checkpoint


def evaluate(config: Any) -> dict[str, Any] | None:
    """Evaluates what ``config`` describes; see ``configs/eval_heldout.py``.

    Returns:
      What ``result.json`` holds; None while other shards are unfinished.
    """
    for field in ("checkpoint", "data"):
        if not config[field]:
            raise InputError(f"config.{field}", "nothing given", f"Give --config.{field}=…")
    start()
    mesh = make_mesh(config.mesh, jax.local_devices())
    spec = frozen(EvalSpec, config.eval, "eval")
    source = open_source(config.data, config.root or None, keep_bad=True)
    items = read_items(source, config.limit)
    with use(mesh):
        bundle = open_checkpoint(config.checkpoint, mesh, step=config.step or None,
                                 **config.model.to_dict())
    subject = Subject(bundle.graphdef, (bundle.tree,), bundle.processor, config.checkpoint, mesh,
                      bundle.config.decoder.max_positions)
    header = report.header(spec.answers_json(), bundle.tree, bundle.processor.protocol, source,
                           items)

    out = Path(config.out)
    count = config.shards or jax.process_count()
    index = config.shard if config.shards else jax.process_index()
    logs = [out / f"items-{i:05d}-of-{count:05d}.jsonl" for i in range(count)]
    shown = spread(items, config.page_items)
    maps, (latents, targets) = MapStore(out / "maps"), stores(out)
    looked_at = spread(items, config.imagery_items)
    watch = recorder(latents, {item.key for item in [*looked_at, *shown]}) if looked_at else None
    mine = shard(items, index, count)
    with ItemLog(logs[index], header, config.retry_failed) as log:
        answer(subject, source, mine, spec, log, maps, shown, watch)
    records = gather(logs, header)
    if len(records) < len(items):
        plain_console().print(f"{len(records)} of {len(items)} items are in {out}; the result is "
                              "written by the shard that finishes last", soft_wrap=True)
        return None

    imagery: dict[str, Any] = {"images": 0, "warnings": []}
    facts: dict[str, list[str]] = {}
    if looked_at:
        imagery, facts = diagnose(subject, source, looked_at, spec, latents, targets, records)
    result = {
        "model": config.checkpoint, **header, **report.summarise(items, records),
        "imagery": imagery, "benchmark": config.data, "config": config.to_dict(), **environment(),
    }
    report.write_json(out / "result.json", result)
    lead = (f"{len(items)} items of {config.data}, answered by {config.checkpoint} "
            f"{'greedily' if not spec.temperature else f'at temperature {spec.temperature:g}'}.")
    page = add_diagnosis(report.add_summary(Page(config.title, lead), result), imagery)
    page.add_cards("Items", report.cards(source, shown, records, maps, bundle.processor.protocol,
                                         spec.assumed_fps or None, facts), report.CARDS_NOTE)
    page.write(out / "page.html")
    return result


def answer(subject: Subject, source: Source, items: list[Item], spec: EvalSpec, log: ItemLog,
           maps: MapStore, shown: list[Item], watch: Observe | None = None) -> None:
    """Runs what the log lacks, under a progress bar."""
    done = sum(item.key in log.records for item in items)
    right = sum(record["correct"] for record in log.records.values())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[right]} right"))
    with Progress(*columns, console=plain_console(stderr=True)) as progress:
        task = progress.add_task("eval", total=len(items), completed=done, right=right)
        for record in run(subject, source, items, spec, log, observe=watch, maps=maps,
                          keep={item.key for item in shown}):
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
    table = Table("type", "items", "accuracy", "95 %", "lenient", "chance-adjusted")
    for name, part in [*result["by_type"].items(), ("all", result["overall"])]:
        table.add_row(
            name or "untyped", str(part["items"]), report.percent(part["accuracy"]),
            report.span(part["accuracy_low"], part["accuracy_high"]),
            report.percent(part["lenient_accuracy"]), report.percent(part["chance_adjusted"]))
    console = plain_console()
    console.print(table)
    for line in result["imagery"]["warnings"]:
        console.print(line, soft_wrap=True)
    console.print(f"{out}/page.html  {out}/result.json", soft_wrap=True)
    if result["failed"]:
        console.print(f"could not be run, counted as wrong: {len(result['failed'])}; "
                      "result.json lists them")


def main(config: Any) -> None:
    result = evaluate(config)
    if result is not None:
        show(result, config.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["probe"]:
        from fourd4d.eval.probes.__main__ import main as probe

        del sys.argv[1]
        launch(probe, command="probe")
    else:
        launch(main)
