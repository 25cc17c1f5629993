"""Comparisons of ids, positions, pixels, logits, layers, tokens and latents."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fourd4d.bench.hf_parity import reference
from fourd4d.bench.hf_parity.reference import Pair, Row
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.data import collate, shape_for
from fourd4d.data.collate import Packer, Size
from fourd4d.models import ModelConfig, Thinker
from fourd4d.models.presets import published
from fourd4d.models.scan import watching
from fourd4d.pretrained.huggingface import export_hf
from fourd4d.processing.media import Image, Video
from fourd4d.sampling import SamplingSpec, sample

SHAPES = published(ModelConfig.family)
TOLERANCE = 1e-4
_LONG = 4096


@dataclasses.dataclass
class Case:
    """What one row gave; see ``_CASE_COLUMNS`` for the meaning."""

    name: str
    tokens: int
    text: int = 0
    ids: int = 0
    positions: int | None = None
    grids: int = 0
    pixels: float = 0.0
    levels: float | None = None
    right: float = 0.0
    left: float = 0.0
    packed: float = 0.0
    ours16: float = 0.0
    theirs16: float = 0.0


CASE_COLUMNS = (
    ("tokens", "tokens"), ("text", "text ≠"), ("ids", "ids ≠"), ("positions", "positions ≠"),
    ("grids", "grids ≠"), ("pixels", "pixels max Δ"),
    ("levels", "resizing, levels of 255"),
    ("right", "logits max Δ, padded right"), ("left", "padded left"), ("packed", "packed"),
    ("ours16", "bf16 rms Δ, ours"), ("theirs16", "bf16 rms Δ, transformers'"),
)


@dataclasses.dataclass
class Found:
    """What one shape gave.

    Attributes:
      stages: largest difference of a stage's outputs, in units of their root mean square.
      rate_positions: position ids that differ, over frame rates and counts of frames; where times
        are text, ids as well.
      ties: rows whose greedy tokens part where transformers' two best logits are as close as
        ``TOLERANCE``; nothing after that is compared.
    """

    shape: str
    cases: list[Case] = dataclasses.field(default_factory=list)
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    rate_positions: int = 0
    greedy: int = 0
    greedy_compared: int = 0
    ties: int = 0
    latents: float = 0.0
    exported: int = 0
    error16: tuple[float, float] = (0.0, 0.0)


@nnx.jit
def _stages(model: Thinker, batch: Batch) -> dict[str, jax.Array]:
    """The model's forward pass with what every block gave."""
    with watching() as kept:
        features = model.encode(batch.vision)
        embeds = model.embed(batch.tokens, batch.vision_index, features)
        hidden, _ = model.decode(embeds, batch.positions, batch.segment_ids)
    found = dict(features=features, embeds=embeds, norm=hidden, logits=model.logits(hidden))
    *vision, found["layers"] = kept
    if vision:  # Text alone runs no encoder block.
        (found["blocks"],) = vision
    return found


def _forward(model: Thinker, batch: Batch) -> dict[str, np.ndarray]:
    found = _stages(model, jax.tree.map(jnp.asarray, batch))
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _shape(examples: Sequence[Example]) -> BatchShape:
    """Room for every example alone, and for the two shortest behind one another."""
    one = shape_for(examples)
    short = sorted(examples, key=lambda example: example.length)[:2]
    return dataclasses.replace(
        one, length=max(one.length, sum(e.length for e in short)),
        slots=max(one.slots, sum(len(e.slots.mask) for e in short)))


def _seats(examples: Sequence[Example], shape: BatchShape) -> list[tuple[int, int]]:
    """(row, segment) of each example of a packed batch."""
    packer, seats = Packer(shape), []
    for example in examples:
        packer.add(Size.of(example))
        row = packer.rows[-1]
        seats.append((row, packer.rows.count(row)))
    return seats


def _their_logits(model: Any, inputs: Any, positions: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**inputs, position_ids=torch.tensor(positions),
                     use_cache=False).logits.float().numpy()


