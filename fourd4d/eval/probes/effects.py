"""What an intervention did, against the plain run on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from fourd4d.eval.items import Record
from fourd4d.eval.probes.donors import Donor, clip_of
from fourd4d.eval.statistics import paired_bootstrap

NAMES: Final = ("accuracy_delta", "letter_logp_delta", "text_logp_delta", "flip_rate",
                "follow_before", "follow_after", "follow_gain")


def estimate(values: Sequence[Any] | np.ndarray, clips: Sequence[object], draws: int = 2000
             ) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by a bootstrap of whole clips. Raises ValueError without values.
    """
    found = paired_bootstrap(np.zeros(len(values)), values, clips, draws)
    return found.mean, found.low, found.high


def named(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    """``name``, ``name_low`` and ``name_high``."""
    return {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}


def effect(plain: Mapping[str, Record], changed: Mapping[str, Record],
           donors: Mapping[str, Donor] | None = None, draws: int = 2000) -> dict[str, Any]:
    """Statistics of one intervention, over the items that both runs answered.

    Differences are intervention minus plain, paired, with 95 % intervals (``_low``, ``_high``).

    Returns:
      ``items``, ``failed`` (that only the intervention could not answer), and those of ``NAMES``
      that can be told: ``letter_logp_delta`` and ``text_logp_delta`` are nats of the right letter,
      and of the plain answer's own words after its first mental image, with that answer forced;
      ``follow_…`` are shares that give the donor's answer, with ``donors`` alone.
    """
    keys = [key for key, record in changed.items() if record["status"] == "answered"
            and plain[key]["status"] == "answered"]
    out: dict[str, Any] = {
        "items": len(keys),
        "failed": sum(record["status"] == "failed" and plain[key]["status"] == "answered"
                      for key, record in changed.items())}
    if not keys:
        return out
    clips = {key: clip_of(key, plain[key]["video_id"]) for key in keys}

    def tell(name: str, values: Mapping[str, float]) -> None:
        if values:
            found = estimate(list(values.values()), [clips[key] for key in values], draws)
            out.update(named(name, found))

    tell("accuracy_delta", {
        k: float(changed[k]["correct"]) - float(plain[k]["correct"]) for k in keys})
    for name in ("letter_logp", "text_logp"):
        both = [k for k in keys if plain[k].get(name) is not None
                and changed[k].get(name) is not None]
        tell(f"{name}_delta", {k: changed[k][name] - plain[k][name] for k in both})
    tell("flip_rate", {k: float(changed[k]["chosen"] != plain[k]["chosen"]) for k in keys})
    if donors is not None:
        held = {k: donors[k].letter for k in keys if k in donors}
        before = {k: float(plain[k]["chosen"] == letter) for k, letter in held.items()}
        after = {k: float(changed[k]["chosen"] == letter) for k, letter in held.items()}
        tell("follow_before", before)
        tell("follow_after", after)
        tell("follow_gain", {k: after[k] - before[k] for k in held})
    return out


def clear_of_zero(of: Mapping[str, Any], name: str, sign: int) -> bool:
    """Whether the interval of ``name`` lies wholly on one side of 0: above for 1, below for -1."""
    if f"{name}_low" not in of:
        return False
    return of[f"{name}_low"] > 0 if sign > 0 else of[f"{name}_high"] < 0


def verdict(arms: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether the answers depend on what is imagined, and that in words.

    They do where another clip's latents cost accuracy and are followed, both intervals clear of 0,
    and the donor's true targets, as a positive control, are followed too. What zeros or noise cost
    is no evidence: a model may want any vector of the usual kind.
    """
    swap, control = arms.get("swap_other", {}), arms.get("donor_oracle", {})
    if not swap.get("items"):
        return False, ("Nothing can be said: no item has mental images and a donor of another "
                       "answer.")
    where = (f"another clip's latents change the accuracy by {points(swap, 'accuracy_delta')} "
             f"points, and {points(swap, 'follow_gain')} points more of the answers are the "
             f"donor's ({swap['items']} questions)")
    if not clear_of_zero(swap, "accuracy_delta", -1) or not clear_of_zero(swap, "follow_gain", 1):
        return False, f"The answer does not depend on the latents, as far as can be told: {where}."
    if not control.get("items"):
        return False, (f"It may: {where}. The data has no overlays, so the positive control (the "
                       "donor's true targets) is missing.")
    if not clear_of_zero(control, "follow_gain", 1):
        return False, (f"It cannot be told: {where}, but the donor's true targets, the positive "
                       f"control, are not followed ({points(control, 'follow_gain')} points).")
    return True, (f"The answer depends on the latents: {where}; the donor's true targets are "
                  f"followed by {points(control, 'follow_gain')} points more.")


def points(of: Mapping[str, Any], name: str) -> str:
    """A share as signed points with its interval."""
    if name not in of:
        return "–"
    return (f"{100 * of[name]:+.1f} [{100 * of[f'{name}_low']:+.1f}, "
            f"{100 * of[f'{name}_high']:+.1f}]")
