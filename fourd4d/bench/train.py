"""A DIFT step beside the same step in PyTorch, and beside one that reads kept features.

    python -m fourd4d.bench train --json train.json

One architecture at random weights, rows of one shape: frozen vision encoder, decoder forward
and backward, losses, AdamW. PyTorch (``[parity]``) runs transformers' model on the CPU, as the
published trainer does: every frame and overlay encoded in each step, logits at every token. The
cached step is fed what ``config.data.feature_cache`` keeps. ``padding_share`` is that of the rows.
Calls take turns, and the best of each counts.

    python -m fourd4d.bench train --no-torch --beside tiny3 --repeats 9

times the step of another preset too, in turn with the first: ``seconds_per_flop_ratio`` is what an
operation of the other's takes, in those of this one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from fourd4d.bench import fit
from fourd4d.bench.common import tiny_rollout
from fourd4d.bench.common.result import Result
from fourd4d.core.batch import Batch, BatchShape, VisionFeatures
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.dift.step import DiftSpec, update
from fourd4d.models import ModelConfig, Thinker, preset, preset_protocol
from fourd4d.models.families import family
from fourd4d.parallel import DEFAULT_RULES, host_to_global, make_mesh, use
from fourd4d.train import OptimizerSpec, create_state, make_optimizer


def arguments(parser: argparse.ArgumentParser) -> None:
    fit.step_arguments(parser, preset="tiny", mesh="single", rows=4)
    parser.set_defaults(text=128, remat="none")
    parser.add_argument("--layers", type=int, default=0, help="of the decoder; 0: the preset's")
    parser.add_argument("--width", type=int, default=0, help="of the decoder; 0: the preset's")
    parser.add_argument("--repeats", type=int, default=3, help="timings; the best counts")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batch")
    parser.add_argument("--beside", default="", help="another preset, whose step is timed too")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True,
                        help="time transformers too, on the CPU")


def main(args: argparse.Namespace) -> Result:
    config, shape, rows = _asked(args.preset, args)
    mesh, rules = make_mesh(args.mesh), DEFAULT_RULES.replicating("kv_heads")
    counts = [_operations(args.preset, args, mesh, rules)]
    with use(mesh, rules):
        batch = host_to_global(rows, mesh, rules)
        say("compiling both steps", stderr=True)
        calls = [_step(config, args, mesh, rules, batch, cached) for cached in (False, True)]
        if args.beside:
            counts.append(_operations(args.beside, args, mesh, rules))
            other, _, theirs = _asked(args.beside, args)
            calls.append(_step(other, args, mesh, rules, host_to_global(theirs, mesh, rules),
                               False))
        if args.torch and all(map(importlib.util.find_spec, ("transformers", "torch"))):
            calls.append(torch_step(config, rows, args.seed))
        else:
            say("PyTorch is left out: --no-torch, or [parity] is not installed", stderr=True)
        (plain, cached, *more), busy = tiny_rollout.alternating(calls, args.repeats)
    metrics: dict[str, float | int] = {
        "seconds_per_step": plain, "seconds_per_step_cached": cached,
        "tokens_per_second": shape.rows * shape.length / plain,
        "flops": counts[0],
        "speedup_cached": plain / cached,
        "padding_share": float(np.mean(rows.segment_ids == 0))}
    if args.beside:
        beside = more.pop(0)
        metrics |= {"beside_seconds_per_step": beside, "beside_flops": counts[1],
                    "seconds_per_flop_ratio": beside / counts[1] / (plain / counts[0]),
                    "processor_seconds_per_flop_ratio": (
                        busy[2] / counts[1] / (busy[0] / counts[0]))}
    if more:
        metrics |= {"speedup_vs_torch": more[0] / plain,
                    "speedup_vs_torch_cached": more[0] / cached,
                    "processor_speedup_vs_torch": busy[-1] / busy[0],
                    "torch_seconds_per_step": more[0]}
    return Result("train", metrics, {
        "config": {k: v for k, v in vars(args).items() if k not in ("name", "json")},
        "mesh": dict(mesh.shape), "batch": dataclasses.asdict(shape),
        "processor_seconds": busy})


def _asked(name: str, args: argparse.Namespace) -> tuple[ModelConfig, BatchShape, Batch]:
    """A preset's model and rows for it."""
    protocol = preset_protocol(name)
    config = dataclasses.replace(
        tiny_rollout.resized(preset(name), args.layers, args.width),
        param_dtype=args.param_dtype, remat=args.remat, attention=args.attention)
    shape = fit.budget(protocol, args.rows, args.frames, args.overlays, args.text)
    return config, shape, Batch.fake(shape, protocol, seed=args.seed)