def compare_rows(pair: Pair, rows: Sequence[Row], found: Found) -> None:
    """Text, ids, positions, grids, pixels, blocks and logits of a ragged batch."""
    processor = pair.ours.processor
    examples = [row.example(processor) for row in rows]
    shape = _shape(examples)
    found.cases = [Case(row.name, e.length) for row, e in zip(rows, examples, strict=True)]
    for case, row in zip(found.cases, rows, strict=True):
        case.text = int(processor.prompt_text(row.question, row.media)
                        != reference.their_text(pair.official, processor.protocol, row))
    model, truth = pair.ours.model, []
    for side in ("right", "left"):
        inputs = pair.inputs(rows, side)
        real = inputs["attention_mask"].numpy() > 0
        positions = reference.their_positions(pair.model, inputs)
        for number, (case, row, example) in enumerate(
                zip(found.cases, rows, examples, strict=True)):
            ids = inputs["input_ids"][number].numpy()[real[number]]
            case.ids += _differing(example.tokens, ids)
            if row.uneven and processor.protocol.times is None:
                # transformers knows frame rates only: it is given our ids.
                positions[:, number][:, real[number]] = example.positions
            else:
                case.positions = (case.positions or 0) + _differing(
                    example.positions, positions[:, number][:, real[number]])
        with reference.their_layers(pair.model) as theirs:
            logits = _their_logits(pair.model, inputs, positions)
        truth = [logits[i][real[i]] for i in range(len(rows))]
        batch = collate(examples, shape, processor.protocol, side=side)
        ours = _forward(model, batch)
        own = np.asarray(batch.segment_ids) > 0
        for i, case in enumerate(found.cases):
            setattr(case, side, _largest(ours["logits"][i][own[i]], truth[i]))
        if side == "right":
            _compare_pixels(rows, examples, inputs, found.cases, pair)
            if processor.protocol.times is not None:
                _compare_resizing(rows, examples, pair.inputs(rows, resized=False), inputs,
                                  found.cases, pair)
            found.stages = _compare_stages(pair, rows, batch, ours, theirs, real)
            kept16 = _logits16(pair, inputs, positions, batch)
            for i, case in enumerate(found.cases):
                case.ours16, case.theirs16 = (
                    _rms(logits[i][mask[i]] - truth[i]) for logits, mask in zip(
                        kept16, (own, real), strict=True))
    weights = [case.tokens for case in found.cases]
    found.error16 = (_pooled([c.ours16 for c in found.cases], weights),
                     _pooled([c.theirs16 for c in found.cases], weights))
    packed = collate(examples, shape, processor.protocol, pack=True)
    logits, seats = _forward(model, packed)["logits"], _seats(examples, shape)
    if max(segment for _, segment in seats) < 2:
        raise InputError("parity", "no row holds two examples", "Use another seed")
    for case, (row, segment), wanted in zip(found.cases, seats, truth, strict=True):
        case.packed = _largest(logits[row][packed.segment_ids[row] == segment], wanted)


def _logits16(pair: Pair, inputs: Any, positions: np.ndarray, batch: Batch
              ) -> tuple[np.ndarray, np.ndarray]:
    """Logits in bfloat16, ours and transformers', each from the files."""
    import torch
    import transformers

    model = reference.open_ours(pair.folder, dtype="bfloat16", param_dtype="bfloat16").model
    ours = _forward(model, batch)["logits"]
    half = transformers.AutoModelForImageTextToText.from_pretrained(
        pair.folder, torch_dtype=torch.bfloat16).eval()
    return ours, _their_logits(half, inputs, positions)


