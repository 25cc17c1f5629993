"""Our model and preprocessing beside transformers' own, on random weights and media.

    python -m fourd4d.bench parity --seed 7 --shapes 3b 7b --json parity.json

Each case exports a random model, lets transformers open it and write it again with weights of its
own, and opens that. Needs ``pip install "fourd4d[parity]"``. Sizes are reduced; the published
ratios of heads, full blocks and tied heads are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d import build, convert
from fourd4d.bench.report import Result
from fourd4d.core.batch import Batch
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.data import collate, shape_for
from fourd4d.models import ModelConfig, Thinker, preset
from fourd4d.parallel import make_mesh
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.processing.media import Image, Video
from fourd4d.processing.vision import frames_to_slots, token_offsets
from fourd4d.sampling import SamplingSpec, sample

SHAPES = ("3b", "7b", "32b", "72b")
_TEXT = ("Which way does it go?", "Left or right?\n\nA. Left\nB. Right", "Say what moves.")


def reduced(name: str) -> ModelConfig:
    """A published size with narrow layers, few of them, and 4-pixel patches."""
    full = preset(name)
    v, d = full.vision, full.decoder
    ratio = d.heads // d.kv_heads
    kv_heads = 2 if ratio < 8 else 1
    heads = ratio * kv_heads
    vision = dataclasses.replace(v, width=32, layers=4, heads=2, mlp=v.mlp // 45,
                                 full_layers=(1, 3), patch_size=4, window=16)
    decoder = dataclasses.replace(
        d, width=16 * heads, layers=3, heads=heads, kv_heads=kv_heads, head_dim=16,
        mlp=24 * heads, vocab=1024, mrope_sections=(2, 3, 3), valid_vocab=None)
    return dataclasses.replace(full, vision=vision, decoder=decoder, dtype="float32",
                               remat="none")


@dataclasses.dataclass
class Pair:
    """transformers' model and processor, and ours with the same weights."""

    model: Any
    official: Any
    ours: build.Bundle


def make_pair(config: ModelConfig, folder: Path, seed: int) -> Pair:
    """Both frameworks' model, its weights drawn by torch and saved by transformers."""
    import torch
    import transformers

    words = tiny_tokenizer()
    processor = Processor(words, config.protocol(min_pixels=256, max_pixels=2048, system=""))
    graphdef, tree = nnx.split(Thinker(config, nnx.Rngs(seed)))
    convert.export_hf(build.Bundle(config, processor, graphdef, tree), folder / "exported")
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder / "exported", attn_implementation="eager").eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:  # Zero biases and unit scales would hide mistakes.
                value.copy_(torch.randn_like(value) * 0.2 + (0.0 if "bias" in name else 1.0))
            else:
                fan_in = 4 if "embed_tokens" in name else value[0].numel()
                value.copy_(torch.randn_like(value) * 0.8 / fan_in**0.5)
    model.save_pretrained(folder / "theirs", safe_serialization=True)
    processor.save(folder / "theirs")
    mesh = make_mesh("data=1", jax.local_devices()[:1])
    official = transformers.AutoProcessor.from_pretrained(folder / "theirs")
    return Pair(model, official, convert.open_hf(folder / "theirs", mesh, dtype="float32"))


def make_media(rng: np.random.Generator) -> list[list[Image | Video]]:
    """Rows of random media: none, images of odd sizes, videos of odd and even lengths, mixed."""

    def image() -> Image:
        return Image(rng.integers(0, 256, (*rng.integers(17, 90, 2), 3), dtype=np.uint8))

    def video() -> Video:
        count, rate = int(rng.integers(2, 8)), float(rng.choice([0.5, 1, 2, 3, 24, 30]))
        size = rng.integers(17, 60, 2)
        return Video(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8),
                     np.arange(count) / rate)

    return [[], [image()], [image(), image(), image()], [video()], [image(), video(), video()]]


