"""Are replayed log-probs the sampled ones, and is a batch its rows one by one?

    python -m fourd4d.bench replay --json replay.json

A random model samples ragged responses with any number of blocks from prompts padded on either
side, at several temperatures and with the latent buffer running full.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.sampling import replay, row_keys, sample


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=6, tokens=48)


def main(args: argparse.Namespace) -> Result:
    made = tiny_rollout.make(args)
    few = 2 * made.spec.latent_size
    settings = [dataclasses.replace(made.spec, **changes) for changes in (
        {}, {"temperature": 0.7}, {"temperature": 0.0}, {"imagery": False}, {"max_latents": few})]
    recompute = jax.jit(replay, static_argnames=("spec", "group"))
    rng = jax.random.key(args.seed)
    worst, counts = 0.0, np.zeros(0, np.int64)
    for spec in settings:
        for batch in (made.prompts, tiny_rollout.left_padded(made.prompts)):
            rollout = sample(made.model, batch, rng, spec, args.group)
            again = recompute(made.model, batch, rollout, spec, args.group)
            worst = max(worst, float(np.abs(np.asarray(again - rollout.log_probs)).max()))
            starts = np.sum(np.asarray(rollout.tokens) == spec.latent_start, axis=1)
            counts = np.concatenate([counts, starts])

    keys = row_keys(rng, args.prompts)
    together = sample(made.model, made.prompts, keys, made.spec)
    mismatches = 0
    for number in range(args.prompts):
        alone = sample(made.model, tiny_rollout.row(made.prompts, number),
                       keys[number : number + 1],
                       made.spec)
        same = all(np.array_equal(getattr(alone, name)[0], getattr(together, name)[number])
                   for name in ("tokens", "mask", "latent_index", "truncated"))
        mismatches += not same
    metrics = {"max_abs_logp_diff": worst, "batch_vs_row_mismatches": mismatches,
               "rows": len(counts), "most_blocks": int(counts.max()),
               "rows_without_blocks": int(np.sum(counts == 0))}
    return Result("replay", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})
