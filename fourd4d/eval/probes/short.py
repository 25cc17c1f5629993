"""A short probe for reports: swap, zero, and likeness to the targets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from fourd4d.data.source import Source
from fourd4d.eval.items import Item
from fourd4d.eval.probes.run import ProbeSpec, probe
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.spec import EvalSpec, Subject


def quick(subject: Subject, source: Source, items: Sequence[Item], spec: EvalSpec, *,
          text_only: Subject | None = None, seed: int = 0) -> dict[str, float | None]:
    """Probe a model on some items with another clip's latents and with zeros.

    Args:
      items: as many as there is time for: each is answered four times. The first of a benchmark
        do, see ``items.read_items``.
      text_only: a checkpoint trained on text alone, for ``text_only_accuracy``.

    Returns:
      The probe command's ``metrics``: ``probe_swap_delta`` (accuracy with the latents of a donor
      of another answer minus plain), ``probe_zero_delta``, ``donor_follow_rate``,
      ``retrieval_top1``, ``cosine``, ``constant_cosine``, ``text_only_accuracy`` and others, as
      fractions, each with ``_low`` and ``_high``; None where it cannot be told.
    """
    probing = ProbeSpec(arms=("zero", "swap_other", "donor_oracle"), seed=seed, linear=False)
    with tempfile.TemporaryDirectory() as out:
        outcome = probe(subject, source, items, spec, probing, Path(out), text_only=text_only)
        return summarise(outcome, probing)["metrics"]
