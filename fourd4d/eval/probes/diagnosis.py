"""What an evaluation tells of imagery, so that no cosine stands alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core.rollout import Rollout
from fourd4d.data.source import Source
from fourd4d.eval.items import Item, Record
from fourd4d.eval.probes import content, truth
from fourd4d.eval.probes.donors import clip_of
from fourd4d.eval.probes.recordings import ArrayStore
from fourd4d.eval.probes.report import LIKENESS_NOTE, likeness_rows
from fourd4d.eval.runner import AskedBatch, Observe
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.pages import Page


def recorder(store: ArrayStore, keep: Collection[str]) -> Observe:
    """Keeps what was fed to the items ``keep``; adds nothing to their records."""
    def observe(keys: Sequence[str], asked: AskedBatch, rollout: Rollout) -> list[Record]:
        del asked
        for row, key in enumerate(keys):
            if key in keep:
                fed = int(rollout.latent_index[row].max(initial=-1)) + 1
                store.save(key, latents=np.asarray(rollout.latents[row, :fed], np.float32))
        return [{} for _ in keys]

    return observe


def diagnose(subject: Subject, source: Source, items: Sequence[Item], spec: EvalSpec,
             latents: ArrayStore, targets: ArrayStore, records: Mapping[str, Record]
             ) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Likeness of recorded latents to their targets, where rows have overlays, and by item.

    Returns:
      ``content.likeness`` with its ``warnings``, and short facts for each item's card.
    """
    kept = [item for item in items if item.key in latents]
    for _ in truth.record_targets(subject, source, kept, spec, targets):
        pass
    size = subject.processor.protocol.latent_size
    own: list[np.ndarray] = []
    true: list[np.ndarray | None] = []
    keys: list[str] = []
    for item in kept:
        fed = latents.load(item.key)["latents"]
        wanted = targets.load(item.key)["targets"] if item.key in targets else fed[:0]
        for start in range(0, len(fed) - size + 1, size):
            own.append(fed[start : start + size])
            true.append(wanted[start : start + size] if start + size <= len(wanted) else None)
            keys.append(item.key)
    told = [i for i, target in enumerate(true) if target is not None] or list(range(len(own)))
    if not told:
        return {"images": 0, "warnings": []}, {}
    chosen = [keys[i] for i in told]
    wanted_ = [target for target in (true[i] for i in told) if target is not None]
    images = content.Images(
        np.stack([own[i] for i in told]), np.stack(wanted_) if wanted_ else None, chosen,
        [clip_of(key, records[key]["video_id"]) for key in chosen])
    found = content.likeness(images)
    facts: dict[str, list[str]] = {}
    if images.targets is not None:
        each = content.per_image(images)
        for key in dict.fromkeys(chosen):
            mine = [i for i, other in enumerate(chosen) if other == key]
            m = {name: float(values[mine].mean()) for name, values in each.items()}
            facts[key] = [
                f"cosine {m['cosine']:.3f} (a constant {m['constant_cosine']:.3f})",
                f"centred {m['centred_cosine']:.3f}",
                f"own target nearest {each['retrieval_top1'][mine].sum():.0f} of {len(mine)}"]
    return found | {"warnings": content.warnings(found)}, facts


def add_diagnosis(page: Page, found: Mapping[str, Any]) -> Page:
    """Warnings first, then the table."""
    if found["warnings"]:
        page.add_text("Look out", *found["warnings"])
    rows = likeness_rows(found)
    if rows:
        page.add_table("What is imagined, against what should be",
                       ["measure", "value [95 %]", "chance"], rows, LIKENESS_NOTE)
    return page


def stores(out: Path) -> tuple[ArrayStore, ArrayStore]:
    """Where an evaluation keeps latents and targets."""
    return ArrayStore(out / "latents"), ArrayStore(out / "targets")
