"""From rollouts to strings."""

from __future__ import annotations

import numpy as np

from fourd4d.core.rollout import Rollout
from fourd4d.processing.tokenizer import Tokenizer
from fourd4d.sampling.spec import SamplingSpec


def texts(rollout: Rollout, tokenizer: Tokenizer, spec: SamplingSpec) -> list[str]:
    """Each row's response as text, imagery tokens included, the end-of-turn token left out."""
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    sampled = np.asarray(rollout.sampled)
    keep = mask & ~(sampled & np.isin(tokens, spec.ends))
    return [tokenizer.decode([int(t) for t in row[kept]])
            for row, kept in zip(tokens, keep, strict=True)]
