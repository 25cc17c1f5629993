"""What sharing the prompt saves in the RL update: prefix + G tails against G full sequences.

    python -m fourd4d.bench update --json update.json
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.sampling import sample
from fourd4d.sampling.replay import joined_hidden, response_hidden, score_hidden


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=8, tokens=112)


def main(args: argparse.Namespace) -> Result:
    made = tiny_rollout.make(args, endless=True)
    rollout = sample(made.model, made.prompts, jax.random.key(args.seed), made.spec, args.group)
    advantages = np.random.default_rng(args.seed).standard_normal(
        (args.prompts * args.group, 1)).astype(np.float32)
    graphdef, params, frozen = nnx.split(
        made.model, lambda path, _: path[0] != "vision", ...)
    features = jax.jit(lambda model: model.encode(made.prompts.vision))(made.model)

    def gradient(hidden_of: Any, params: Any, rollout: Any) -> Any:
        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, frozen)
            hidden = hidden_of(model, made.prompts, rollout, args.group, features)
            scored = score_hidden(model, hidden, rollout, made.spec)[0]
            return -jnp.sum(advantages * scored) / jnp.sum(rollout.mask)

        return jax.grad(loss)(params)

    found: dict[str, tuple[Any, float, int]] = {}
    for name, hidden_of in (("shared", response_hidden), ("naive", joined_hidden)):
        compiled = jax.jit(functools.partial(gradient, hidden_of)).lower(params, rollout).compile()
        memory: Any = compiled.memory_analysis()
        found[name] = (compiled(params, rollout),
                       tiny_rollout.seconds(functools.partial(compiled, params, rollout),
                                            args.repeats),
                       memory.temp_size_in_bytes)
    difference = max(float(np.abs(np.asarray(a - b)).max()) for a, b in zip(
        jax.tree.leaves(found["shared"][0]), jax.tree.leaves(found["naive"][0]), strict=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found["naive"][0]))
    return Result("update", {
        "speedup_vs_naive": found["naive"][1] / found["shared"][1],
        "memory_ratio_vs_naive": found["shared"][2] / found["naive"][2],
        "max_abs_grad_diff": difference,
        "max_abs_grad": scale,
        "seconds": found["shared"][1],
    }, {"config": {k: v for k, v in vars(args).items() if k not in ("name", "json")}})
