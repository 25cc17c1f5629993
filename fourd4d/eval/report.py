"""What an evaluation leaves behind: ``result.json`` and ``page.html``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fourd4d.core.errors import DiskFullError, InputError, one_line
from fourd4d.core.files import replacing
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import Sample
from fourd4d.core.storage import as_path
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval.benchmarks.overlap import sentence
from fourd4d.eval.benchmarks.source import BenchmarkSource
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, Record
from fourd4d.eval.statistics import tally, tally_by_type
from fourd4d.pages import Card, Interval, MentalImage, Number, Page, Percent, Real
from fourd4d.processing.media import Image, Video


def digest(source: Source, items: Sequence[Item]) -> str:
    """16 hexadecimal digits of the questions, options and keys."""
    total = hashlib.sha256()
    for item in items:
        if item.problem:
            total.update(json.dumps([item.key, "cannot be asked"]).encode())
            continue
        asked: list[str] = [item.key]
        with contextlib.suppress(Exception):  # It fails alone, when it is its turn.
            sample = source[item.number].sample
            asked = [sample.id, sample.text_input, sample.answer]
        total.update(json.dumps(asked).encode())
    return total.hexdigest()[:16]


def weights_digest(params: Any) -> str:
    """16 hexadecimal digits of a few numbers of every parameter: tells checkpoints apart."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        few = leaf[(slice(1),) * (leaf.ndim - 1)][..., :32] if leaf.ndim else leaf
        total.update(np.asarray(few, np.float32).tobytes())
    return total.hexdigest()[:16]


def header(settings: Mapping[str, Any], params: Any, protocol: ProtocolSpec, source: Source,
           items: Sequence[Item]) -> dict[str, Any]:
    """What must be the same for a log to be resumed, as JSON values."""
    value = {
        "evaluation": dict(settings), "weights": weights_digest(params),
        "protocol": protocol.to_json(), "data": digest(source, items), "items": len(items),
    }
    return json.loads(json.dumps(value))


