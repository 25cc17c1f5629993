"""Writes a page about a dataset: contents, what was dropped, and clips. Needs no network."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from fourd4d.core.jsonl import inside
from fourd4d.core.sample import LETTERS
from fourd4d.pages import Bar, Bars, Card, MentalImage, Number, Page, Paths
from fourd4d.processing.media import read_image
from fourd4d.synth.dataset.manifest import Entry, read_entries

NAME: Final = "report.html"
_FEW: Final = 200  # Rows of a table of videos.
_WIDEST: Final = 360  # Pixels of a picture.
_NOTHING: Final[Mapping[str, Any]] = {"tracks": [], "path": [], "camera": []}
_CARDS_NOTE: Final = (
    "Spread evenly over the dataset. A mental image stands where the reasoning asks for it: the "
    "frame of that moment with the thing in question tinted red, which is what a model is taught "
    "to imagine there. Ways on the screen begin at the dot; what moves is orange, what stands "
    "still is green.")


def write(root: str | os.PathLike[str], cards: int = 40) -> Path:
    """Write ``report.html`` into a folder that synthesis wrote; return its path.

    At most ``cards`` samples are shown, spread evenly over the dataset. Raises InputError where the
    folder holds no manifest, or lacks an image.
    """
    root = Path(root)
    entries = list(read_entries(root).values())
    pairs = [(entry, sample) for entry in entries for sample in entry.samples]
    samples = [sample for _, sample in pairs]
    page = Page(f"Dataset {root.resolve().name}", _lead(samples))
    page.add_numbers(_totals(entries, len(samples)))
    if samples:
        page.add_charts("What is asked", _histograms(samples))
        page.add_chart("", _counts(_ranked(_answer(s) for s in samples if s["answer"])), "answer")
    _add_dropped(page, entries)
    step = max(len(pairs) / cards, 1.0)
    chosen = [pairs[int(i * step)] for i in range(min(cards, len(pairs)))]
    page.add_cards("Clips", [_card(root, *pair) for pair in chosen], _CARDS_NOTE)
    return page.write(root / NAME)


def _lead(samples: Sequence[Mapping[str, Any]]) -> str:
    sources = collections.Counter(s["provenance"].get("source", "unknown") for s in samples)
    counts = ", ".join(f"{count} from {name}" for name, count in sources.most_common())
    return f"Questions with their reasoning and the images behind it: {counts or 'none'}."


def _totals(entries: Sequence[Entry], samples: int) -> list[Number]:
    states = collections.Counter(entry.status for entry in entries)
    return [Number("samples", str(samples), "questions with reasoning"),
            Number("videos", str(len(entries)), f"{states['done']} gave samples"),
            Number("without a clear question", str(states["empty"]), "listed below"),
            Number("failed", str(states["failed"]), "listed below, with the reason")]


def _answer(sample: Mapping[str, Any]) -> str:
    return sample["options"][LETTERS.index(sample["answer"])]


def _counts(counts: Mapping[str, int]) -> Bars:
    most = max(counts.values(), default=1)
    return Bars([Bar(name, n) for name, n in counts.items()], percent=False, high=most,
                colour=0)


def _ranked(values: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _lengths(values: Sequence[int] | Sequence[float], bins: int = 8) -> dict[str, int]:
    if len(set(values)) <= min(bins, 1 + 7 * all(isinstance(v, int) for v in values)):
        return {f"{value:g}": n for value, n in sorted(collections.Counter(values).items())}
    counts, edges = np.histogram(values, bins=min(bins, len(set(values))))
    digits = 0 if edges[-1] - edges[0] >= len(counts) else 1
    return {f"{a:.{digits}f}–{b:.{digits}f}": int(n)
            for a, b, n in zip(edges, edges[1:], counts, strict=False)}


def _histograms(samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, Bars]]:
    letters = collections.Counter(s["answer"] for s in samples)
    tables = {
        "kind of question": _ranked(s["kind"] for s in samples),
        "letter of the answer": dict(sorted(letters.items())),
        "mental images of a sample": dict(sorted(_ranked(
            str(len(s["overlays"])) for s in samples).items())),
        "frames of a clip": _lengths([len(s["frames"]) for s in samples]),
        "seconds of a clip": _lengths([s["timestamps"][-1] - s["timestamps"][0]
                                       for s in samples if s["timestamps"]]),
        "words of a question": _lengths([len(s["question"].split()) for s in samples]),
        "words of a reasoning": _lengths([len(s["response"].split()) for s in samples]),
    }
    return [(name, _counts(table)) for name, table in tables.items() if table]


def _add_dropped(page: Page, entries: Sequence[Entry]) -> None:
    questions: collections.Counter[str] = collections.Counter()
    masks: collections.Counter[str] = collections.Counter()
    notes: collections.Counter[str] = collections.Counter()
    for entry in entries:
        questions.update(entry.dropped)
        notes.update(entry.notes)
        clips = {s["video_id"]: s["provenance"] for s in entry.samples}
        for provenance in clips.values():
            masks.update(provenance.get("masks_dropped", {}))
    title = "What was dropped, and why"
    if not (questions or masks or notes):
        page.add_text(title, "Nothing.")
    for name, counts in (("questions", questions), ("masks of single frames", masks),
                         ("words of a model not taken; the template's stay", notes)):
        if counts:
            page.add_chart(title, _counts(dict(counts.most_common())), name)
            title = ""
    for title, status in (("Videos that failed", "failed"),
                          ("Videos without a clear question", "empty")):
        rows = [[e.video_id, e.reason] for e in entries if e.status == status]
        if rows:
            left = f"and {len(rows) - _FEW} more" if len(rows) > _FEW else ""
            page.add_table(title, ["video", "reason"], rows[:_FEW], left)


def _image(root: Path, path: str) -> np.ndarray:
    """Return an image as small as the page shows it."""
    pixels = read_image(inside(root, path, root / NAME)).pixels
    height, width = pixels.shape[:2]
    if width <= _WIDEST:
        return pixels
    size = (_WIDEST, max(round(height * _WIDEST / width), 1))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _card(root: Path, entry: Entry, sample: Mapping[str, Any]) -> Card:
    drawing = entry.drawing.get(sample["video_id"], _NOTHING)
    times = sample["overlay_timestamps"]
    images = tuple(
        MentalImage(overlay=_image(root, path), overlay_time=times[i] if i < len(times) else None)
        for i, path in enumerate(sample["overlays"]))
    spans = "; ".join(f"{a:.1f}–{b:.1f} s {' + '.join(m) or 'unclear'}"
                      for a, b, m in drawing["camera"])
    facts = [f"camera: {spans or 'unknown'}"]
    facts += [f"{name}: {value}" for name, value in sample["provenance"].items()
              if value not in ({}, [], "")]
    return Card(
        key=sample["id"], kind=sample["kind"], question=sample["question"],
        options=sample["options"], answer=sample["answer"], response=sample["response"],
        frames=np.stack([_image(root, path) for path in sample["frames"]]),
        timestamps=sample["timestamps"], images=images, facts=facts, charts=_ways(drawing))


def _ways(drawing: Mapping[str, Any]) -> list[tuple[str, Paths]]:
    tracks, path = drawing["tracks"], drawing["path"]
    out = []
    if tracks:
        colours = [1 if t["role"] == "dynamic" else 3 for t in tracks]
        out.append(("ways on the screen", Paths([t["points"] for t in tracks], colours)))
    if path:
        # z, forward, points up.
        out.append(("the camera's way from above",
                    Paths([[(x, -z) for x, z in path]], [0], unit=False)))
    return out
