"""Tokens a second of sampling groups of responses, beside ``transformers.generate``.

    python -m fourd4d.bench rollout --json rollout.json

Both sample the same number of tokens with the same architecture at random weights, from text
prompts of one length, without early ends. ``speedup_vs_torch`` needs the ``[parity]`` extra.

    python -m fourd4d.bench rollout --lengths tail
    python -m fourd4d.bench rollout --lengths tail --layers 4 --width 256 --length 322 --tokens 128

With lengths drawn so that their mean is a quarter of the budget, imagery on: engines, which
refill slots, beside the static loop, which decodes as many rows at a time until the longest has
ended, and beside ``transformers.generate``, which does the same without frames and imagery. By
default 64 prompts of 8 responses, as in a step of 4DRL, in 32 slots. All of them read the prompts,
which costs the same: the less a prompt's responses say, the less there is to win.

    python -m fourd4d.bench rollout --no-torch --slots 4 --beside tiny3 --repeats 9

times another preset too, in turn with the first: ``seconds_per_flop_ratio`` is what an operation of
the other's takes, in those of this one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import numpy as np
from flax import nnx

from fourd4d.bench.common import flops, tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.models import ModelConfig, Thinker
from fourd4d.models.families import family
from fourd4d.sampling import Engine, generate, rollout, row_keys

_PROMPTS: Final = {"full": 16, "tail": 64}


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=0, tokens=112)
    parser.add_argument("--lengths", choices=("full", "tail"), default="full",
                        help="full: every response fills its budget")
    parser.add_argument("--mean", type=float, default=0.0,
                        help="mean of tail lengths; 0: a quarter of the budget")
    parser.add_argument("--decode_slots", type=int, default=32,
                        help="responses decoded at once with tail lengths")
    parser.add_argument("--lanes", type=int, default=0,
                        help="prompts held at once with tail lengths; 0: by the engine")
    parser.add_argument("--streams", type=int, default=0,
                        help="engines side by side with tail lengths; 0: by the machine")
    parser.add_argument("--beside", default="",
                        help="another preset that is timed too, on full lengths")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True,
                        help="time transformers too, on the CPU")
    parser.set_defaults(slots=0)  # Of frames: transformers reads none.


def main(args: argparse.Namespace) -> Result:
    args.prompts = args.prompts or _PROMPTS[args.lengths]
    if args.lengths == "tail":
        return tail(args)
    made = tiny_rollout.make(args, endless=True)
    call, count, weights = _whole(made, args)
    calls, counts = [call], [count]
    if args.beside:
        other = argparse.Namespace(**{**vars(args), "preset": args.beside})
        call, count, _ = _whole(tiny_rollout.make(other, endless=True), args)
        calls, counts = [*calls, call], [*counts, count]
    seconds, busy = tiny_rollout.alternating(calls, args.repeats)
    ours, tokens = seconds[0], args.prompts * args.group * args.tokens
    metrics = {"tokens_per_second": tokens / ours, "seconds": ours, "flops": counts[0],
               "weight_bytes_per_second": args.tokens * weights / ours}  # Each step reads them all.
    if args.beside:
        share = counts[0] / counts[1]
        metrics |= {"beside_seconds": seconds[1], "beside_flops": counts[1],
                    "seconds_per_flop_ratio": share * seconds[1] / ours,
                    "processor_seconds_per_flop_ratio": share * busy[1] / busy[0]}
    if args.torch and all(map(importlib.util.find_spec, ("transformers", "torch"))):
        theirs = torch_seconds(made.model.config, np.asarray(made.prompts.tokens), args)
        metrics |= {"speedup_vs_torch": theirs / ours, "torch_tokens_per_second": tokens / theirs}
    return Result("rollout", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})


def _whole(made: tiny_rollout.Toy, args: argparse.Namespace
           ) -> tuple[Callable[[], Any], float, int]:
    """A call that samples every response, its operations, and bytes of the weights it reads."""
    graphdef, state = nnx.split(made.model)
    rng = jax.random.key(args.seed)

    def sampled(graphdef: Any, state: Any) -> Any:
        return generate(graphdef, (state,), made.prompts, rng, made.spec, args.group).tokens

    plain, _ = nnx.split(nnx.eval_shape(lambda: Thinker(  # Kernels would hide their operations.
        dataclasses.replace(made.model.config, attention="xla"), nnx.Rngs(0))))
    weights = sum(value.nbytes for path, value in nnx.to_flat_state(state) if path[0] != "vision")
    return (functools.partial(sampled, graphdef, state),
            flops.count(functools.partial(sampled, plain), state, turns=args.tokens), weights)


def tail(args: argparse.Namespace) -> Result:
    """The engine beside the static loop and transformers, on responses of drawn lengths."""
    made = tiny_rollout.make(args, endless=True)
    graphdef, state = nnx.split(made.model)
    rows = args.prompts * args.group
    lengths = tiny_rollout.tail_lengths(rows, args.tokens, args.mean or args.tokens / 4, args.seed)
    keys = row_keys(jax.random.key(args.seed), rows)
    each = args.decode_slots // args.group
    if args.decode_slots % args.group or args.prompts % max(each, 1):
        raise InputError("--decode_slots", f"{args.decode_slots} for {args.prompts} prompts of "
                         f"{args.group} responses", "The static loop needs whole groups: use a "
                         "multiple of --group that divides all responses")
    parts = [(start, start + each) for start in range(0, args.prompts, each)]
    batches = [tiny_rollout.rows(made.prompts, np.arange(*part)) for part in parts]
    longest = [int(lengths[first * args.group : last * args.group].max()) for first, last in parts]

    def static() -> list[Rollout]:
        return [generate(graphdef, (state,), batch, keys[first * args.group : last * args.group],
                         made.spec, args.group, limit=np.int32(limit))
                for batch, (first, last), limit in zip(batches, parts, longest, strict=True)]

    engines: dict[Engine, int] = {}

    def refilled(on_segment: Callable[[Engine], None] | None = None) -> Rollout:
        return rollout(graphdef, (state,), made.prompts, keys, made.spec, args.group,
                       slots=args.decode_slots, lanes=args.lanes, streams=args.streams,
                       limits=lengths, on_segment=on_segment)

    def counted(engine: Engine) -> None:
        engines[engine] = int(engine.state.turns)

    # In turn, so that what else the machine does meets both.
    times, busy = tiny_rollout.alternating([refilled, static], args.repeats)
    got, want = jax.device_get(refilled(counted)), [jax.device_get(part) for part in static()]
    said = np.arange(args.tokens) < lengths[:, None]
    wrong = int(np.sum(said & (got.tokens != np.concatenate([part.tokens for part in want]))))
    wrong += int(np.sum(said != got.mask))
    known = np.concatenate([part.log_probs for part in want])
    tokens = int(lengths.sum())
    decoded = sum(turns * engine.shape.slots for engine, turns in engines.items())
    metrics = {
        "speedup_vs_static": times[1] / times[0],
        "processor_speedup_vs_static": busy[1] / busy[0], "token_mismatches": wrong,
        "max_abs_logp_diff": float(np.abs(np.where(said, got.log_probs - known, 0.0)).max()),
        "tokens_per_second": tokens / times[0], "static_tokens_per_second": tokens / times[1],
        "seconds": times[0], "static_seconds": times[1],
        "streams": len(engines), "turns": decoded / args.decode_slots,
        "static_turns": sum(longest), "busy_share": tokens / decoded,
        "latents_share": float((got.latent_index >= 0).sum() / tokens),
        "mean_length": tokens / rows}
    if args.torch and all(map(importlib.util.find_spec, ("transformers", "torch"))):
        theirs = torch_seconds(made.model.config, np.asarray(made.prompts.tokens), args,
                               list(zip(parts, longest, strict=True)))
        metrics |= {"speedup_vs_torch": theirs / times[0],
                    "torch_tokens_per_second": tokens / theirs}
    return Result("rollout", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})


def torch_seconds(config: ModelConfig, prompts: np.ndarray, args: argparse.Namespace,
                  parts: Sequence[tuple[tuple[int, int], int]] | None = None) -> float:
    """Best time of ``transformers`` sampling the same.

    Args:
      parts: ((first, last) prompt, tokens) of calls made one after the other; by default one call
        for all.
    """
    import torch
    import transformers

    d = config.decoder
    torch.manual_seed(args.seed)
    if d.width // d.heads != d.head_dim:
        return math.nan
    settings = transformers.AutoConfig.for_model(
        **family(config.family, "bench").decoder_to_hf(config))
    model: Any = transformers.AutoModelForCausalLM.from_config(settings).eval()
    ids = torch.from_numpy(prompts).long()

    def once() -> Any:
        with torch.inference_mode():
            for (first, last), tokens in parts or [((0, len(ids)), args.tokens)]:
                own = ids[first:last]
                model.generate(
                    own, attention_mask=torch.ones_like(own), do_sample=True, top_k=0, top_p=1.0,
                    num_return_sequences=args.group, max_new_tokens=tokens,
                    min_new_tokens=tokens, pad_token_id=d.vocab - 1)

    return tiny_rollout.seconds(once, args.repeats)
