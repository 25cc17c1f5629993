"""Probes a checkpoint: ``python -m fourd4d.eval probe --config=configs/probe_heldout.py …``.

Below ``config.out`` it leaves ``items-*.jsonl`` (one log for each intervention; a stopped run
resumes), ``recordings`` and ``targets`` (what was and what should be imagined), ``controls.json``,
``probe.json`` and ``probe.html``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import jax
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fourd4d.config import fields
from fourd4d.config.build import frozen
from fourd4d.config.help import Help
from fourd4d.core.environment import environment
from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object
from fourd4d.core.storage import as_path, check_writable
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import open_source
from fourd4d.eval import report as eval_report
from fourd4d.eval.items import read_items, spread
from fourd4d.eval.probes import report, truth
from fourd4d.eval.probes.controls import run_controls
from fourd4d.eval.probes.run import ProbeSpec, probe
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.models import ModelConfig
from fourd4d.parallel import make_mesh, start, use
from fourd4d.pretrained.open import open_checkpoint


def progress(what: str, total: int, things: Iterable[Any]) -> Iterator[Any]:
    """The things, under a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    with RichProgress(*columns, console=plain_console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        for thing in things:
            yield thing
            bar.advance(task)


def run_probe(config: Any) -> dict[str, Any]:
    """Probes what ``config`` describes; see ``configs/probe_heldout.py``.

    Returns:
      What ``probe.json`` holds.
    """
    for field in ("checkpoint", "data"):
        if not config[field]:
            raise InputError(f"config.{field}", "nothing given", f"Give --config.{field}=…")
    check_writable(config.out)
    start()
    mesh = make_mesh(config.mesh, jax.local_devices())
    spec = frozen(EvalSpec, config.eval, "eval")
    probing = frozen(ProbeSpec, config.probe, "probe")
    source = open_source(config.data, config.root or None, keep_bad=True)
    items = read_items(source, config.limit)
    subject, weights = _subject(config.checkpoint, config.step, mesh, config)
    text_only = None
    if config.text_only:
        text_only, _ = _subject(config.text_only, config.text_only_step, mesh, config)
    protocol = subject.processor.protocol
    header = eval_report.header(spec.answers_json(), weights, protocol, source, items)
    out, shown = as_path(config.out), spread(items, config.page_items)
    outcome = probe(
        subject, source, items, spec, probing, out, header=header, text_only=text_only,
        tracks=truth.read_tracks(config.data), shown=[item.key for item in shown],
        progress=progress, retry_failed=config.retry_failed)
    result: dict[str, Any] = {"model": config.checkpoint, **header,
                              **summarise(outcome, probing)}
    if config.controls:
        result["controls"] = _controls(out)
        result["metrics"] |= {f"{task}_control": result["controls"][task]
                              for task in ("positive", "negative")}
    result |= {"benchmark": config.data, "config": config.to_dict(), **environment()}
    eval_report.write_json(out / "probe.json", result)
    lead = (f"{len(items)} items of {config.data}, answered by {config.checkpoint}, and again with "
            "something else in place of what it imagined.")
    page = report.page_of(result, config.title, lead)
    report.add_questions(page, outcome, shown, source, out, protocol, spec.assumed_fps or None)
    page.write(out / "probe.html")
    return result


def _subject(checkpoint: str, step: int, mesh: Any, config: Any) -> tuple[Subject, Any]:
    with use(mesh):
        bundle = open_checkpoint(checkpoint, mesh, step=step or None, **config.model.to_dict())
    return Subject(bundle.graphdef, (bundle.tree,), bundle.processor, checkpoint, mesh,
                   bundle.config.decoder.max_positions), bundle.tree


def _controls(out: Path) -> dict[str, Any]:
    """The planted controls, run once for an out directory."""
    path = out / "controls.json"
    if path.exists():
        return read_object(path, "Delete it: it is made anew")
    with tempfile.TemporaryDirectory() as root:
        found = run_controls(Path(root), progress=progress)
    eval_report.write_json(path, found)
    return found


def main(config: Any) -> None:
    report.show(run_probe(config), config.out, plain_console())


HELP: Final = Help(fields.PROBE, {"eval": EvalSpec, "model": ModelConfig}, "probe_heldout")
