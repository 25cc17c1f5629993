"""Tokens a second of sampling groups of responses, beside ``transformers.generate``.

    python -m fourd4d.bench rollout --json rollout.json

Both sample the same number of tokens with the same architecture at random weights, from text
prompts of one length, without early ends. ``speedup_vs_torch`` needs the ``[parity]`` extra.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from typing import Any

import jax
import numpy as np
from flax import nnx

from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.models import ModelConfig
from fourd4d.models.families import family
from fourd4d.sampling import generate


def arguments(parser: argparse.ArgumentParser) -> None:
    tiny_rollout.arguments(parser, prompts=16, tokens=112)
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True,
                        help="time transformers too, on the CPU")
    parser.set_defaults(slots=0)


def main(args: argparse.Namespace) -> Result:
    made = tiny_rollout.make(args, endless=True)
    graphdef, state = nnx.split(made.model)
    rng = jax.random.key(args.seed)
    ours = tiny_rollout.seconds(
        lambda: generate(graphdef, (state,), made.prompts, rng, made.spec, args.group).tokens,
        args.repeats)
    tokens = args.prompts * args.group * args.tokens
    weights = sum(value.nbytes for path, value in nnx.to_flat_state(state) if path[0] != "vision")
    metrics = {"tokens_per_second": tokens / ours, "seconds": ours,
               "weight_bytes_per_second": args.tokens * weights / ours}  # Each step reads them all.
    if args.torch and all(map(importlib.util.find_spec, ("transformers", "torch"))):
        theirs = torch_seconds(made.model.config, np.asarray(made.prompts.tokens), args)
        metrics |= {"speedup_vs_torch": theirs / ours, "torch_tokens_per_second": tokens / theirs}
    return Result("rollout", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})


def torch_seconds(config: ModelConfig, prompts: np.ndarray, args: argparse.Namespace) -> float:
    """Best time of ``transformers`` sampling the same."""
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
            return model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
                num_return_sequences=args.group, max_new_tokens=args.tokens,
                min_new_tokens=args.tokens, pad_token_id=0)

    return tiny_rollout.seconds(once, args.repeats)