def summarise(items: Sequence[Item], records: Mapping[str, Record]) -> dict[str, Any]:
    """Summaries over all items and per type, and the items that could not be run.

    Raises:
      InputError: an item has no record; the benchmark is not finished.
    """
    missing = [item.key for item in items if item.key not in records]
    if missing:
        raise InputError("result", f"{len(missing)} of {len(items)} items have no record, first "
                         f"{missing[0]!r}", "Finish every shard first")
    chosen = [records[item.key] for item in items]
    kinds = tally_by_type(chosen)
    per_type = {kind: part.summary() for kind, part in kinds.items()}
    return {
        "overall": tally(chosen).summary(),
        "by_type": per_type,
        "mean_of_types": float(np.mean([part["accuracy"] for part in per_type.values()])),
        "failed": [{"key": r["key"], "reason": r["reason"]} for r in chosen
                   if r["status"] == "failed"],
    }


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> Path:
    """Under a temporary name, then renamed."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n",
                             encoding="utf-8")
    return as_path(path)


def cards(
    source: Source,
    items: Sequence[Item],
    records: Mapping[str, Record],
    maps: MapStore,
    protocol: ProtocolSpec,
    assumed_fps: float | None = None,
    more: Mapping[str, Sequence[str]] | None = None,
) -> list[Card]:
    """A card for each of the items that was run, with its frames read again.

    ``more`` holds further facts by item. Where reading fails, the answer stands, and the card says
    why it has no pictures.
    """
    found = []
    for item in items:
        record = records[item.key]
        if record["status"] == "failed":
            continue
        sample = Sample(item.key, "")
        try:
            row = source[item.number]
            sample = row.sample
            if isinstance(source, BenchmarkSource):
                media, overlays = source.shown(item.number).media or (_blank(),), []
            else:
                media, overlays = row_media(row, protocol, assumed_fps=assumed_fps)
            card = _card(sample, record, media, overlays, maps.load(item.key), protocol)
            card.html()  # What cannot be drawn is found here, with the item at hand.
        except Exception as error:
            if isinstance(error, DiskFullError):
                raise
            card = _card(sample, record, (_blank(),), (), (), protocol)
            card = dataclasses.replace(
                card, facts=(*card.facts, f"cannot be shown: {one_line(error)}"))
        found.append(dataclasses.replace(
            card, facts=(*card.facts, *(more or {}).get(item.key, ()))))
    return found


def _blank() -> Image:
    """Where there is nothing to show."""
    return Image(np.full((1, 1, 3), 128, np.uint8))


def _card(sample: Sample, record: Record, media: Sequence[Any], overlays: Sequence[np.ndarray],
          maps: Sequence[np.ndarray], protocol: ProtocolSpec) -> Card:
    medium = media[0]
    video = isinstance(medium, Video)
    frames = medium.frames if video else medium.pixels[None]
    step = protocol.temporal_patch if video else 1
    times = sample.overlay_timestamps
    images = tuple(
        MentalImage(
            maps=maps[i] if i < len(maps) else None,
            overlay=overlays[i] if i < len(overlays) else None,
            overlay_time=times[i] if i < len(times) else None)
        for i in range(record["blocks"]))
    facts = [f"{record['tokens']} tokens", _plural(record["blocks"], "mental image")]
    if record["truncated"]:
        facts.append("cut off by the token budget")
    if record.get("own") is not None:
        facts.append(f"the kit reads {record['own']}")
    if 0.0 < record.get("score", 0.0) < 1.0:
        facts.append(f"{record['score']:.1f} of an answer")
    right = record["chosen"] if record["correct"] else record["answer"]
    return Card(
        key=record["key"], kind=record["kind"], question=sample.question, options=sample.options,
        answer=right or "", response=record["response"], chosen=record["chosen"] or "",
        frames=frames, timestamps=medium.timestamps if video else (),
        slot_frames=tuple(range(0, len(frames), step)), images=images, facts=tuple(facts),
    )


def percent(value: Real) -> str:
    return f"{100 * value:.1f} %"


def span(low: Real, high: Real) -> str:
    return f"{100 * low:.1f} – {100 * high:.1f}"


def add_summary(page: Page, summary: Mapping[str, Any]) -> Page:
    """Headline figures, the table per type, and the items that could not be run."""
    o = summary["overall"]
    page.add_numbers([
        Number("accuracy", percent(o["accuracy"]),
               f"95 %: {span(o['accuracy_low'], o['accuracy_high'])}"),
        Number("chance-adjusted", percent(o["chance_adjusted"]), f"chance {percent(o['chance'])}"),
        Number("lenient", percent(o["lenient_accuracy"]),
               f"95 %: {span(o['lenient_accuracy_low'], o['lenient_accuracy_high'])}"),
        Number("answered", percent(o["answered_share"]),
               f"truncated {percent(o['truncated_share'])}"),
        Number("mental images", f"{o['blocks_per_answer']:.2f}",
               f"in {o['tokens_per_answer']:.0f} tokens an answer"),
        Number("not run", str(o["failed"]), f"of {o['items']}, counted wrong"),
    ])
    rows = [[kind or "untyped", part["items"], _interval(part, "accuracy"),
             _interval(part, "lenient_accuracy"), percent(part["chance_adjusted"])]
            for kind, part in [*summary["by_type"].items(), ("all", o)]]
    page.add_table(
        "By question type", ["type", "items", "accuracy, %", "lenient, %", "chance-adjusted"], rows,
        "Accuracy is strict: the last <answer> after the reasoning must hold an option's letter or "
        "its exact text. Lenient takes what a patient reader would. Whiskers are 95 % Wilson "
        "intervals; the dashed line is chance. Every item of the benchmark is in the denominator.")
    if "benchmark_table" in summary:
        _add_benchmark(page, summary)
    if summary["failed"]:
        page.add_table("Items that could not be run", ["item", "reason"],
                       [[f["key"], f["reason"]] for f in summary["failed"]])
    return page


def _add_benchmark(page: Page, summary: Mapping[str, Any]) -> None:
    """The benchmark's own table, known results beside it, and what is odd."""
    about, table = summary["asked"], summary["benchmark_table"]
    readings = list(table)
    page.add_table(
        f"{about['title']}'s own table", ["metric", *readings, "published"],
        [[metric, *(percent(table[name][metric]) for name in readings),
          "; ".join(f"{p['model']} {p['value']:g}" for p in summary["published"]
                    if p["metric"] == metric and p["protocol"] in ("", about["protocol"]))]
         for metric in table[readings[0]]],
        f"Protocol {about['protocol']} ({about['source']}), mode {about['mode']}. Strict: the "
        "answer alone. Lenient: what a patient reader would take. Own: as the protocol's own code "
        "reads it, where it has a rule.")
    if summary["published"]:
        page.add_table("Known results", ["model", "metric", "%", "protocol", "source"],
                       [[p["model"], p["metric"], Percent(p["value"] / 100),
                         p["protocol"] or "not stated", p["source"]]
                        for p in summary["published"]])
    if "overlap" in summary:
        page.add_text("Trained on it?", sentence(summary["overlap"]))
    if summary["oddities"]:
        page.add_table("Odd rows", ["item", "what"],
                       [[o["key"], o["note"]] for o in summary["oddities"]])


def _interval(part: Mapping[str, Any], name: str) -> Interval:
    return Interval(part[name], part[f"{name}_low"], part[f"{name}_high"], part["chance"])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


CARDS_NOTE = (
    "Chosen in turn from each question type before anything was answered, not by outcome. A mental "
    "image stands where the model imagined it: a few vectors (latents), which no eye can see. Its "
    "heat maps tell what in the video they resemble: the cosine of the latents with the features "
    "that the model's own vision encoder gave every place, dark where it is lowest and bright "
    "where it is highest, over the frame in grey; the numbers at the ends of the scale tell how "
    "low and how high. Features share so much that plain cosines are high everywhere, so the "
    "second map takes the video's mean feature away from both first. Maps that light up the thing "
    "asked about hint that the model thinks of it; maps that are the same for every mental image "
    "tell that it imagines the same thing each time. Beside them stands the picture that the model "
    "was taught to imagine there, where the dataset has one.")
