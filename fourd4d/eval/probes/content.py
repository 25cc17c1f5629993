"""What imagined latents hold: likeness to their targets, likeness among themselves, linear probes.

A cosine alone flatters: vision features share a large part, so a constant reaches a high one.
Beside it stand the constant's, the centred cosine, and how often the own target is the nearest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fourd4d.eval.probes.effects import estimate, named
from fourd4d.losses import imagery

ALIKE: Final = 0.95  # Cosine of different clips' latents, where no targets tell what is usual.
_RIDGES: Final = 10.0 ** np.arange(-2, 7)
_FOLDS: Final = 5


@dataclasses.dataclass(frozen=True)
class Images:
    """N mental images of R latents, as the model made them.

    Attributes:
      own: what was fed.
      targets: what was to be imagined; None where that is not known.
      items, clips: whose each is.
    """

    own: Float[np.ndarray, "N R D"]
    targets: Float[np.ndarray, "N R D"] | None
    items: Sequence[str]
    clips: Sequence[str]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def self_similarity(images: Float[np.ndarray, "N R D"], clips: Sequence[str]) -> float | None:
    """Mean cosine of whole mental images of different clips; None with fewer than two clips."""
    flat = _unit(images.reshape(len(images), -1).astype(np.float64))
    total, pairs = float(np.square(flat.sum(0)).sum()), float(len(flat)) ** 2
    for clip in set(clips):  # Pairs of a clip with itself do not count.
        own = flat[[c == clip for c in clips]]
        total -= float(np.square(own.sum(0)).sum())
        pairs -= float(len(own)) ** 2
    return total / pairs if pairs else None


def per_image(images: Images) -> dict[str, Float[np.ndarray, "N"]]:
    """Likeness of each mental image to its target.

    ``cosine``, ``centred_cosine`` and ``norm_ratio`` are means over its latents;
    ``constant_cosine`` is what the best constant gets; ``retrieval_top1`` and ``retrieval_clip``
    are 1 where the own target is nearest among all, and among the item's own, centred and whole
    (a tie is shared).
    """
    assert images.targets is not None
    own, targets = images.own, images.targets
    bank = imagery.Bank.of(jnp.asarray(targets), np.ones(len(own)), own.shape[1])
    middle = np.asarray(bank.direction())

    def cosines(a: Any, b: Any) -> np.ndarray:
        return np.mean(np.sum(_unit(np.asarray(a)) * _unit(np.asarray(b)), -1), -1)

    scores = np.asarray(imagery.similarities(jnp.asarray(own), bank)[0])
    items = np.asarray(images.items)
    mine = items[:, None] == items[None]
    lengths = [np.linalg.norm(x, axis=-1) for x in (own, targets)]
    return {
        "cosine": cosines(own, targets),
        "constant_cosine": cosines(np.broadcast_to(middle, targets.shape), targets),
        "centred_cosine": cosines(bank.deviations(jnp.asarray(own)),
                                  bank.deviations(jnp.asarray(targets))),
        "norm_ratio": np.mean(lengths[0] / np.maximum(lengths[1], 1e-6), -1),
        "retrieval_top1": _hits(scores),
        "retrieval_clip": _hits(np.where(mine, scores, -np.inf)),
    }


def _hits(scores: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N"]:
    best = scores == scores.max(-1, keepdims=True)
    return np.diagonal(best) / best.sum(-1)


def likeness(images: Images, draws: int = 2000) -> dict[str, Any]:
    """``per_image``'s means with intervals, chance levels, and self-similarity.

    Without targets, self-similarity and the number of images alone.
    """
    out: dict[str, Any] = {"images": len(images.own)}
    if not len(images.own):
        return out
    out["self_similarity"] = self_similarity(images.own, images.clips)
    if images.targets is None:
        return out
    for name, values in per_image(images).items():
        out |= named(name, estimate(values, images.clips, draws))
    items = list(images.items)
    return out | {
        "target_self_similarity": self_similarity(images.targets, images.clips),
        "retrieval_top1_chance": 1 / len(items),
        "retrieval_clip_chance": float(np.mean([1 / items.count(item) for item in items])),
    }


def warnings(found: Mapping[str, Any]) -> list[str]:
    """Plain sentences about what ``likeness`` shows to be wrong; empty where nothing is."""
    out = []
    alike, usual = found.get("self_similarity"), found.get("target_self_similarity")
    if alike is not None:
        bad = alike > ALIKE if usual is None else 1 - alike < (1 - usual) / 2
        if bad:
            beside = "" if usual is None else f"; those of their true targets {usual:.3f}"
            out.append("The latents of different clips are alike: their cosine is "
                       f"{alike:.3f}{beside}. The same thing is imagined whatever is seen.")
    if "cosine" in found and found["cosine"] <= found["constant_cosine"] + 0.01:
        out.append(f"A constant is as near to the targets as what is imagined: its cosine is "
                   f"{found['constant_cosine']:.3f}, the model's {found['cosine']:.3f}.")
    if "retrieval_top1" in found and found["retrieval_top1_low"] <= found["retrieval_top1_chance"]:
        out.append("The own target is found among all no more often than by chance "
                   f"({100 * found['retrieval_top1']:.1f} % against "
                   f"{100 * found['retrieval_top1_chance']:.1f} %).")
    return out


def linear_probe(states: Float[np.ndarray, "N D"], truth: Float[np.ndarray, "N C"],
                 clips: Sequence[str], draws: int = 2000) -> dict[str, float] | None:
    """R² of predicting ``truth`` from ``states`` linearly, on clips that were not fitted.

    Ridge regression in five folds of whole clips; its strength is chosen by leaving each of the
    fitted folds out in turn. Columns count alike, whatever their scale. 0 is as good as the mean.

    Returns:
      ``r2``, ``r2_low`` and ``r2_high`` (bootstrap of clips); None with fewer than 20 images or 5
      clips, or where nothing varies.
    """
    names = list(dict.fromkeys(clips))
    if len(states) < 20 or len(names) < _FOLDS:
        return None
    truth = np.asarray(truth, np.float64)
    spread = truth.std(0)
    if not (spread > 1e-9).any():
        return None
    truth = truth[:, spread > 1e-9] / spread[spread > 1e-9]
    number = {name: i for i, name in enumerate(names)}
    place = np.array([number[clip] for clip in clips])
    fold = np.random.default_rng(0).permutation(len(names))[place] % _FOLDS
    wrong, off = (np.zeros(len(truth)) for _ in range(2))
    for one in range(_FOLDS):
        test = fold == one
        error = np.zeros(len(_RIDGES))
        for inner in set(range(_FOLDS)) - {one}:
            fitted, left = ~test & (fold != inner), fold == inner
            found = _ridge(states[fitted], truth[fitted], states[left], _RIDGES)
            error += np.square(found - truth[left]).sum((1, 2))
        best = _RIDGES[[int(error.argmin())]]
        (predicted,) = _ridge(states[~test], truth[~test], states[test], best)
        wrong[test] = np.square(predicted - truth[test]).sum(-1)
        off[test] = np.square(truth[test] - truth[~test].mean(0)).sum(-1)
    a, b = (np.bincount(place, x) for x in (wrong, off))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(names), (draws, len(names)))
    low, high = np.quantile(1 - a[drawn].sum(1) / np.maximum(b[drawn].sum(1), 1e-12),
                            (0.025, 0.975))
    return {"r2": float(1 - a.sum() / b.sum()), "r2_low": float(low), "r2_high": float(high)}


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray, ridges: np.ndarray) -> np.ndarray:
    """Predictions for ``new`` under each penalty, (penalties, rows of ``new``, C)."""
    x, new = x.astype(np.float64), new.astype(np.float64)
    middle, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
    x, new = (x - middle) / scale, (new - middle) / scale
    mean = y.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    shrink = s / (s**2 + ridges[:, None])
    return np.einsum("nk,pk,kc->pnc", new @ vt.T, shrink, u.T @ (y - mean), optimize=True) + mean


def one_hot(names: Sequence[str]) -> Float[np.ndarray, "N C"]:
    """A column for each name."""
    known = sorted(set(names))
    return np.array([[float(name == one) for one in known] for name in names])