def their_inputs(pair: Pair, media: Sequence[Sequence[Any]], questions: Sequence[str], side: str
                 ) -> Any:
    """The official processor's inputs of a padded batch."""
    import PIL.Image

    texts = [pair.ours.processor.prompt_text(q, m)
             for q, m in zip(questions, media, strict=True)]
    flat = [m for row in media for m in row]
    images = [PIL.Image.fromarray(m.pixels) for m in flat if isinstance(m, Image)]
    videos = [m.frames for m in flat if isinstance(m, Video)]
    rates = [1 / (m.timestamps[1] - m.timestamps[0]) for m in flat if isinstance(m, Video)]
    pair.official.tokenizer.padding_side = side
    return pair.official(text=texts, images=images or None, videos=videos or None,
                         fps=rates or None, padding=True, return_tensors="pt")


def _patches_in_their_order(example: Example, media: Sequence[Any], kind: type, processor: Processor
                            ) -> list[np.ndarray]:
    protocol, rows, slot = processor.protocol, [], 0
    for medium in media:
        _, grid = frames_to_slots(medium.frames, protocol)
        if isinstance(medium, kind):
            own = example.slots.patches[slot : slot + grid.slots]
            own = own.reshape(grid.slots, -1, protocol.merge**2, protocol.patch_dim)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            rows.append(own[:, offsets].reshape(-1, protocol.patch_dim))
        slot += grid.slots
    return rows


@dataclasses.dataclass
class Differences:
    """What ``compare`` found; see ``main`` for the names."""

    cases: int = 0
    ids: int = 0
    positions: int = 0
    pixels: float = 0.0
    logits: float = 0.0
    greedy: int = 0
    latents: float = 0.0


@nnx.jit
def _logits(model: Thinker, batch: Batch) -> jax.Array:
    return model.logits(model(batch))


def compare(pair: Pair, rng: np.random.Generator, found: Differences, side: str) -> None:
    """One ragged batch: ids, positions, pixels and logits."""
    import torch

    media, processor = make_media(rng), pair.ours.processor
    questions = [str(q) for q in rng.choice(_TEXT, len(media))]
    examples = [processor.prompt(q, m) for q, m in zip(questions, media, strict=True)]
    batch = collate(examples, shape_for(examples, rows=len(examples)), processor.protocol)
    inputs = their_inputs(pair, media, questions, side)
    real = inputs["attention_mask"].numpy() > 0
    ids = inputs["input_ids"].numpy()
    places = pair.model.get_rope_index(
        inputs["input_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw"),
        inputs.get("second_per_grid_ts"), inputs["attention_mask"])[0].numpy()
    with torch.no_grad():
        theirs = pair.model(**inputs, use_cache=False).logits.numpy()
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(_logits(pair.ours.model, jax.tree.map(jnp.asarray, batch)))
    for row, example in enumerate(examples):
        own = np.asarray(batch.segment_ids[row]) > 0
        found.cases += 1
        if own.sum() != real[row].sum():
            raise InputError("parity", f"{own.sum()} tokens, transformers has {real[row].sum()}")
        found.ids += int((example.tokens != ids[row][real[row]]).sum())
        found.positions += int((example.positions != places[:, row][:, real[row]]).sum())
        found.logits = max(found.logits, float(np.abs(
            ours[row][own] - theirs[row][real[row]]).max()))
    for key, kind in (("pixel_values", Image), ("pixel_values_videos", Video)):
        mine = [p for e, m in zip(examples, media, strict=True)
                for p in _patches_in_their_order(e, m, kind, processor)]
        found.pixels = max(found.pixels, float(np.abs(
            np.concatenate(mine) - inputs[key].numpy()).max()))


def compare_greedy(pair: Pair, rng: np.random.Generator, found: Differences, tokens: int) -> None:
    """Greedy decoding of a ragged batch, token by token."""
    import torch

    media, processor = make_media(rng), pair.ours.processor
    questions = [str(q) for q in rng.choice(_TEXT, len(media))]
    examples = [processor.prompt(q, m) for q, m in zip(questions, media, strict=True)]
    batch = collate(examples, shape_for(examples, rows=len(examples)), processor.protocol)
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=tokens,
                           temperature=0.0, imagery=False, max_latents=0)
    rollout = sample(pair.ours.model, jax.tree.map(jnp.asarray, batch), jax.random.key(0), spec)
    never = sorted({*spec.forbidden, spec.latent_start,
                    *range(spec.vocab, pair.ours.config.decoder.vocab)})
    with torch.no_grad():
        out = pair.model.generate(
            **their_inputs(pair, media, questions, "left"), do_sample=False, max_new_tokens=tokens,
            suppress_tokens=never, eos_token_id=list(spec.ends)).numpy()
    theirs = out[:, -(out.shape[1] - max(e.length for e in examples)):]
    for row, mask in enumerate(np.asarray(rollout.mask)):
        mine = np.asarray(rollout.tokens)[row][mask]
        other = theirs[row][: len(mine)]
        found.greedy += int((mine[: len(other)] != other).sum()) + len(mine) - len(other)


