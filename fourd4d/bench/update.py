"""What sharing the prompt saves in the RL update: prefix + G tails against G full sequences.

    python -m fourd4d.bench update --json update.json
    python -m fourd4d.bench update --lengths tail --length 1024 --tokens 128 --mean 48 --group 16 \\
        --prompts 2

With tail lengths, responses are packed into rows too; ``speedup_vs_shared`` is what that adds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.core.rollout import Rollout
from fourd4d.sampling import sample
from fourd4d.sampling.replay import joined_hidden, response_hidden, score_hidden
from fourd4d.sampling.tails import pack_tails, padding_share, score_packed


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=8, tokens=112)
    parser.add_argument("--lengths", choices=("full", "tail"), default="full",
                        help="full: every response fills its budget")
    parser.add_argument("--mean", type=float, default=0.0,
                        help="mean of tail lengths; 0: a quarter of the budget")


def cut(rollout: Rollout, lengths: np.ndarray) -> Rollout:
    """The responses up to these lengths."""
    said = np.arange(rollout.tokens.shape[1]) < lengths[:, None]
    return dataclasses.replace(
        rollout, tokens=jnp.where(said, rollout.tokens, 0), mask=rollout.mask & said,
        sampled=rollout.sampled & said, log_probs=jnp.where(said, rollout.log_probs, 0.0),
        latent_index=jnp.where(said, rollout.latent_index, -1))


def main(args: argparse.Namespace) -> Result:
    made = tiny_rollout.make(args, endless=True)
    rollout = sample(made.model, made.prompts, jax.random.key(args.seed), made.spec, args.group)
    tails = None
    if args.lengths == "tail":
        lengths = tiny_rollout.tail_lengths(
            args.prompts * args.group, args.tokens, args.mean or args.tokens / 4, args.seed)
        rollout = cut(rollout, lengths)
        tails = pack_tails(lengths.reshape(args.prompts, args.group), args.tokens)
    advantages = np.random.default_rng(args.seed).standard_normal(
        (args.prompts * args.group, 1)).astype(np.float32)
    graphdef, params, frozen = nnx.split(
        made.model, lambda path, _: path[0] != "vision", ...)
    features = jax.jit(lambda model: model.encode(made.prompts.vision))(made.model)

    def gradient(hidden_of: Any, params: Any, rollout: Any) -> Any:
        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, frozen)
            if hidden_of is None:
                assert tails is not None
                scored = score_packed(model, made.prompts, rollout, tails, made.spec, features)[0]
            else:
                hidden = hidden_of(model, made.prompts, rollout, args.group, features)
                scored = score_hidden(model, hidden, rollout, made.spec)[0]
            return -jnp.sum(advantages * scored) / jnp.sum(rollout.mask)

        return jax.grad(loss)(params)

    found: dict[str, tuple[Any, float, int]] = {}
    ways: list[tuple[str, Any]] = [("shared", response_hidden), ("naive", joined_hidden)]
    if tails is not None:
        ways.append(("packed", None))
    for name, hidden_of in ways:
        compiled = jax.jit(functools.partial(gradient, hidden_of)).lower(params, rollout).compile()
        memory: Any = compiled.memory_analysis()
        found[name] = (compiled(params, rollout),
                       tiny_rollout.seconds(functools.partial(compiled, params, rollout),
                                            args.repeats),
                       memory.temp_size_in_bytes)
    best = ways[-1][0] if tails is not None else "shared"
    difference = max(float(np.abs(np.asarray(a - b)).max()) for a, b in zip(
        jax.tree.leaves(found[best][0]), jax.tree.leaves(found["naive"][0]), strict=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found["naive"][0]))
    return Result("update", {
        "speedup_vs_naive": found["naive"][1] / found[best][1],
        "memory_ratio_vs_naive": found[best][2] / found["naive"][2],
        "max_abs_grad_diff": difference,
        "max_abs_grad": scale,
        "seconds": found[best][1],
        **({} if tails is None else {
            "speedup_vs_shared": found["shared"][1] / found[best][1],
            "padding_share": padding_share(tails),
            "mean_length": float(np.asarray(rollout.mask).sum(1).mean())}),
    }, {"config": {k: v for k, v in vars(args).items() if k not in ("name", "json")}})
