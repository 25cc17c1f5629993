"""Names objects by colour, then size, then position, as far as needed to tell them apart."""

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
    """Return the most frequent colour inside the masks, in one or two words."""
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


def position(masks: Bool[np.ndarray, "T H W"]) -> str:
    """Return where the object is when it is first seen, e.g. ``on the left``."""
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


def labels(frames: UInt8[np.ndarray, "T H W 3"], objects: Sequence[ObjectMask]) -> list[str]:
    """Return a name for each object: its given one where unique, else by its appearance."""
    given = collections.Counter(found.name for found in objects)
    nouns = [found.name or ("object" if found.role == "dynamic" else "region") for found in objects]
    seen = names(frames, [found.masks for found in objects], nouns)
    return [found.name if found.name and given[found.name] == 1 else name
            for found, name in zip(objects, seen)]


def names(
    frames: UInt8[np.ndarray, "T H W 3"], masks: Sequence[Bool[np.ndarray, "T H W"]],
    nouns: Sequence[str],
) -> list[str]:
    """Return a name for each object; unique where colour, size and position differ.

    Args:
      masks: of each object, in all frames.
      nouns: of each object, e.g. ``object``.
    """
    colours = [colour(frames, m) for m in masks]
    positions = [position(m) for m in masks]
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
            out.append(f"{name} {positions[i]}")
    return out