def _compare_pixels(rows: Sequence[Row], examples: Sequence[Example], inputs: Any,
                    cases: Sequence[Case], pair: Pair) -> None:
    for key, grid_key, kind in (("pixel_values", "image_grid_thw", Image),
                                ("pixel_values_videos", "video_grid_thw", Video)):
        if key not in inputs:
            continue
        theirs, at = inputs[key].numpy(), 0
        grids = iter(inputs[grid_key].tolist())
        for row, example, case in zip(rows, examples, cases, strict=True):
            for mine in reference.patches_in_their_order(example, row, kind, pair.ours.processor):
                size = int(np.prod(next(grids)))
                case.grids += size != len(mine)
                if size == len(mine):
                    case.pixels = max(case.pixels, _largest(mine, theirs[at : at + size]))
                at += size


def _compare_resizing(rows: Sequence[Row], examples: Sequence[Example], inputs: Any, resized: Any,
                      cases: Sequence[Case], pair: Pair) -> None:
    """Ids, grids and levels of media that transformers resizes by itself."""
    again = [Case(case.name, case.tokens) for case in cases]
    _compare_pixels(rows, examples, inputs, again, pair)
    scale = 255 * max(pair.ours.processor.protocol.image_std)
    for number, (case, own) in enumerate(zip(cases, again, strict=True)):
        case.grids += own.grids
        case.ids += _differing(inputs["input_ids"][number].numpy(),
                               resized["input_ids"][number].numpy())
        case.levels = own.pixels * scale


def _compare_stages(pair: Pair, rows: Sequence[Row], batch: Batch, ours: dict[str, np.ndarray],
                    theirs: dict[str, list[np.ndarray]], real: np.ndarray) -> dict[str, float]:
    """Largest relative difference of each stage; transformers encodes images, then videos."""
    processor, vision = pair.ours.processor, pair.ours.config.vision
    own, tokens = np.asarray(batch.segment_ids) > 0, np.asarray(batch.tokens)
    b, f, w, m, _ = batch.vision.patches.shape
    mask = np.asarray(batch.vision.mask).reshape(b, f, w * m)
    features = ours["features"].reshape(b, -1, ours["features"].shape[-1])
    found: dict[str, float] = {}

    def note(stage: str, mine: np.ndarray, other: np.ndarray) -> None:
        found[stage] = max(found.get(stage, 0.0), _largest(mine, other) / _rms(other))

    kinds = {type(medium) for row in rows for medium in row.media}
    calls = [(kind, pad) for kind, pad in ((Image, "<|image_pad|>"), (Video, "<|video_pad|>"))
             if kind in kinds]
    for call, (kind, pad) in enumerate(calls):
        places = reference.places_of_kind(rows, kind, processor, mask,
                                          windows=vision.position_table is None)
        for layer in range(vision.layers):
            block = ours["blocks"][layer]  # Windowed or flat, by the encoder.
            mine = block.reshape(b * f * w * m, -1)[places]
            note("blocks with full attention" if layer in vision.full_layers
                 else "blocks with windows", mine, theirs["blocks"][call * vision.layers + layer])
        fed = own & (tokens == processor.tokenizer.id(pad))
        index = np.asarray(batch.vision_index)
        mine = [features[i, index[i][fed[i]]] for i in range(b)]
        note("merged features", np.concatenate(mine), theirs["features"][call])
    width = theirs["embeds"][0].shape[-1]  # What DeepStack adds later lies behind.
    note("embeddings", ours["embeds"][own][:, :width], theirs["embeds"][0][real])
    for layer, values in enumerate(ours["layers"]):
        note("decoder layers", values[own], theirs["layers"][layer][real])
    note("final norm", ours["norm"][own], theirs["norm"][0][real])
    return found


def _differing(a: np.ndarray, b: np.ndarray) -> int:
    if a.shape != b.shape:
        raise InputError("parity", f"shapes {a.shape} and {b.shape}", "The prompts differ")
    return int((a != b).sum())


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        raise InputError("parity", f"shapes {a.shape} and {b.shape}", "The outputs differ")
    return float(np.abs(a - b).max())


def _rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


