"""Charts as inline SVG: bars, lines, paths. Colours follow the page's style sheet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Protocol, runtime_checkable

import numpy as np

SERIES_COLOURS = 5
Real = float | int | np.number
Reals = Sequence[Real] | np.ndarray


@runtime_checkable
class Chart(Protocol):
    """Anything that draws itself ``width`` pixels wide."""

    def svg(self, width: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar. ``low`` and ``high`` are the ends of its interval, or None for no whisker."""

    label: str
    value: Real
    low: Real | None = None
    high: Real | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """One line. ``x`` and ``y`` are of equal length; points that are not finite are left out.

    Attributes:
      colour: number of its colour; None takes its place among the chart's series.
      dashed: draw it dashed, without the pale raw line that ``Lines.smooth`` adds.
    """

    name: str
    x: Reals
    y: Reals
    colour: int | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Bars:
    """Horizontal bars from ``low`` to ``high``.

    Attributes:
      bars: top to bottom.
      reference: (name, value) of a dashed line, e.g. chance.
      percent: values are shares, printed as percentages; else counts.
      low, high: ends of the axis.
      colour: series number of all bars; None gives each its own.
      base: where bars begin; None is the low end of the axis.
    """

    bars: Sequence[Bar]
    reference: tuple[str, Real] | None = None
    percent: bool = True
    low: Real = 0.0
    high: Real = 1.0
    colour: int | None = None
    base: Real | None = None

    def svg(self, width: int = 640) -> str:
        """The chart as an ``<svg>`` element."""
        step = 34
        longest = max((len(bar.label) for bar in self.bars), default=0)
        left = min(max(24 + 6.8 * longest, 90), 0.45 * width)
        right = 160 if any(bar.low is not None for bar in self.bars) else 76
        top = 22 if self.reference else 6
        bottom = top + step * len(self.bars)
        span = max(self.high - self.low, 1e-12)

        def place(value: Real) -> float:
            part = (min(max(value, self.low), self.high) - self.low) / span
            return left + part * (width - left - right)

        parts = []
        for tick in _ticks(self.low, self.high, 4):
            if not self.percent and tick % 1:
                continue  # Counts are whole.
            x = place(tick)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                         f"{escape(self._print(tick, 0))}</text>")
        for number, bar in enumerate(self.bars):
            middle = top + step * number + step / 2
            hue = number % SERIES_COLOURS if self.colour is None else self.colour
            end = place(bar.value)
            parts.append(f'<text class="label" x="{left - 12}" y="{middle + 4:.1f}" '
                         f'text-anchor="end">{escape(_short(bar.label, left - 16))}</text>')
            begin = left if self.base is None else place(self.base)
            parts.append(f'<rect class="fill s{hue}" x="{min(begin, end):.1f}" '
                         f'y="{middle - 9:.1f}" rx="2" width="{abs(end - begin):.1f}" '
                         'height="18"/>')
            note = ""
            if bar.low is not None and bar.high is not None:
                a, b = place(bar.low), place(bar.high)
                parts.append(
                    f'<path class="whisker" d="M{a:.1f} {middle:.1f}H{b:.1f}'
                    f'M{a:.1f} {middle - 5:.1f}v10M{b:.1f} {middle - 5:.1f}v10"/>')
                note = f"{self._print(bar.low)} – {self._print(bar.high)}".replace(" %", "")
            parts.append(
                f'<text x="{width - right + 14}" y="{middle + 4:.1f}">'
                f'<tspan class="value">{escape(self._print(bar.value))}</tspan>'
                f'<tspan class="tick" dx="8">{escape(note)}</tspan></text>')
        if self.reference:
            name, value = self.reference
            x = place(value)
            parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" '
                         f'y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{top - 9}" text-anchor="middle">'
                         f"{escape(name)} {escape(self._print(value))}</text>")
        return _svg(width, bottom + 24, parts, "bar chart")

    def _print(self, value: Real, digits: int = 1) -> str:
        return f"{100 * value:.{digits}f} %" if self.percent else f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class Lines:
    """Lines over a shared x axis.

    Attributes:
      series: drawn in order.
      x_label, y_label: axis names.
      reference: (name, value) of a dashed horizontal line.
      low, high: ends of the y axis; None takes them from the data.
      smooth: window of a centred running mean drawn over the pale raw line; 1 draws the raw line.
    """

    series: Sequence[Series]
    x_label: str = "step"
    y_label: str = ""
    reference: tuple[str, Real] | None = None
    low: Real | None = None
    high: Real | None = None
    smooth: int = 1

    def svg(self, width: int = 480, height: int = 260) -> str:
        """The chart as an ``<svg>`` element."""
        left, right = 52, width - 14
        places = self._legend(left, right)
        top, bottom = 30 + places[-1][1] - 15 if places else 30, height - 38
        points = [[(float(x), float(y)) for x, y in zip(s.x, s.y, strict=True)
                   if math.isfinite(x) and math.isfinite(y)] for s in self.series]
        xs = [x for line in points for x, _ in line] or [0.0, 1.0]
        ys = [y for line in points for _, y in line] or [0.0, 1.0]
        if self.reference:
            ys.append(float(self.reference[1]))
        x0, x1 = min(xs), max(xs)
        y0 = min(ys) if self.low is None else self.low
        y1 = max(ys) if self.high is None else self.high
        if y1 - y0 < 1e-9:
            y0, y1 = y0 - 0.5, y1 + 0.5
        elif self.low is None or self.high is None:
            pad = 0.05 * (y1 - y0)
            y0, y1 = (y0 - pad if self.low is None else y0), (y1 + pad if self.high is None else y1)

        def place(x: Real, y: Real) -> tuple[float, float]:
            across = 0.5 if x1 == x0 else (x - x0) / (x1 - x0)
            up = (min(max(y, y0), y1) - y0) / (y1 - y0)
            return left + across * (right - left), bottom - up * (bottom - top)

        parts = []
        for tick in _ticks(y0, y1, 4):
            y = place(x0, tick)[1]
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">'
                         f"{tick:.4g}</text>")
        for tick in _ticks(x0, x1, 5):
            x = place(tick, y0)[0]
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">'
                         f"{tick:.6g}</text>")
        if self.reference:
            name, value = self.reference
            y = place(x0, value)[1]
            parts.append(f'<line class="reference" x1="{left}" x2="{right}" y1="{y:.1f}" '
                         f'y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{right}" y="{y - 5:.1f}" text-anchor="end">'
                         f"{escape(name)}</text>")
        for number, (line, series) in enumerate(zip(points, self.series, strict=True)):
            hue = (number if series.colour is None else series.colour) % SERIES_COLOURS
            kind = f"line dashed s{hue}" if series.dashed else f"line s{hue}"
            if self.smooth > 1 and not series.dashed:
                parts.append(_polyline([place(*p) for p in line], f"line faint s{hue}"))
            drawn = [place(*p) for p in _running_mean(line, self.smooth)]
            parts.append(_polyline(drawn, kind))
            if len(drawn) == 1:
                parts.append(f'<circle class="dot s{hue}" cx="{drawn[0][0]:.1f}" '
                             f'cy="{drawn[0][1]:.1f}" r="3.5"/>')
            x, y = places[number]
            key = (f'<path class="{kind}" d="M{x:.1f} {y - 4}h12"/>' if series.dashed else
                   f'<rect class="fill s{hue}" x="{x:.1f}" y="{y - 6}" width="12" height="4" '
                   'rx="1"/>')
            parts.append(f'{key}<text class="label" x="{x + 17:.1f}" y="{y}">'
                         f"{escape(series.name)}</text>")
        parts.append(f'<text class="tick" x="{right}" y="{height - 5}" text-anchor="end">'
                     f"{escape(self.x_label)}</text>")
        if self.y_label:
            parts.append(f'<text class="tick" x="{right}" y="15" text-anchor="end">'
                         f"{escape(self.y_label)}</text>")
        return _svg(width, height, parts, "line chart")

    def _legend(self, left: Real, right: Real) -> list[tuple[float, int]]:
        """Where each series' key stands; in rows, as wide as the chart allows."""
        places, x, y = [], float(left), 15
        for series in self.series:
            wide = 34 + 6.6 * len(series.name)
            if x > left and x + wide - 17 > right:
                x, y = float(left), y + 18
            places.append((x, y))
            x += wide
        return places


