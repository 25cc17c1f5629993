"""Our model and preprocessing beside transformers' own, on random weights and media.

    python -m fourd4d.bench parity --seed 7 --shapes 3b 7b --json parity.json
    python -m fourd4d.bench parity --seed 8 --layers 3 --vision-layers 9 --grids 9x5 --videos 7@2.5
    python -m fourd4d.bench parity --family FAMILY

For each published size of the family: a model of its depths and ratios with narrow layers is built
and saved by transformers and opened here. Compared are the processor's text, ids, position ids,
grids and pixels (resized by Pillow's bicubic, as transformers' NumPy image processor does), the
output of every block, logits of every row padded on either side and packed, bfloat16 against
float32, greedy tokens, latents against full forwards without a cache, and a directory exported from
here. One sequence is longer than 4,096 tokens. Each family is compared with a release of its own:
``pip install "fourd4d[parity]"``, or ``"fourd4d[parity5]"`` in an environment of its own. Where
transformers resizes by torchvision, logits are those of frames resized by Pillow, and how far its
own resizing is from that is told apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import tempfile
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from fourd4d.bench.common.result import Result
from fourd4d.bench.hf_parity import reference
from fourd4d.bench.hf_parity.compare import (
    CASE_COLUMNS,
    Found,
    compare_export,
    compare_greedy,
    compare_latents,
    compare_long,
    compare_rates,
    compare_rows,
    config_of,
    parse_grid,
    parse_video,
)
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import plain_console
from fourd4d.models import ModelConfig
from fourd4d.models.families import families, family
from fourd4d.models.presets import published

_MISSING = {"positions": "given", "levels": "none"}


def run(name: str, seed: int, number: int, args: argparse.Namespace) -> Found:
    """Every comparison for one shape."""
    found, rng = Found(name), np.random.default_rng((seed, number))
    with tempfile.TemporaryDirectory() as folder:
        pair = reference.make_pair(config_of(name, args, args.layers), Path(folder), seed)
        protocol = pair.ours.processor.protocol
        rows = reference.make_rows(
            rng, args.grids, args.videos, token=protocol.patch_size * protocol.merge,
            counts=() if protocol.times is None else (1, 64))
        named = {row.name: row for row in rows}
        compare_rows(pair, rows, found)
        if number == 0:
            compare_rates(pair, found)
        ragged = [named[key] for key in ("text", "odd image", "video, even", "image and videos")]
        compare_greedy(pair, ragged, found, args.tokens)
        compare_latents(pair, ragged[:3], found, rng, args.latent_tokens)
        compare_export(pair, rows, found)
    if number == 0:
        with tempfile.TemporaryDirectory() as folder:
            few = reference.make_pair(config_of(name, args, min(args.layers or 4, 4)), Path(folder),
                                      seed)
            found.cases.append(compare_long(few, rng))
    return found


def show_tables(found: Found, console: Console) -> None:
    """What each row and each stage gave."""
    table = Table(title=f"{found.shape}: rows against transformers")
    table.add_column("row")
    for _, title in CASE_COLUMNS:
        table.add_column(title, justify="right")
    for case in found.cases:
        values = [getattr(case, field) for field, _ in CASE_COLUMNS]
        table.add_row(case.name, *(_MISSING.get(field, "") if v is None else f"{v:,}" if isinstance(
            v, int) else f"{v:.2g}" for (field, _), v in zip(CASE_COLUMNS, values, strict=True)))
    console.print(table)
    table = Table(title=f"{found.shape}: largest |Δ| of a stage's output / its rms, float32")
    table.add_column("stage")
    table.add_column("value", justify="right")
    for stage, value in found.stages.items():
        table.add_row(stage, f"{value:.2g}")
    console.print(table)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--family", default=ModelConfig.family, choices=families(),
                        help="architecture that is compared")
    parser.add_argument("--shapes", nargs="+", default=None,
                        help="sizes whose shape of code is compared; by default all of the family")
    parser.add_argument("--layers", type=int, default=0,
                        help="decoder layers; 0 is the published depth")
    parser.add_argument("--vision-layers", type=int, default=0,
                        help="encoder layers; 0 is the published depth")
    parser.add_argument("--head-dim", type=int, default=0,
                        help="features of a decoder's head; 0 is 12, or 20 where position axes "
                        "take turns")
    parser.add_argument("--vision-head-dim", type=int, default=20,
                        help="features of one of the encoder's two heads")
    parser.add_argument("--grids", type=parse_grid, nargs="+", default=[], metavar="ROWSxCOLUMNS",
                        help="one more row, with images of so many merged tokens")
    parser.add_argument("--videos", type=parse_video, nargs="+", default=[], metavar="FRAMES@FPS",
                        help="one more row, with such videos")
    parser.add_argument("--tokens", type=int, default=128, help="greedy tokens compared")
    parser.add_argument("--latent-tokens", type=int, default=48,
                        help="decoded with latents and recomputed")


def check_installed(name: str) -> None:
    """Raises InputError unless the release of transformers for this family is there."""
    extra, release = family(name, "--family").PARITY
    remedy = f'pip install "fourd4d[{extra}]", in an environment of its own'
    wanted = ["torch", "transformers", *(["torchvision"] if release >= 5 else [])]
    if missing := [module for module in wanted if importlib.util.find_spec(module) is None]:
        raise InputError("parity", f"{' and '.join(missing)} not installed", remedy)
    import transformers

    if int(transformers.__version__.partition(".")[0]) != release:
        raise InputError("parity", f"{name} is compared with transformers {release}; installed is "
                         f"{transformers.__version__}", remedy)
    transformers.logging.set_verbosity_error()


def main(args: argparse.Namespace) -> Result:
    """Runs every comparison for every shape, prints their tables, and sums them up."""
    check_installed(args.family)
    names = args.shapes or published(args.family)
    if unknown := sorted(set(names) - set(published(args.family))):
        raise InputError("--shapes", f"{args.family} has no {', '.join(unknown)}",
                         f"Choose among {', '.join(published(args.family))}")
    shapes, console = [], plain_console(width=160)
    for number, name in enumerate(names):
        with jax.default_matmul_precision("highest"):
            shapes.append(run(name, args.seed, number, args))
        show_tables(shapes[-1], console)
    cases = [case for found in shapes for case in found.cases]
    return Result("parity", {
        "cases": len(cases),
        "max_abs_logit_diff_fp32": max(max(c.right, c.left, c.packed) for c in cases),
        "max_layer_diff_fp32": max(max(found.stages.values()) for found in shapes),
        "bf16_rms_logit_error": max(found.error16[0] for found in shapes),
        "bf16_rms_logit_error_transformers": max(found.error16[1] for found in shapes),
        "bf16_error_ratio": max(found.error16[0] / found.error16[1] for found in shapes),
        "greedy_mismatches": sum(found.greedy for found in shapes),
        "greedy_compared": sum(found.greedy_compared for found in shapes),
        "greedy_ties": sum(found.ties for found in shapes),
        "text_mismatches": sum(c.text for c in cases),
        "token_id_mismatches": sum(c.ids for c in cases),
        "position_id_mismatches": sum(c.positions or 0 for c in cases) + sum(
            found.rate_positions for found in shapes),
        "grid_mismatches": sum(c.grids for c in cases),
        "pixel_max_abs_diff": max(c.pixels for c in cases),
        "resizing_max_levels": max([c.levels for c in cases if c.levels is not None], default=0.0),
        "latent_oracle_max_abs_diff": max(found.latents for found in shapes),
        "export_mismatches": sum(found.exported for found in shapes),
        "longest_sequence": max(c.tokens for c in cases),
    }, {"seed": args.seed, "resize": "Pillow bicubic with antialiasing",
        "config": {name: getattr(args, name) for name in (
            "family", "layers", "vision_layers", "head_dim", "vision_head_dim", "grids", "videos",
            "tokens", "latent_tokens")} | {"shapes": list(names)},
        "shapes": [dataclasses.asdict(found) for found in shapes]})