def _pooled(values: Sequence[float], weights: Sequence[int]) -> float:
    return float(np.sqrt(np.average(np.square(values), weights=weights)))


def compare_rates(pair: Pair, found: Found) -> None:
    """Position ids at every frame rate, for even and odd counts of frames.

    Where times are text, ids too: they hold the time of every frame slot.
    """
    protocol = pair.ours.processor.protocol
    side, text = protocol.patch_size * protocol.merge, protocol.times is not None
    for rate in reference.RATES:
        rows = [Row("", "", [Video(np.zeros((n, side, side, 3), np.uint8), np.arange(n) / rate)],
                    [rate]) for n in (1, 2, 5, 24, *((63,) if text else ()))]
        inputs = pair.inputs(rows)
        positions = reference.their_positions(pair.model, inputs)
        for number, row in enumerate(rows):
            real = inputs["attention_mask"][number].numpy() > 0
            example = row.example(pair.ours.processor)
            found.rate_positions += _differing(example.positions, positions[:, number][:, real])
            if text:
                found.rate_positions += _differing(example.tokens,
                                                   inputs["input_ids"][number].numpy()[real])


def compare_long(pair: Pair, rng: np.random.Generator) -> Case:
    """Ids, positions and logits of one sequence of more than 4,096 tokens."""
    processor, words = pair.ours.processor, "the red cube goes left and then it turns up".split()
    frames = rng.integers(0, 256, (12, 120, 200, 3), dtype=np.uint8)
    video = Video(frames, np.arange(12) / 2.0)
    text, example = "", None
    while example is None or example.length <= _LONG:
        text += " ".join(rng.choice(words, 400)) + "\n"
        row = Row("long", text, [video], [2.0])
        example = row.example(processor)
    inputs = pair.inputs([row])
    positions = reference.their_positions(pair.model, inputs)
    case = Case("long", example.length)
    case.ids = _differing(example.tokens, inputs["input_ids"][0].numpy())
    case.positions = _differing(example.positions, positions[:, 0])
    theirs = _their_logits(pair.model, inputs, positions)[0]
    batch = collate([example], shape_for([example]), processor.protocol)
    case.right = _largest(_forward(pair.ours.model, batch)["logits"][0], theirs)
    return case


def compare_greedy(pair: Pair, rows: Sequence[Row], found: Found, tokens: int) -> None:
    """Greedy decoding of a ragged batch, token by token."""
    import torch

    processor = pair.ours.processor
    examples = [row.example(processor) for row in rows]
    batch = collate(examples, shape_for(examples), processor.protocol)
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=tokens,
                           temperature=0.0, imagery=False, max_latents=0)
    rollout = sample(pair.ours.model, jax.tree.map(jnp.asarray, batch), jax.random.key(0), spec)
    never = sorted({*spec.forbidden, spec.latent_start,
                    *range(spec.vocab, pair.ours.config.decoder.vocab)})
    inputs = pair.inputs(rows, "left")
    with torch.no_grad():
        out = pair.model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, suppress_tokens=never,
            eos_token_id=list(spec.ends), output_scores=True, return_dict_in_generate=True)
    theirs = out.sequences[:, inputs["input_ids"].shape[1] :].numpy()
    for row, mask in enumerate(np.asarray(rollout.mask)):
        mine = np.asarray(rollout.tokens)[row][mask]
        other = theirs[row][: len(mine)]
        found.greedy_compared += len(mine)
        parted = np.flatnonzero(mine[: len(other)] != other)
        if len(parted):
            scores = out.scores[parted[0]][row]
            if float(scores.max() - scores[int(mine[parted[0]])]) <= TOLERANCE:
                found.ties += 1
                found.greedy_compared -= len(mine) - int(parted[0])
                continue
        found.greedy += len(parted) + len(mine) - len(other)