@dataclasses.dataclass(frozen=True)
class Paths:
    """Ways in a plane, drawn in a square, each with a dot where it begins.

    Attributes:
      paths: (x, y) points; x grows to the right, y downwards.
      colours: a series number for each.
      unit: the square shows 0 … 1 both ways, as the frame of a video; else just the points.
    """

    paths: Sequence[Sequence[Sequence[Real]]]
    colours: Sequence[int]
    unit: bool = True

    def svg(self, width: int = 132) -> str:
        """The chart as an ``<svg>`` element."""
        points = np.array([p for path in self.paths for p in path], float).reshape(-1, 2)
        low, high = np.zeros(2), np.ones(2)
        if not self.unit and len(points):
            low, high = points.min(0), points.max(0)
        room, span = width - 20, max(float((high - low).max()), 1e-6)
        parts = [f'<rect class="frame" width="{width}" height="{width}" rx="4"/>']
        for path, colour in zip(self.paths, self.colours, strict=True):
            middle = (np.array(path, float).reshape(-1, 2) - (low + high) / 2) / span
            at = [(float(x), float(y)) for x, y in width / 2 + room * middle]
            parts.append(_polyline(at, f"line s{colour}"))
            parts += [f'<circle class="dot s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
                      for x, y in at[:1]]
        return _svg(width, width, parts, "paths")