def compare_latents(pair: Pair, rng: np.random.Generator, found: Differences, tokens: int,
                    blocks: int = 2) -> None:
    """Decoding with imagery against full forwards of transformers, without any cache.

    The oracle takes the sampled tokens; each latent is the last hidden state of a forward pass
    over everything before it.
    """
    import torch

    media, processor = make_media(rng)[:3], pair.ours.processor
    questions = [str(q) for q in rng.choice(_TEXT, len(media))]
    examples = [processor.prompt(q, m) for q, m in zip(questions, media, strict=True)]
    batch = collate(examples, shape_for(examples, rows=len(examples)), processor.protocol)
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=tokens)
    # Three tokens, drawn almost evenly: every row imagines, at steps of its own, and none ends.
    allowed = {spec.latent_start, *rng.choice(np.arange(300, 900), 2).tolist()}
    spec = dataclasses.replace(
        spec, max_latents=blocks * spec.latent_size, temperature=20.0,
        forbidden=tuple(i for i in range(spec.vocab) if i not in allowed))
    rollout = sample(pair.ours.model, jax.tree.map(jnp.asarray, batch), jax.random.key(1), spec)
    kept = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        kept["embeds"], kept["positions"] = kwargs["inputs_embeds"], kwargs["position_ids"]

    for row, (question, one) in enumerate(zip(questions, media, strict=True)):
        hook = pair.model.model.register_forward_pre_hook(keep, with_kwargs=True)
        with torch.no_grad():
            pair.model.rope_deltas = None
            pair.model(**their_inputs(pair, [one], [question], "right"), use_cache=False)
        hook.remove()
        embeds, places = kept["embeds"], kept["positions"]
        count = 0
        for token, index in zip(np.asarray(rollout.tokens[row]),
                                np.asarray(rollout.latent_index[row]), strict=True):
            with torch.no_grad():
                if index >= 0:
                    hidden = pair.model.model(inputs_embeds=embeds, position_ids=places,
                                              use_cache=False).last_hidden_state[:, -1:]
                    mine = np.asarray(rollout.latents[row, index])
                    found.latents = max(found.latents, float(np.abs(
                        mine - hidden[0, 0].numpy()).max()))
                    count += 1
                else:
                    hidden = pair.model.get_input_embeddings()(torch.tensor([[int(token)]]))
            embeds = torch.cat([embeds, hidden], 1)
            places = torch.cat([places, places.amax() + torch.ones(3, 1, 1, dtype=places.dtype)],
                               2)
        if count != blocks * spec.latent_size:
            raise InputError("parity", f"row {row} has {count} latents", "Use another seed, or "
                             "more tokens")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=128, help="greedy tokens compared")
    parser.add_argument("--latent-tokens", type=int, default=48)


def main(args: argparse.Namespace) -> Result:
    """Runs every comparison for every shape."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError("parity", f"{error.name} is not installed",
                         'pip install "fourd4d[parity]"') from error
    found = Differences()
    for number, name in enumerate(args.shapes):
        rng = np.random.default_rng((args.seed, number))
        with tempfile.TemporaryDirectory() as folder:
            pair = make_pair(reduced(name), Path(folder), args.seed)
        with jax.default_matmul_precision("highest"):
            for side in ("right", "left"):
                compare(pair, rng, found, side)
            compare_greedy(pair, rng, found, args.tokens)
            compare_latents(pair, rng, found, args.latent_tokens)
    return Result("parity", {
        "cases": found.cases,
        "max_abs_logit_diff_fp32": found.logits,
        "greedy_mismatches": found.greedy,
        "token_id_mismatches": found.ids,
        "position_id_mismatches": found.positions,
        "pixel_max_abs_diff": found.pixels,
        "latent_oracle_max_abs_diff": found.latents,
    }, {"seed": args.seed, "config": {"shapes": list(args.shapes), "tokens": args.tokens}})