def _operations(name: str, args: argparse.Namespace, mesh: Any, rules: Any) -> float:
    """Operations of a preset's step from patches. Kernels would hide theirs."""
    config, shape, _ = _asked(name, args)
    return fit.operations(dataclasses.replace(config, attention="xla"), preset_protocol(name),
                          shape, mesh, rules=rules, accumulate=args.accumulate)


def _step(config: ModelConfig, args: argparse.Namespace, mesh: Any, rules: Any, batch: Batch,
          cached: bool) -> Callable[[], Any]:
    """A call that makes one update, from patches or from features."""
    tx = make_optimizer(OptimizerSpec())
    graphdef, state = create_state(lambda rngs: Thinker(config, rngs), args.seed, tx, mesh, rules,
                                   fit.DECODER_ONLY)
    if cached:
        features = jax.jit(lambda state, vision: nnx.merge(
            graphdef, state.params, state.frozen).encode(vision))(state, batch.vision)
        batch = dataclasses.replace(batch, vision=VisionFeatures(features))
    step = jax.jit(functools.partial(update, graphdef=graphdef, tx=tx, spec=DiftSpec(),
                                     accumulate=args.accumulate), donate_argnums=0)
    now = [state]

    def once() -> Any:
        now[0], metrics = step(now[0], batch)
        return metrics

    return once


def torch_step(config: ModelConfig, rows: Batch, seed: int) -> Callable[[], Any]:
    """The same update by transformers' model, in float32.

    Raises:
      InputError: a family that the transformers of the extra ``parity`` does not compare with.
    """
    import torch
    import transformers

    if family(config.family, "bench").PARITY[0] != "parity":
        raise InputError("--preset", f"no PyTorch step of {config.family}", "Give --no-torch")
    torch.manual_seed(seed)
    model: Any = transformers.AutoModelForImageTextToText.from_config(
        transformers.AutoConfig.for_model(**family(config.family, "bench").to_hf(
            config, "float32"))).train()
    model.visual.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01)
    vision, overlays = rows.vision, rows.overlays
    b, f, w, m, c = vision.patches.shape
    side = math.isqrt(w * m)
    if side * side != w * m:
        raise InputError("--preset", f"{w} windows of {m} patches are no square",
                         "Give --no-torch")
    pixels = torch.from_numpy(np.asarray(vision.patches).reshape(-1, c))
    grid = torch.tensor([[1, side, side]] * (b * f))
    tokens, vision_index, latent_index = (
        torch.from_numpy(np.asarray(x)).long()
        for x in (rows.tokens, rows.vision_index, rows.latent_index))
    slot = torch.from_numpy(np.asarray(overlays.slot)).long()
    pool = torch.from_numpy(np.asarray(overlays.pool))
    positions = torch.from_numpy(np.asarray(rows.positions)).long()
    mask = torch.from_numpy(np.asarray(rows.segment_ids != 0)).long()
    weights = torch.from_numpy(np.asarray(rows.text_weights))
    functional = torch.nn.functional
    at_vision, at_latent = (vision_index >= 0)[..., None], (latent_index >= 0)[..., None]

    def taken(source: Any, index: Any) -> Any:
        return source.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, source.shape[-1]))

    def once() -> Any:
        with torch.no_grad():
            features = model.visual(pixels, grid_thw=grid).view(b, f, -1, config.decoder.width)
            chosen = features[torch.arange(b)[:, None], slot.clamp(min=0)]
            targets = torch.einsum("boru,boud->bord", pool, chosen).flatten(1, 2)
        embeds = model.get_input_embeddings()(tokens)
        embeds = torch.where(at_vision, taken(features.flatten(1, 2), vision_index), embeds)
        embeds = torch.where(at_latent, taken(targets, latent_index), embeds)
        out = model(inputs_embeds=embeds, position_ids=positions, attention_mask=mask,
                    use_cache=False, output_hidden_states=True)
        each = functional.cross_entropy(out.logits[:, :-1].float().flatten(0, 1),
                                        tokens[:, 1:].flatten(), reduction="none")
        text = (each * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        cosine = functional.cosine_similarity(
            out.hidden_states[-1][:, :-1], taken(targets, latent_index)[:, 1:], dim=-1)
        present = (latent_index[:, 1:] >= 0).float()
        loss = 0.1 * text + ((1 - cosine) * present).sum() / present.sum().clamp(min=1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        adam.zero_grad()
        return loss.item()

    return once
