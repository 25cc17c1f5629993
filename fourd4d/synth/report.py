"""A page about a dataset: what it holds, what was dropped, and clips to look at. No network."""

from __future__ import annotations

import base64
import collections
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from fourd4d.core.files import replacing
from fourd4d.core.jsonl import inside
from fourd4d.synth.manifest import Entry, read_entries

NAME: Final = "report.html"
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}figure{margin:.5rem 0}
table{border-collapse:collapse}td,th{padding:.15rem .7rem .15rem 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.bars{display:flex;flex-wrap:wrap;gap:2.5rem}.bar{background:#4a7ab5;height:.7rem;border-radius:2px}
.card{border:1px solid #ddd;border-radius:6px;padding:.8rem 1rem;margin:1rem 0}
.card img{max-width:100%;image-rendering:auto}.right{font-weight:600;color:#1a6e36}
.think{color:#444;white-space:pre-wrap}.mark{color:#b00;font-weight:600}small{color:#666}
.plots{display:flex;gap:1.5rem;flex-wrap:wrap}figcaption{color:#666;font-size:.8rem}
"""


def write(root: str | os.PathLike[str], cards: int = 40) -> Path:
    """Writes ``report.html`` into a folder that synthesis wrote; returns its path.

    At most ``cards`` samples are shown, spread evenly over the dataset. Raises InputError when the
    folder holds no manifest.
    """
    root = Path(root)
    entries = read_entries(root)
    pairs = [(entry, sample) for entry in entries.values() for sample in entry.samples]
    step = max(len(pairs) / cards, 1.0)
    chosen = [pairs[int(i * step)] for i in range(min(cards, len(pairs)))]
    body = [
        f"<h1>{_text(root.resolve().name)}</h1>", _totals(entries.values(), len(pairs)),
        "<h2>What is asked</h2>", _histograms([s for _, s in pairs]),
        "<h2>What was dropped, and why</h2>", _dropped(list(entries.values())),
        "<h2>Clips</h2>", *(_card(root, entry, sample) for entry, sample in chosen),
    ]  # fmt: skip
    page = ("<!doctype html><html lang='en'><meta charset='utf-8'><title>Dataset report</title>"
            f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>")
    with replacing(root / NAME) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return root / NAME


def _text(value: object) -> str:
    return html.escape(str(value))


def _totals(entries: Iterable[Entry], samples: int) -> str:
    states = collections.Counter(entry.status for entry in entries)
    return (f"<p>{sum(states.values())} videos: {states['done']} done, {states['empty']} without "
            f"a clear question, {states['failed']} failed. {samples} samples.</p>")


def _bars(title: str, counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=1)
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td class='n'>{count}</td>"
        f"<td><div class='bar' style='width:{120 * count / most:.0f}px'></div></td></tr>"
        for name, count in counts.items())
    return f"<div><b>{_text(title)}</b><table>{rows}</table></div>"


def _ranked(values: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _lengths(values: Sequence[int] | Sequence[float], bins: int = 8) -> dict[str, int]:
    if len(set(values)) <= min(bins, 1 + 7 * all(isinstance(v, int) for v in values)):
        return {f"{value:g}": n for value, n in sorted(collections.Counter(values).items())}
    counts, edges = np.histogram(values, bins=min(bins, len(set(values))))
    digits = 0 if edges[-1] - edges[0] >= len(counts) else 1
    return {f"{a:.{digits}f}–{b:.{digits}f}": int(n)
            for a, b, n in zip(edges, edges[1:], counts, strict=False)}


def _histograms(samples: Sequence[Mapping[str, Any]]) -> str:
    letters = collections.Counter(s["answer"] for s in samples)
    answers = [s["options"]["ABCDEFGH".index(s["answer"])] for s in samples if s["answer"]]
    parts = [
        _bars("Kind", _ranked(s["kind"] for s in samples)),
        _bars("Letter", dict(sorted(letters.items()))),
        _bars("Mental images", dict(sorted(_ranked(
            str(len(s["overlays"])) for s in samples).items()))),
        _bars("Words of the question", _lengths([len(s["question"].split()) for s in samples])),
        _bars("Words of reasoning", _lengths([len(s["response"].split()) for s in samples])),
        _bars("Frames", _lengths([len(s["frames"]) for s in samples])),
        _bars("Seconds of the clip", _lengths([s["timestamps"][-1] - s["timestamps"][0]
                                               for s in samples if s["timestamps"]])),
        _bars("Answer", _ranked(answers)),
    ]  # fmt: skip
    return f"<div class='bars'>{''.join(parts)}</div>"


def _dropped(entries: Sequence[Entry]) -> str:
    questions: collections.Counter[str] = collections.Counter()
    masks: collections.Counter[str] = collections.Counter()
    notes: collections.Counter[str] = collections.Counter()
    for entry in entries:
        questions.update(entry.dropped)
        notes.update(entry.notes)
        clips = {s["video_id"]: s["provenance"] for s in entry.samples}
        for provenance in clips.values():
            masks.update(provenance.get("masks_dropped", {}))
    parts = [_bars(title, dict(counts.most_common())) for title, counts in (
        ("Questions", questions), ("Masks of single frames", masks),
        ("Words of a model not taken; the template's stay", notes)) if counts]
    tables = [_table(title, [e for e in entries if e.status == status]) for title, status in (
        ("Videos that failed", "failed"), ("Videos without a clear question", "empty"))]
    bars = f"<div class='bars'>{''.join(parts)}</div>" if parts else "<p>Nothing.</p>"
    return bars + "".join(tables)


def _table(title: str, entries: Sequence[Entry], most: int = 200) -> str:
    rows = [f"<tr><td>{_text(e.video_id)}</td><td>{_text(e.reason)}</td></tr>"
            for e in entries[:most]]  # fmt: skip
    if len(entries) > most:
        rows.append(f"<tr><td colspan='2'>and {len(entries) - most} more</td></tr>")
    return f"<h3>{_text(title)}</h3><table>{''.join(rows)}</table>" if rows else ""


def _sheet(root: Path, paths: Sequence[str], height: int = 112, most: int = 10) -> str:
    """The images side by side, as one embedded JPEG."""
    places = np.unique(np.linspace(0, len(paths) - 1, most).round().astype(int))
    picked = [paths[int(i)] for i in places]
    images, gap = [], np.full((height, 3, 3), 255, np.uint8)
    for path in picked:
        image = cv2.imread(str(inside(root, path, root / NAME)))
        if image is None:
            return f"<p><small>{_text(path)} is missing</small></p>"
        width = max(round(image.shape[1] * height / image.shape[0]), 1)
        images += [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), gap]
    data = cv2.imencode(".jpg", np.concatenate(images[:-1], 1), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    code = base64.b64encode(data.tobytes()).decode()
    return f"<img alt='{len(picked)} frames' src='data:image/jpeg;base64,{code}'>"


def _plot(points: Sequence[Sequence[Sequence[float]]], colours: Sequence[str], unit: bool,
          title: str) -> str:
    """Lines with a dot at their start, in a square; ``unit`` keeps the range at 0 … 1."""
    flat = np.array([p for line in points for p in line], float).reshape(-1, 2)
    if not len(flat):
        return ""
    low, high = (np.zeros(2), np.ones(2)) if unit else (flat.min(0), flat.max(0))
    span = max(float((high - low).max()), 1e-6)
    parts = []
    for line, colour in zip(points, colours, strict=True):
        at = 8 + 104 * (np.array(line, float).reshape(-1, 2) - low) / span
        if not unit:
            at[:, 1] = 120 - at[:, 1]  # z, forward, points up
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f"<polyline points='{told}' fill='none' stroke='{colour}' stroke-width='2'/>")
        if len(at):
            parts.append(f"<circle cx='{at[0][0]:.1f}' cy='{at[0][1]:.1f}' r='3' fill='{colour}'/>")
    return (f"<figure><svg width='120' height='120' role='img'><title>{_text(title)}</title><rect "
            f"width='120' height='120' fill='#f6f6f6'/>{''.join(parts)}</svg>"
            f"<figcaption>{_text(title)}</figcaption></figure>")


def _card(root: Path, entry: Entry, sample: Mapping[str, Any]) -> str:
    nothing = {"tracks": [], "path": [], "camera": []}
    drawing = entry.drawing.get(sample["video_id"], nothing)
    tracks = drawing["tracks"]
    colours = ["#c33" if t["role"] == "dynamic" else "#39c" for t in tracks]
    spans = "; ".join(f"{a:.1f}–{b:.1f}s {' + '.join(m) or 'unclear'}"
                      for a, b, m in drawing["camera"])  # fmt: skip
    options = "<br>".join(
        f"<span class='{'right' if letter == sample['answer'] else ''}'>{letter}. {_text(o)}</span>"
        for letter, o in zip("ABCDEFGH", sample["options"], strict=False))
    think = _text(sample["response"]).replace(
        "&lt;output_image&gt;", "<span class='mark'>[image]</span>")
    return (
        f"<div class='card'><b>{_text(sample['id'])}</b> <small>{_text(sample['kind'])}; camera: "
        f"{_text(spans or 'unknown')}; "
        f"{_text(', '.join(f'{k} {v}' for k, v in sample['provenance'].items()))}</small>"
        f"<figure>{_sheet(root, sample['frames'])}"
        f"<figcaption>Frames, {_times(sample['timestamps'])}</figcaption></figure>"
        + (f"<figure>{_sheet(root, sample['overlays'])}<figcaption>Mental images, at "
           f"{_moments(sample['overlay_timestamps'])}</figcaption></figure>"
           if sample["overlays"] else "")
        + "<div class='plots'>"
        + _plot([t["points"] for t in tracks], colours, True, "Tracks on screen: moving red, "
                "fixed blue")
        + _plot([drawing["path"]] if drawing["path"] else [], ["#333"] if drawing["path"] else [],
                False, "Camera path from above")
        + "</div>"
        + f"<p>{_text(sample['question'])}</p><p>{options}</p><p class='think'>{think}</p></div>"
    )  # fmt: skip


def _times(times: Sequence[float]) -> str:
    return f"{times[0]:.1f}–{times[-1]:.1f} s" if times else "times unknown"


def _moments(times: Sequence[float]) -> str:
    return ", ".join(f"{t:.1f}" for t in times) + " s" if times else "unknown times"
