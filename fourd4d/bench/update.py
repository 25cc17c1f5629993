"""What sharing the prompt saves in the RL update: prefix + G tails against G full sequences.

    python -m fourd4d.bench update --json update.json
    python -m fourd4d.bench update --lengths tail

With tail lengths, responses are packed into rows too; ``speedup_vs_shared`` is what that adds.
Calls take turns, and the best of each counts; other work on the machine stretches
``processor_speedup_vs_naive`` least.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.core.rollout import Rollout
from fourd4d.core.terminal import say
from fourd4d.sampling import sample
from fourd4d.sampling.replay import joined_hidden, response_hidden, score_hidden
from fourd4d.sampling.tails import pack_tails, padding_share, score_packed

# Shapes by --lengths, where no flag says otherwise.
_SHAPES: Final = {"full": dict(prompts=8, group=8, length=160, tokens=112, mean=0.0),
                  "tail": dict(prompts=2, group=16, length=1024, tokens=128, mean=48.0)}


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=8, tokens=112)
    told = "; ".join(f"{name}: {' '.join(f'{k}={v:g}' for k, v in shape.items())}"
                     for name, shape in _SHAPES.items())
    parser.add_argument("--lengths", choices=tuple(_SHAPES), default="full",
                        help=f"full: every response fills its budget. By default {told}")
    parser.add_argument("--mean", type=float,
                        help="mean of tail lengths; 0: a quarter of the budget")
    parser.set_defaults(**dict.fromkeys(_SHAPES["full"]))


def cut(rollout: Rollout, lengths: np.ndarray) -> Rollout:
    """The responses up to these lengths."""
    said = np.arange(rollout.tokens.shape[1]) < lengths[:, None]
    return dataclasses.replace(
        rollout, tokens=jnp.where(said, rollout.tokens, 0), mask=rollout.mask & said,
        sampled=rollout.sampled & said, log_probs=jnp.where(said, rollout.log_probs, 0.0),
        latent_index=jnp.where(said, rollout.latent_index, -1))


def main(args: argparse.Namespace) -> Result:
    for name, value in _SHAPES[args.lengths].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
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

    ways: list[tuple[str, Any]] = [("naive", joined_hidden), ("shared", response_hidden)]
    if tails is not None:
        ways.append(("packed", None))
    programs, memory, grads = [], [], []
    for name, hidden_of in ways:
        say(f"compiling {name}", stderr=True)
        compiled = jax.jit(functools.partial(gradient, hidden_of)).lower(params, rollout).compile()
        stats: Any = compiled.memory_analysis()
        memory.append(stats.temp_size_in_bytes)
        programs.append(functools.partial(compiled, params, rollout))
    for (name, _), program in zip(ways, programs, strict=True):
        began = time.perf_counter()
        grads.append(jax.device_get(program()))
        say(f"{name}: {time.perf_counter() - began:.1f} s, {args.repeats} more to come",
            stderr=True)
    # In turn, so that what else the machine does meets all of them.
    wall, busy = tiny_rollout.alternating(programs, args.repeats, warm=False)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(
        jax.tree.leaves(grads[-1]), jax.tree.leaves(grads[0]), strict=True))
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads[0]))
    return Result("update", {
        "speedup_vs_naive": wall[0] / wall[-1],
        "processor_speedup_vs_naive": busy[0] / busy[-1],
        "memory_ratio_vs_naive": memory[-1] / memory[0],
        "max_abs_grad_diff": difference,
        "max_abs_grad": scale,
        "seconds": wall[-1],
        **({} if tails is None else {
            "speedup_vs_shared": wall[1] / wall[-1],
            "padding_share": padding_share(tails),
            "mean_length": float(np.asarray(rollout.mask).sum(1).mean())}),
    }, {"config": {k: v for k, v in vars(args).items() if k not in ("name", "json")}})