@dataclasses.dataclass(frozen=True)
class Percent:
    """A share, for table cells: printed in per cent."""

    value: Real


@dataclasses.dataclass(frozen=True)
class Interval:
    """A share with its interval, for table cells: printed, and drawn on a 0 – 1 axis."""

    value: Real
    low: Real
    high: Real
    reference: Real | None = None

    def svg(self, width: int = 150) -> str:
        """A small bar with its whisker."""

        def place(value: Real) -> float:
            return 2 + min(max(value, 0.0), 1.0) * (width - 4)

        parts = [
            f'<rect class="track" x="2" y="6" width="{width - 4}" height="6" rx="3"/>',
            f'<rect class="fill s0" x="2" y="6" width="{place(self.value) - 2:.1f}" height="6" '
            f'rx="3"/>',
            f'<path class="whisker" d="M{place(self.low):.1f} 9H{place(self.high):.1f}'
            f'M{place(self.low):.1f} 5v8M{place(self.high):.1f} 5v8"/>',
        ]
        if self.reference is not None:
            x = place(self.reference)
            parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="17"/>')
        return _svg(width, 18, parts, "interval", "small")


def _svg(width: int, height: int, parts: Sequence[str], label: str, kind: str = "plot") -> str:
    return (f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _short(text: str, room: Real) -> str:
    """The text, cut where it would be wider than ``room`` pixels."""
    most = int(room / 6.6)
    return text if len(text) <= most else text[: most - 1] + "…"


def _running_mean(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    if window <= 1:
        return points
    half, out = window // 2, []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - half) : i + half + 1]
        out.append((x, sum(y for _, y in near) / len(near)))
    return out


def _ticks(low: Real, high: Real, count: int) -> list[float]:
    """Round numbers within [low, high], about ``count`` of them."""
    if high <= low:
        return [float(low)]
    raw = (high - low) / count
    base = 10 ** math.floor(math.log10(raw))
    step = min((m * base for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]
