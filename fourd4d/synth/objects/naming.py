"""Names from what is seen: colour, then size, then place, as far as needed to tell things apart."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fourd4d.synth.objects.mask_backends.base import ObjectMask

_HUES = ((15, "red"), (40, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"),
         (255, "blue"), (295, "purple"), (345, "pink"), (361, "red"))


def colour(frames: UInt8[np.ndarray, "T H W 3"], masks: Bool[np.ndarray, "T H W"]) -> str:
    """The commonest colour inside the masks, in one or two words."""
    pixels = frames[masks]
    if not len(pixels):
        return "grey"
    pixels = pixels[:: max(1, len(pixels) // 4000)]
    hsv = cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0]
    names = [_word(float(h), float(s), float(v)) for h, s, v in hsv]
    words, counts = np.unique([name.split()[-1] for name in names], return_counts=True)
    best = str(words[counts.argmax()])
    shades, counts = np.unique([n for n in names if n.split()[-1] == best], return_counts=True)
    return str(shades[counts.argmax()])


def _word(hue: float, chroma: float, value: float) -> str:
    if value < 0.16:
        return "black"
    if chroma < 0.16 or chroma * value < 0.09:
        if value > 0.88:
            return "white"
        return "dark grey" if value < 0.38 else "light grey" if value > 0.68 else "grey"
    name = next(word for limit, word in _HUES if hue < limit)
    if name in ("red", "orange") and 8 < hue < 45 and value < 0.62:
        return "dark brown" if value < 0.35 else "brown"
    if name == "red" and chroma < 0.5 and value > 0.7:
        return "pink"
    if value < 0.42:
        return f"dark {name}"
    return f"light {name}" if value > 0.75 and chroma < 0.4 else name


def place(masks: Bool[np.ndarray, "T H W"]) -> str:
    """Where the thing is when it is first seen, e.g. ``on the left``."""
    seen = np.flatnonzero(masks.any((1, 2)))
    if not len(seen):
        return "in the middle"
    ys, xs = np.nonzero(masks[seen[0]])
    height, width = masks.shape[1:]
    x, y = xs.mean() / width - 0.5, ys.mean() / height - 0.5
    if max(abs(x), abs(y)) < 0.12:
        return "in the middle"
    if abs(x) >= abs(y):
        return "on the left" if x < 0 else "on the right"
    return "at the top" if y < 0 else "at the bottom"


def labels(frames: UInt8[np.ndarray, "T H W 3"], things: Sequence[ObjectMask]) -> list[str]:
    """What to call each thing: its own name where no other has it, else by its looks."""
    given = collections.Counter(thing.name for thing in things)
    nouns = [thing.name or ("object" if thing.role == "dynamic" else "region") for thing in things]
    seen = names(frames, [thing.masks for thing in things], nouns)
    return [thing.name if thing.name and given[thing.name] == 1 else name
            for thing, name in zip(things, seen)]


def names(
    frames: UInt8[np.ndarray, "T H W 3"], masks: Sequence[Bool[np.ndarray, "T H W"]],
    nouns: Sequence[str],
) -> list[str]:
    """One name a thing, unique where colour, size and place allow; else they stay equal.

    Args:
      masks: of each thing, in all frames.
      nouns: what each thing is at least, e.g. ``object``.
    """
    colours = [colour(frames, m) for m in masks]
    places = [place(m) for m in masks]
    areas = [float(np.median(m.mean((1, 2))[m.any((1, 2))])) if m.any() else 0.0 for m in masks]
    plain = [f"{c} {n}" for c, n in zip(colours, nouns)]
    out = []
    for i, name in enumerate(plain):
        same = [j for j, other in enumerate(plain) if other == name and j != i]
        if not same:
            out.append(name)
            continue
        if all(areas[i] > 2 * areas[j] for j in same):
            out.append(f"large {name}")
        elif all(areas[i] < 0.5 * areas[j] for j in same):
            out.append(f"small {name}")
        else:
            out.append(f"{name} {places[i]}")
    return out
