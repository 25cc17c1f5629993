"""Random models, prompts and token protocols for the decoding benchmarks: no files needed."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.models import ModelConfig, Thinker, preset, preset_protocol
from fourd4d.models.presets import names
from fourd4d.parallel import batch_axes
from fourd4d.sampling import SamplingSpec

# A small part of the table, so that a random model starts and ends blocks often.
_VOCAB, _END, _START, _PAD, _STOP = 24, 20, 21, 22, 23


@dataclasses.dataclass(frozen=True)
class Toy:
    """A random model and random prompts for it."""

    model: Thinker
    prompts: Batch
    spec: SamplingSpec


def arguments(parser: argparse.ArgumentParser, prompts: int, tokens: int) -> None:
    parser.add_argument("--preset", default="tiny", help="one of " + ", ".join(names()))
    parser.add_argument("--layers", type=int, default=0, help="of the decoder; 0: the preset's")
    parser.add_argument("--width", type=int, default=0,
                        help="of the decoder, with heads and MLP in proportion; 0: the preset's")
    parser.add_argument("--param_dtype", default="float32", help="of stored parameters")
    parser.add_argument("--prompts", type=int, default=prompts, help="in a batch")
    parser.add_argument("--group", type=int, default=8, help="responses to each prompt")
    parser.add_argument("--length", type=int, default=160, help="tokens of a prompt")
    parser.add_argument("--slots", type=int, default=4, help="frame slots of a prompt")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens of a response")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompts and draws")
    parser.add_argument("--repeats", type=int, default=3, help="timings; the best counts")


def make(args: argparse.Namespace, endless: bool = False) -> Toy:
    """``endless``: no response ends before its budget."""
    protocol = preset_protocol(args.preset)
    shape = BatchShape(rows=args.prompts, length=args.length, slots=args.slots, windows=1,
                       overlays=0)
    spec = SamplingSpec(
        max_tokens=args.tokens, vocab=_VOCAB, latent_start=_START, latent_pad=_PAD,
        latent_end=_STOP, ends=(_VOCAB,) if endless else (_END,), forbidden=(_PAD, _STOP),
        latent_size=protocol.latent_size, max_latents=args.tokens)
    config = resized(preset(args.preset), args.layers, args.width).changed(
        param_dtype=args.param_dtype)
    return Toy(Thinker(config, nnx.Rngs(args.seed)),
               Batch.fake(shape, protocol, vocab=_END, seed=args.seed), spec)


def resized(config: ModelConfig, layers: int, width: int) -> ModelConfig:
    """Another depth and width of the decoder, heads as wide as before; 0 changes nothing."""
    d = config.decoder
    width = width or d.width
    if width % d.width:
        raise InputError("--width", f"{width} is not a multiple of the preset's {d.width}",
                         "Use a multiple")
    times = width // d.width
    return dataclasses.replace(config, decoder=dataclasses.replace(
        d, layers=layers or d.layers, width=width, heads=d.heads * times,
        kv_heads=d.kv_heads * times, mlp=d.mlp * times))


def tail_lengths(rows: int, budget: int, mean: float, seed: int) -> np.ndarray:
    """Lengths with many short ones and a long tail: exponential, cut at the budget.

    The scale is the one whose cut mean is ``mean``.

    Raises:
      InputError: a mean that is not between 1 and half the budget.
    """
    if not 1 < mean <= budget / 2:
        raise InputError("--mean", f"{mean} of {budget} tokens", "Use 1 to half the budget")
    low, high = 0.5, float(100 * budget)
    for _ in range(100):
        scale = (low + high) / 2
        cut = scale * (1 - np.exp(-budget / scale))
        low, high = (scale, high) if cut < mean else (low, scale)
    drawn = np.random.default_rng(seed).exponential(scale, rows)
    return np.clip(np.rint(drawn), 1, budget).astype(np.int32)


def left_padded(batch: Batch) -> Batch:
    """Each row's padding moved to its front."""
    shift = np.sum(np.asarray(batch.segment_ids) == 0, axis=1)

    def roll(path: Any, x: Any) -> Any:
        axes = batch_axes(path, np.ndim(x))
        if "length" not in axes:
            return x
        rows = np.moveaxis(np.asarray(x), axes.index("batch"), 0)
        rolled = np.stack([np.roll(row, s, axis=-1) for row, s in zip(rows, shift, strict=True)])
        return np.moveaxis(rolled, 0, axes.index("batch"))

    return jax.tree.map_with_path(roll, batch)


def row(batch: Batch, number: int) -> Batch:
    """One row of a batch."""
    return rows(batch, np.array([number]))


def rows(batch: Batch, numbers: np.ndarray) -> Batch:
    """Some rows of a batch."""
    return jax.tree.map_with_path(
        lambda path, x: np.take(x, numbers, batch_axes(path, np.ndim(x)).index("batch")), batch)


def alternating(calls: Sequence[Callable[[], Any]], repeats: int, *, warm: bool = True
                ) -> tuple[list[float], list[float]]:
    """Best wall and best processor time of each call, taken in turn after one that compiles.

    ``warm``: make that first one; else they have run before.

    Other work on the machine stretches the first, hardly the second.
    """
    best, busy = [float("inf")] * len(calls), [float("inf")] * len(calls)
    for call in calls if warm else ():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for number, call in enumerate(calls):
            began, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            best[number] = min(best[number], time.perf_counter() - began)
            busy[number] = min(busy[number], time.process_time() - used)
    return best, busy


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Best wall time of ``call`` after a first one that compiles."""
    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - began)
    return best
