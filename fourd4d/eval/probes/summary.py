"""A probe's records as numbers: effects, content, the metrics by name, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourd4d.eval.items import Record
from fourd4d.eval.probes import content, effects
from fourd4d.eval.probes.donors import clip_of
from fourd4d.eval.probes.run import Outcome, ProbeSpec
from fourd4d.eval.probes.tables import ARMS


def summarise(outcome: Outcome, probing: ProbeSpec) -> dict[str, Any]:
    """``metrics``, ``arms``, ``content``, ``linear``, ``verdict``, ``warnings``, JSON values."""
    draws = probing.draws
    arms = {name: effects.effect(outcome.plain, records,
                                 outcome.material.other if ARMS[name].donor else None, draws)
            for name, records in outcome.arms.items()}
    answered = {k: r for k, r in outcome.plain.items() if r["status"] == "answered"}
    images = image_states(outcome)
    found = content.likeness(images_of(images, outcome), draws)
    depends, words = effects.verdict(arms)
    share = [float(bool(r["latents"])) for r in answered.values()]
    metrics: dict[str, Any] = {}
    for name, records in (("plain_accuracy", outcome.plain),
                          ("text_only_accuracy", outcome.text_only)):
        metrics |= accuracy(name, records, draws)
    for name, arm, key in (
        ("probe_swap_delta", "swap_other", "accuracy_delta"),
        ("probe_zero_delta", "zero", "accuracy_delta"),
        ("donor_follow_rate", "swap_other", "follow_after"),
        ("donor_follow_before", "swap_other", "follow_before"),
        ("donor_follow_gain", "swap_other", "follow_gain"),
        ("donor_target_delta", "donor_oracle", "accuracy_delta"),
        ("donor_target_follow_rate", "donor_oracle", "follow_after"),
        ("floor_flip_rate", "repeat", "flip_rate"),
    ):
        metrics |= _from(name, arms.get(arm, {}), key)
    for name in ("retrieval_top1", "retrieval_clip", "cosine", "centred_cosine",
                 "constant_cosine", "norm_ratio"):
        metrics |= _from(name, found, name)
    return {
        "metrics": metrics, "arms": arms, "content": found,
        "linear": linear(images, draws) if probing.linear else {},
        "depends_on_latents": depends, "verdict": words, "warnings": content.warnings(found),
        "items": len(outcome.items), "answered": len(answered),
        "imagining_share": float(np.mean(share)) if share else 0.0,
        "failed": [{"key": k, "reason": r["reason"]} for k, r in outcome.plain.items()
                   if r["status"] == "failed"],
        "without_targets": [{"key": k, "reason": why} for k, why in outcome.untold.items()],
    }


def accuracy(name: str, records: Mapping[str, Record], draws: int) -> dict[str, Any]:
    """Share of all items answered right; None without any. Those that failed are wrong."""
    if not records:
        return _from(name, {}, name)
    clips = [clip_of(key, record["video_id"]) for key, record in records.items()]
    return effects.named(name, effects.estimate(
        [float(record["correct"]) for record in records.values()], clips, draws))


def _from(name: str, found: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {f"{name}{end}": found.get(f"{key}{end}") for end in ("", "_low", "_high")}


def image_states(outcome: Outcome) -> list[dict[str, Any]]:
    """Every mental image of the plain run, with its hidden states and what is true of it.

    A response's image number i is held against overlay number i.
    """
    material = outcome.material
    size, rows = material.latent_size, []
    for item in outcome.items:
        record = outcome.plain[item.key]
        if not record.get("latents", 0):
            continue
        one = material.recordings.load(item.key)
        known = material.targets.load(item.key) if item.key in material.targets else {}
        true = known.get("targets", one.latents[:0])
        for i in range(record["latents"] // size):
            part = slice(i * size, (i + 1) * size)
            row: dict[str, Any] = {
                "item": item.key, "clip": clip_of(item.key, record["video_id"]),
                "latent": one.latents[part]}
            if len(true[part]) == size:
                row["target"] = true[part]
                row |= {name: known[name][i] for name in ("place", "size", "velocity")
                        if i < len(known.get(name, ()))}
                if known.get("name", np.array("")).item():
                    row["identity"] = known["name"].item()
            for name in ("before", "end"):
                if i < len(getattr(one, name)):
                    row[name] = getattr(one, name)[i]
            rows.append(row)
    return rows


def images_of(rows: Sequence[Mapping[str, Any]], outcome: Outcome) -> content.Images:
    """Those that have targets; all of them, without targets, where none has."""
    told = [row for row in rows if "target" in row]
    kept = told or list(rows)
    size = outcome.material.latent_size
    own = (np.stack([row["latent"] for row in kept]) if kept
           else np.zeros((0, size, 1), np.float32))
    return content.Images(
        own, np.stack([row["target"] for row in told]) if told else None,
        [row["item"] for row in kept], [row["clip"] for row in kept])


def linear(rows: Sequence[Mapping[str, Any]], draws: int) -> dict[str, dict[str, Any]]:
    """R² by fact and place: at the latents, at the token before, at the end token, in the target.
    """
    found: dict[str, dict[str, Any]] = {}
    for fact in ("place", "size", "velocity", "identity"):
        for place in ("latent", "before", "end", "target"):
            held = [row for row in rows if fact in row and place in row
                    and (fact == "identity" or np.isfinite(row[fact]).all())]
            if not held:
                continue
            truth = (content.one_hot([row[fact] for row in held]) if fact == "identity"
                     else np.stack([row[fact] for row in held]))
            states = np.stack([row[place].reshape(-1) for row in held])
            told = content.linear_probe(states, truth, [row["clip"] for row in held], draws)
            if told is not None:
                found.setdefault(fact, {})[place] = {"images": len(held), **told}
    return found
