"""Pairs of clips that differ in one fact: are both answers right, and do the latents move?

Both of a pair (``Sample.pair``) are asked the same with the same options and have different
answers, so an answer from the words alone is right for one of the two at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fourd4d.eval.items import Record
from fourd4d.eval.probes.effects import estimate, named
from fourd4d.eval.probes.recordings import ArrayStore
from fourd4d.losses import imagery
from fourd4d.pages import Page

_FLAT: Final = 1e-3  # Deviations shorter than this point nowhere.


def pairs_of(records: Mapping[str, Record]) -> dict[str, tuple[Record, Record]]:
    """The records of both members, by the pair's name; pairs of which one is missing are left out.
    """
    members: dict[str, list[Record]] = {}
    for record in records.values():
        if record.get("pair"):
            members.setdefault(record["pair"], []).append(record)
    return {name: (both[0], both[1]) for name, both in members.items() if len(both) == 2}


def both_right(records: Mapping[str, Record], draws: int = 2000) -> dict[str, Any]:
    """Shares of pairs, with intervals by a bootstrap of pairs; empty without pairs.

    Returns:
      ``pairs`` (how many), ``both_right``, ``one_right`` and ``same_answer`` (both are given the
      same one, so the clip did not count; no answer is none).
    """
    found = list(pairs_of(records).values())
    if not found:
        return {}
    right = np.array([[bool(one["correct"]) for one in both] for both in found]).sum(1)
    same = [a["chosen"] is not None and a["chosen"] == b["chosen"] for a, b in found]
    out: dict[str, Any] = {"pairs": len(found)}
    for name, values in (("both_right", right == 2), ("one_right", right == 1),
                         ("same_answer", np.array(same))):
        out |= named(name, estimate(values.astype(float), range(len(found)), draws))
    return out


def centred_distance(first: Float[np.ndarray, "N R D"], second: Float[np.ndarray, "N R D"],
                     bank: imagery.Bank) -> Float[np.ndarray, "N"]:
    """1 - the cosine of what is beyond the bank's mean direction, a mean over an image's latents.

    0 where they are the same, and where neither has anything beyond the mean: a constant does not
    move.
    """
    a, b = (np.asarray(bank.deviations(jnp.asarray(x))) for x in (first, second))
    lengths = [np.linalg.norm(x, axis=-1) for x in (a, b)]
    cosine = np.sum(a * b, -1) / np.maximum(lengths[0] * lengths[1], _FLAT**2)
    flat = (lengths[0] < _FLAT) & (lengths[1] < _FLAT)
    return np.mean(np.where(flat, 0.0, 1 - cosine), -1)


def moved(latents: ArrayStore, targets: ArrayStore, records: Mapping[str, Record], size: int,
          draws: int = 2000) -> dict[str, Any]:
    """How far mental images of the same number move between the clips of a pair.

    Args:
      latents, targets: by item, as an evaluation keeps them.
      size: latents of a mental image.

    Returns:
      ``moved_images``, ``moved`` (``centred_distance``) with its interval, and, where both have
      true targets, ``targets_moved``: what it would be were they imagined truly.
    """

    def images(store: ArrayStore, name: str, key: str) -> list[np.ndarray]:
        held = store.load(key)[name] if key in store else np.zeros((0, 1), np.float32)
        return [held[i : i + size] for i in range(0, len(held) - size + 1, size)]

    def parts(store: ArrayStore, name: str) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
        first, second, whose = [], [], []
        for pair, (a, b) in pairs_of(records).items():
            both = zip(images(store, name, a["key"]), images(store, name, b["key"]), strict=False)
            for one, other in both:
                first.append(one)
                second.append(other)
                whose.append(pair)
        return first, second, whose

    out: dict[str, Any] = {}
    own, true = parts(latents, "latents"), parts(targets, "targets")
    middle = true if true[0] else own
    if not own[0]:
        return out
    everyone = np.stack([*middle[0], *middle[1]])
    bank = imagery.Bank.of(jnp.asarray(everyone), np.ones(len(everyone)), size)
    for name, (first, second, whose) in (("moved", own), ("targets_moved", true)):
        if first:
            values = centred_distance(np.stack(first), np.stack(second), bank)
            out |= named(name, estimate(values, whose, draws))
    return {"moved_images": len(own[0]), **out}


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Measure and value with its interval, for a page or a terminal."""

    def value(name: str, scale: float, digits: int) -> str:
        low, high = (scale * found[f"{name}{end}"] for end in ("_low", "_high"))
        return f"{scale * found[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    titles = (("both_right", "both right, %", 100.0, 1),
              ("one_right", "one of the two, %", 100.0, 1),
              ("same_answer", "the same answer to both, %", 100.0, 1),
              ("moved", "latents move, 1 - centred cosine", 1.0, 3),
              ("targets_moved", "their true targets move", 1.0, 3))
    return [[title, value(name, scale, digits)] for name, title, scale, digits in titles
            if name in found]


def add_pairs(page: Page, found: Mapping[str, Any]) -> Page:
    """A table of pairs, where there are any."""
    if found:
        page.add_table(f"{found['pairs']} pairs of clips that differ in one fact",
                       ["measure", "value [95 %]"], rows(found), NOTE)
    return page


def lines(found: Mapping[str, Any]) -> Sequence[str]:
    """The table in one line, for a terminal; none without pairs."""
    if not found:
        return ()
    return [f"{found['pairs']} pairs: " + "; ".join(f"{title} {value}"
                                                   for title, value in rows(found))]


NOTE: Final = (
    "Both of a pair are asked the same with the same options, and the answers differ: from the "
    "words alone one of the two is right at most. Latents that stay as they are while the clip "
    "changes hold nothing of what changed. Intervals: bootstrap of pairs.")