def compare_latents(pair: Pair, rows: Sequence[Row], found: Found, rng: np.random.Generator,
                    tokens: int, blocks: int = 2) -> None:
    """Decoding with imagery against full forwards of transformers, without any cache.

    The oracle takes the sampled tokens; each latent is the last hidden state of a forward pass
    over everything before it.
    """
    import torch

    processor = pair.ours.processor
    examples = [row.example(processor) for row in rows]
    batch = collate(examples, shape_for(examples), processor.protocol)
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=tokens)
    # Three tokens, drawn almost evenly: every row imagines, at steps of its own, and none ends.
    allowed = {spec.latent_start, *rng.choice(np.arange(300, 900), 2).tolist()}
    spec = dataclasses.replace(
        spec, max_latents=blocks * spec.latent_size, temperature=20.0,
        forbidden=tuple(i for i in range(spec.vocab) if i not in allowed))
    rollout = sample(pair.ours.model, jax.tree.map(jnp.asarray, batch), jax.random.key(1), spec)
    kept: dict[str, Any] = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        names = ("inputs_embeds", "position_ids", "visual_pos_masks", "deepstack_visual_embeds")
        kept.update({name: kwargs[name] for name in names if kwargs.get(name) is not None})

    _, decoder = reference.parts(pair.model)
    for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
        kept.clear()
        hook = decoder.register_forward_pre_hook(keep, with_kwargs=True)
        places = torch.tensor(example.positions[:, None]).long()
        with torch.no_grad():
            pair.model(**pair.inputs([row]), position_ids=places, use_cache=False)
        hook.remove()
        kept["position_ids"] = places
        count = 0
        for token, index in zip(np.asarray(rollout.tokens[number]),
                                np.asarray(rollout.latent_index[number]), strict=True):
            with torch.no_grad():
                if index >= 0:
                    hidden = decoder(**kept, use_cache=False).last_hidden_state[:, -1:]
                    mine = np.asarray(rollout.latents[number, index])
                    found.latents = max(found.latents, _largest(mine, hidden[0, 0].numpy()))
                    count += 1
                else:
                    hidden = pair.model.get_input_embeddings()(torch.tensor([[int(token)]]))
            kept["inputs_embeds"] = torch.cat([kept["inputs_embeds"], hidden], 1)
            places = torch.cat([places, places.amax() + torch.ones(3, 1, 1).long()], 2)
            kept["position_ids"] = places
            if "visual_pos_masks" in kept:
                kept["visual_pos_masks"] = torch.cat(
                    [kept["visual_pos_masks"], torch.zeros(1, 1, dtype=torch.bool)], 1)
        if count != blocks * spec.latent_size:
            raise InputError("parity", f"row {number} has {count} latents", "Use another seed, or "
                             "more tokens")


def compare_export(pair: Pair, rows: Sequence[Row], found: Found) -> None:
    """A directory written here, opened by transformers alone: tensors, text and ids."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        export_hf(pair.ours, folder)
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
        processor = transformers.AutoProcessor.from_pretrained(folder)
    back = dict(model.state_dict())
    found.exported = sum(name not in back or not torch.equal(value, back[name])
                         for name, value in pair.model.state_dict().items())
    again = dataclasses.replace(pair, official=processor)
    a, b = (p.inputs(rows)["input_ids"] for p in (pair, again))
    found.exported += int(a.shape != b.shape or not torch.equal(a, b))


def config_of(name: str, args: argparse.Namespace, layers: int) -> ModelConfig:
    return reference.reduced(name, layers, args.vision_layers, args.head_dim, args.vision_head_dim)


def parse_grid(text: str) -> tuple[int, int]:
    rows, columns = map(int, text.split("x"))
    if min(rows, columns) < 1 or max(rows, columns) > 64 * min(rows, columns):
        raise ValueError(text)  # Of longer ones transformers' resizing leaves nothing.
    return rows, columns


def parse_video(text: str) -> tuple[int, float]:
    frames, rate = text.split("@")
    if int(frames) < 1 or not 0 < float(rate) < np.inf:
        raise ValueError(text)
    return int(frames), float(rate)
