"""One evaluated item as HTML: frames, question, options, reasoning, mental images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from html import escape

import numpy as np

from fourd4d.core.sample import IMAGE_MARK, LETTERS
from fourd4d.eval import heat
from fourd4d.eval.charts import Real, Reals

MAX_STRIP = 16
_TAGS = re.compile(r"(</?think>|</?answer>|<output_image>)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclasses.dataclass(frozen=True)
class MentalImage:
    """What is shown for one imagery block.

    Attributes:
      maps: plain and centred cosines, (2, latents, frame slots, rows, columns); None when they
        were not kept.
      overlay: the picture this block was taught to imitate, uint8 (H, W, 3), or None.
      overlay_time: its time in seconds, or None.
    """

    maps: np.ndarray | None = None
    overlay: np.ndarray | None = None
    overlay_time: Real | None = None


@dataclasses.dataclass(frozen=True)
class Card:
    """One item of the page.

    Attributes:
      key, kind, question, options, answer: as in the sample.
      response: the answer's text with one ``<output_image>`` per imagery block.
      chosen: the letter given under strict parsing; empty when there is none.
      correct: whether it is the key.
      frames: uint8 (T, H, W, 3), as the model was given them, before resizing.
      timestamps: seconds, one per frame.
      slot_frames: which frame stands for each frame slot of the maps.
      images: one per imagery block, in order.
      facts: short notes shown in the header, e.g. ``("88 tokens",)``.
    """

    key: str
    kind: str
    question: str
    options: Sequence[str]
    answer: str
    response: str
    chosen: str
    correct: bool
    frames: np.ndarray
    timestamps: Reals
    slot_frames: Sequence[int] = ()
    images: Sequence[MentalImage] = ()
    facts: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """``right``, ``wrong`` or ``none`` (no answer that can be read)."""
        return "right" if self.correct else "wrong" if self.chosen else "none"

    def html(self) -> str:
        """The card as an ``<article>`` element; every text is escaped."""
        words = {"right": "right", "wrong": "wrong", "none": "no answer"}
        facts = "".join(f"<span>{escape(fact)}</span>" for fact in self.facts)
        return (
            f'<article class="item" data-verdict="{self.verdict}" data-kind="{escape(self.kind)}">'
            f'<header><b class="chip {self.verdict}">{words[self.verdict]}</b>'
            f'<b class="chip">{escape(self.kind or "untyped")}</b><code>{escape(self.key)}</code>'
            f'<div class="facts">{facts}</div></header>'
            f"{self._strip()}"
            f'<div class="ask"><p class="question">{escape(self.question)}</p>{self._options()}'
            f"</div>{self._response()}</article>"
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

    def _figure(self, number: int, image: MentalImage) -> str:
        title = f'<figcaption class="title">mental image {number}</figcaption>'
        parts = [] if image.maps is None else [*self._maps(image.maps)]
        if image.overlay is not None:
            when = "" if image.overlay_time is None else f" at {image.overlay_time:.2f} s"
            parts.insert(2, _tile(image.overlay, f"overlay taught here{when}", "main"))
        body = f'<div class="row">{"".join(parts)}</div>' if parts else ""
        return f'<figure class="imagery">{title}{body}</figure>'

    def _maps(self, maps: np.ndarray) -> tuple[str, str, str]:
        """Plain and centred means over latents on their best slots, and the details."""
        frames = [self.frames[f] for f in self.slot_frames]

        def when(slot: int) -> str:
            return self._time(self.slot_frames[slot])

        large = []
        for name, mean in zip(("cosine", "centred"), maps.mean(1), strict=True):
            best = int(mean.reshape(len(mean), -1).max(-1).argmax())
            low, high = float(mean.min()), float(mean.max())
            large.append(_tile(
                heat.paint(frames[best], mean[best], low, high),
                f"{name} {low:+.2f} to {high:+.2f}, strongest at {when(best)}", "main"))
        own = maps[1, :, best]  # The details are centred ones.
        latents = "".join(
            _tile(heat.paint(frames[best], one, float(own.min()), float(own.max()), 96),
                  f"latent {r}") for r, one in enumerate(own, 1))
        shown = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), MAX_STRIP)).astype(int))
        shown = sorted({*map(int, shown), best})
        slots = "".join(
            _tile(heat.paint(frames[s], mean[s], low, high, 96), when(s),
                  "best" if s == best else "") for s in shown)
        scale = (f'<p class="scale"><span>{low:+.2f}</span><i></i><span>{high:+.2f}</span>'
                 " centred cosine</p>")
        return *large, (f'<div class="detail"><div class="strip">{latents}</div>'
                        f'<div class="strip slots">{slots}</div>{scale}</div>')


def _tile(pixels: np.ndarray, caption: str, kind: str = "") -> str:
    return (f'<figure class="tile {kind}">{_picture(pixels, caption)}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def _picture(pixels: np.ndarray, name: str) -> str:
    kind = ' class="pixels"' if pixels.shape[1] < 96 else ""
    return f'<img{kind} alt="{escape(name)}" src="{heat.data_uri(pixels, 176)}">'
