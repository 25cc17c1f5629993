"""One question as HTML: frames, question, options, reasoning, mental images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, LETTERS
from fourd4d.pages.charts import Chart, Real, Reals
from fourd4d.pages.pictures import data_uri, paint, scale_uri

MAX_STRIP = 16
VERDICTS: Final = {"right": "right", "wrong": "wrong", "none": "no answer"}
_TAGS = re.compile(r"(</?think>|</?answer>|<output_image>)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclasses.dataclass(frozen=True)
class MentalImage:
    """What is shown for one imagery block.

    Attributes:
      maps: plain and centred cosines, (2, latents, frame slots, rows, columns); None when they
        were not kept.
      overlay: the picture this block is taught to imitate, uint8 (H, W, 3), or None.
      overlay_time: its time in seconds, or None.
    """

    maps: np.ndarray | None = None
    overlay: np.ndarray | None = None
    overlay_time: Real | None = None


@dataclasses.dataclass(frozen=True)
class Card:
    """One question of the page, with the response of a dataset or of a model.

    Attributes:
      key, kind, question, options, answer: as in the sample.
      response: its text with one ``<output_image>`` per imagery block.
      frames: uint8 (T, H, W, 3), as the model was given them, before resizing.
      timestamps: seconds, one per frame.
      chosen: the letter a model gave under strict parsing; empty when there is none. None: no
        model was asked.
      judged: say whether it is right; False where nobody knows the answer.
      slot_frames: which frame stands for each frame slot of the maps.
      images: one per imagery block, in order.
      facts: short notes shown in the header, e.g. ``("88 tokens",)``.
      charts: (caption, chart) at the end.
    """

    key: str
    kind: str
    question: str
    options: Sequence[str]
    answer: str
    response: str
    frames: np.ndarray
    timestamps: Reals
    chosen: str | None = None
    slot_frames: Sequence[int] = ()
    images: Sequence[MentalImage] = ()
    facts: Sequence[str] = ()
    charts: Sequence[tuple[str, Chart]] = ()
    judged: bool = True

    @property
    def verdict(self) -> str:
        """A key of ``VERDICTS`` (``none``: no answer that can be read), or '' without a judge."""
        if self.chosen is None or not self.judged:
            return ""
        if not self.chosen:
            return "none"
        return "right" if self.chosen == self.answer else "wrong"

    def html(self) -> str:
        """The card as an ``<article>`` element; every text is escaped."""
        facts = "".join(f"<span>{escape(fact)}</span>" for fact in self.facts)
        chip = (f'<b class="chip {self.verdict}">{VERDICTS[self.verdict]}</b>' if self.verdict
                else "")
        return (
            f'<article class="item" data-verdict="{self.verdict}" data-kind="{escape(self.kind)}">'
            f'<header>{chip}<b class="chip">{escape(self.kind or "untyped")}</b>'
            f'<code>{escape(self.key)}</code><div class="facts">{facts}</div></header>'
            f"{self._strip()}"
            f'<div class="ask"><p class="question">{escape(self.question)}</p>{self._options()}'
            f"</div>{self._response()}{self._charts()}</article>"
        )

    def _strip(self) -> str:
        count = len(self.frames)
        shown = np.unique(np.linspace(0, count - 1, min(count, MAX_STRIP)).round().astype(int))
        figures = "".join(
            f"<figure>{_picture(self.frames[i], f'frame {i}')}"
            f"<figcaption>{self._time(int(i))}</figcaption></figure>"
            for i in shown)
        left = f" · {len(shown)} of {count} frames" if len(shown) < count else ""
        note = f'<p class="note">video{left}</p>' if left else ""
        return f'<div class="strip frames">{figures}</div>{note}'

    def _time(self, frame: int) -> str:
        return f"{self.timestamps[frame]:.2f} s" if len(self.timestamps) else f"frame {frame}"

    def _options(self) -> str:
        lines = []
        for letter, text in zip(LETTERS, self.options, strict=False):
            kinds, notes = [], []
            if letter == self.answer:
                kinds.append("key")
                notes.append("key")
            if letter == self.chosen:
                kinds.append("chosen")
                notes.append("chosen")
            lines.append(f'<li class="{" ".join(kinds)}"><b>{letter}</b> {escape(text)}'
                         + "".join(f"<i>{note}</i>" for note in notes) + "</li>")
        return f'<ol class="options">{"".join(lines)}</ol>'

    def _response(self) -> str:
        parts: list[str] = []
        kind, number = "", 0
        for piece in _TAGS.split(_UNPRINTABLE.sub("\ufffd", self.response)):
            if piece == IMAGE_MARK:
                image = self.images[number] if number < len(self.images) else MentalImage()
                number += 1
                parts.append(self._figure(number, image))
            elif _TAGS.fullmatch(piece):
                kind = ' class="answer"' if piece == "<answer>" else ""
            elif piece.strip():
                text = escape(piece.strip()).replace("\n", "<br>")
                parts.append(f"<p{kind}>{text}</p>")
        return f'<div class="response">{"".join(parts) or "<p><i>no text</i></p>"}</div>'

    def _charts(self) -> str:
        cells = "".join(f"<figure>{chart.svg(132)}<figcaption>{escape(caption)}</figcaption>"
                        "</figure>" for caption, chart in self.charts)
        return f'<div class="ways">{cells}</div>' if cells else ""

    def _figure(self, number: int, image: MentalImage) -> str:
        parts = [] if image.maps is None else _Maps(image.maps, self).tiles()
        if image.overlay is not None:
            when = "" if image.overlay_time is None else f" at {image.overlay_time:.2f} s"
            parts.insert(2, _tile(image.overlay, f"taught here: the frame{when}, the thing in "
                                  "question tinted red", "main"))
        about = ""
        if image.maps is not None:
            _, latents, _, rows, columns = image.maps.shape
            about = (f"{_plural(latents, 'latent')} imagined here; bright where the video's own "
                     f"features are most like {'it' if latents == 1 else 'them'} "
                     f"({rows} × {columns} places a frame, drawn smooth)")
        title = (f'<figcaption class="title"><b>mental image {number}</b> {escape(about)}'
                 "</figcaption>")
        body = f'<div class="row">{"".join(parts)}</div>' if parts else ""
        return f'<figure class="imagery">{title}{body}</figure>'


@dataclasses.dataclass(frozen=True)
class _Maps:
    """The heat maps of one mental image, (2, latents, slots, rows, columns): plain, centred."""

    maps: np.ndarray
    card: Card

    def tiles(self) -> list[str]:
        """Means over latents on the frames where they are strongest; then the details."""
        plain, centred = self.maps.mean(1)
        return [
            self._large(plain, "cosine"),
            self._large(centred, "cosine once the video's mean is taken away"),
            self._detail(centred),
        ]

    def _frame(self, slot: int) -> np.ndarray:
        return self.card.frames[self.card.slot_frames[slot]]

    def _time(self, slot: int) -> str:
        return self.card._time(self.card.slot_frames[slot])

    def _large(self, mean: np.ndarray, name: str) -> str:
        best, low, high = _strongest(mean), float(mean.min()), float(mean.max())
        picture = paint(self._frame(best), mean[best], low, high)
        return _tile(picture, f"{name}; the frame at {self._time(best)}, where it is highest",
                     "main", _scale(low, high))

    def _detail(self, mean: np.ndarray) -> str:
        best, own = _strongest(mean), self.maps[1]
        alone = own[:, best]  # Every latent by itself.
        latents = "".join(
            _tile(paint(self._frame(best), one, float(alone.min()), float(alone.max()), 96),
                  f"latent {number}") for number, one in enumerate(alone, 1))
        shown = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), MAX_STRIP)).astype(int))
        slots = "".join(
            _tile(paint(self._frame(s), mean[s], float(mean.min()), float(mean.max()), 96),
                  self._time(s), "best" if s == best else "")
            for s in sorted({*map(int, shown), best}))
        return (
            f'<div class="detail"><div><p class="note">each latent alone, the frame at '
            f'{escape(self._time(best))}</p><div class="strip">{latents}</div>'
            f"{_scale(float(alone.min()), float(alone.max()))}</div>"
            '<div><p class="note">all of them, over time; outlined: the frame drawn large</p>'
            f'<div class="strip slots">{slots}</div>'
            f"{_scale(float(mean.min()), float(mean.max()))}</div></div>")


def _strongest(mean: np.ndarray) -> int:
    """The slot with the highest value."""
    return int(mean.reshape(len(mean), -1).max(-1).argmax())


def _scale(low: float, high: float) -> str:
    return (f'<p class="scale"><span>{low:+.2f}</span><img alt="dark to bright" '
            f'src="{scale_uri()}"><span>{high:+.2f}</span></p>')


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _tile(pixels: np.ndarray, caption: str, kind: str = "", below: str = "") -> str:
    return (f'<figure class="tile {kind}">{_picture(pixels, caption)}{below}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def _picture(pixels: np.ndarray, name: str) -> str:
    kind = ' class="pixels"' if pixels.shape[1] < 96 else ""
    return f'<img{kind} alt="{escape(name)}" src="{data_uri(pixels, 176)}">'
