"""A self-contained HTML page: numbers, charts, tables, item cards. Nothing is fetched.

Example::

    page = Page("Quickstart", lead="From raw scenes to a model that imagines.")
    page.add_numbers([Number("4DRL", "64.0 %", "57 – 70 %")])
    page.add_chart("Held-out accuracy", Bars([Bar("base", .26, .2, .33)], ("chance", .25)))
    page.add_charts("Learning", [("DIFT", Lines([Series("loss", steps, losses)]))])
    page.add_table("Per type", ["type", "items", "accuracy"], [["speed", 40, Interval(.5, .4, .6)]])
    page.add_cards("Items", cards)
    page.write("report.html")

Every ``add_*`` returns the page, so calls chain. All text is escaped; pictures are inline.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json, replacing
from fourd4d.core.storage import as_path
from fourd4d.pages.cards import VERDICTS, Card
from fourd4d.pages.charts import Chart, Interval, Lines, Percent, Real, Series
from fourd4d.pages.pictures import data_uri

Cell = str | Real | Interval | Percent | None
# The page may run its own inline script and show its own pictures; nothing else.
_POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
           "script-src 'unsafe-inline'")


@dataclasses.dataclass(frozen=True)
class Number:
    """A headline figure: what it is, its value as text, a remark below."""

    label: str
    value: str
    note: str = ""


class Page:
    """Sections in the order they are added.

    Args:
      title: heading and browser title.
      lead: a sentence below it.
    """

    def __init__(self, title: str, lead: str = ""):
        self.title, self.lead = title, lead
        self._sections: list[str] = []

    def add_numbers(self, numbers: Sequence[Number]) -> Page:
        """A row of headline figures."""
        cells = "".join(
            f"<div><span>{escape(n.label)}</span><b>{escape(n.value)}</b>"
            f"<small>{escape(n.note)}</small></div>" for n in numbers)
        return self._add("", f'<div class="numbers">{cells}</div>')

    def add_text(self, title: str, *paragraphs: str) -> Page:
        """Plain paragraphs under a heading (the empty title leaves the heading out)."""
        return self._add(title, "".join(f"<p>{escape(p)}</p>" for p in paragraphs))

    def add_chart(self, title: str, chart: Chart, caption: str = "") -> Page:
        """One chart over the page's width."""
        return self._add(title, _figure(chart.svg(968), caption))

    def add_charts(self, title: str, charts: Sequence[tuple[str, Chart]]) -> Page:
        """Several (caption, chart) side by side."""
        cells = "".join(_figure(chart.svg(480), caption) for caption, chart in charts)
        return self._add(title, f'<div class="charts">{cells}</div>')

    def add_table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]],
                  caption: str = "") -> Page:
        """A table; a Percent cell is printed in per cent, an Interval drawn as well.

        Raises:
          ValueError: a row is not as long as the header.
        """
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"add_table {title!r}: every row needs {len(header)} cells")
        right = [all(isinstance(value, int | float | np.number | Percent) for value in column)
                 and bool(column) for column in (
                     [row[i] for row in rows if row[i] is not None] for i in range(len(header)))]

        def line(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(
                f"<{tag}{' class=number' if r else ''}>{cell}</{tag}>"
                for cell, r in zip(cells, right, strict=True)) + "</tr>"

        body = "".join(line([_cell(value) for value in row], "td") for row in rows)
        table = (f"<table><thead>{line([escape(h) for h in header], 'th')}</thead>"
                 f"<tbody>{body}</tbody></table>")
        return self._add(title, f'<div class="scroll">{table}</div>' + _note(caption))

    def add_pictures(self, title: str, pictures: Sequence[tuple[str, np.ndarray]],
                     caption: str = "") -> Page:
        """(caption, uint8 (H, W, 3)) side by side, wrapping; ``caption`` keeps its line breaks."""
        cells = "".join(
            f'<figure class="picture"><img alt="{escape(text)}" src="{data_uri(pixels, 320)}">'
            f"<figcaption>{escape(text)}</figcaption></figure>" for text, pixels in pictures)
        lines = "<br>".join(escape(line) for line in caption.splitlines())
        return self._add(title, f'<div class="pictures">{cells}</div><p class="lines">{lines}</p>')

    def add_cards(self, title: str, cards: Sequence[Card], caption: str = "") -> Page:
        """Question cards under filter buttons: right, wrong, no answer, and by type."""
        if not cards:
            return self
        kinds = sorted({card.kind for card in cards})
        counts = {v: sum(card.verdict == v for card in cards) for v in VERDICTS}
        shown = [("", f"all {len(cards)}")]
        shown += [(verdict, f"{VERDICTS[verdict]} {n}") for verdict, n in counts.items() if n]
        buttons = "".join(
            f'<button data-verdict="{v}" aria-pressed="{str(not v).lower()}">{text}</button>'
            for v, text in shown)
        options = '<option value="">every type</option>' + "".join(
            f'<option value="{escape(k)}">{escape(k or "untyped")}</option>' for k in kinds if k)
        choice = f'<select aria-label="type">{options}</select>' if len(kinds) > 1 else ""
        bar = f'<nav class="filter">{buttons}{choice}<output></output></nav>'
        body = "".join(card.html() for card in cards)
        return self._add(title, f'{_note(caption)}<div class="items">{bar}{body}</div>')

    def html(self) -> str:
        """The whole document."""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_asset('page.css')}</style></head><body>"
            f"<main><header class=\"top\"><h1>{escape(self.title)}</h1>{lead}</header>"
            f"{''.join(self._sections)}</main><script>{_asset('page.js')}</script></body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page under a temporary name, then renames; returns its path."""
        with replacing(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return as_path(path)

    def _add(self, title: str, body: str) -> Page:
        heading = f"<h2>{escape(title)}</h2>" if title else ""
        self._sections.append(f"<section>{heading}{body}</section>")
        return self


def fragment(body: str) -> str:
    """HTML of a page's parts for the output of a notebook's cell, in the page's style."""
    style = _asset("page.css").replace(":root {", "& {").replace("\nbody {", "\n& {")
    return f'<div class="fourd4d"><style>.fourd4d {{ {style} }}</style>{body}</div>'


class Curves(dict[str, Series]):
    """Series by the name of their metric; a notebook draws them."""

    def _repr_html_(self) -> str:
        cells = "".join(_figure(Lines([series]).svg(480), name) for name, series in self.items())
        return fragment(f'<div class="charts">{cells}</div>')


def read_curves(path: str | os.PathLike[str], *names: str) -> Curves:
    """Series of the named metrics (all of them by default) from a metrics JSONL file.

    A line is an object with ``step`` and numbers under metric names. A half-written last line is
    left out. When a resumed run repeats a step, the later line counts.

    Raises:
      InputError: there is no such file, or a line before the last is not a JSON object with a step.
    """
    found: dict[str, dict[int, float]] = {}
    for row in _rows(path):
        for name, value in row.items():
            number_like = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and number_like and (not names or name in names):
                if math.isfinite(value):
                    found.setdefault(name, {})[int(row["step"])] = float(value)
    return Curves({
        name: Series(name, tuple(sorted(points)), tuple(points[s] for s in sorted(points)))
        for name, points in found.items()})


def read_texts(path: str | os.PathLike[str]) -> dict[int, dict[str, str]]:
    """Texts of a metrics JSONL file by step, e.g. sampled responses; else as ``read_curves``."""
    found: dict[int, dict[str, str]] = {}
    for row in _rows(path):
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        if texts:
            found[int(row["step"])] = texts
    return dict(sorted(found.items()))


def _rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    path = as_path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "Give a metrics JSONL file")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, f"{path}:{number}", "Fix or delete the line", finite=False)
        except InputError:
            if number == len(lines):
                return
            raise
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            raise InputError(f"{path}:{number}", "no object with a whole number as 'step'",
                             "Fix or delete the line")
        yield row


def _cell(value: Cell) -> str:
    if isinstance(value, Interval):
        return (f'<span class="interval"><b>{100 * value.value:.1f}</b>'
                f"<small>{100 * value.low:.1f} – {100 * value.high:.1f}</small>"
                f"{value.svg()}</span>")
    if isinstance(value, Percent):
        return f"{100 * value.value:.1f}"
    if value is None:
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return escape(str(value))


def _figure(svg: str, caption: str) -> str:
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="chart">{svg}{note}</figure>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _asset(name: str) -> str:
    return (resources.files("fourd4d.pages") / "assets" / name).read_text(encoding="utf-8")
