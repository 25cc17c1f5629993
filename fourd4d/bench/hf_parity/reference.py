"""transformers' side of a comparison: its model, its processor's inputs, rows of random media."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models import ModelConfig, preset
from fourd4d.models.families import family
from fourd4d.parallel import make_mesh
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.huggingface import open_hf, token_ids
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.processing.chat_template import user_text
from fourd4d.processing.media import Image, Video
from fourd4d.processing.patches import frames_to_slots, token_offsets

RATES = (0.5, 30.0, 1.0, 2.0, 3.0, 12.5, 24.0, 29.97)
_QUESTIONS = ("Which way does it go?", "Left or right?\n\nA. Left\nB. Right", "Say what moves.")
_TOKEN = 28  # Pixels of a merged token's side; transformers refuses smaller images.
# Merged grids beside a window of 4 x 4: inside it, exactly it, and one row or column over.
_EDGES = ((4, 4), (5, 3), (3, 5), (8, 4), (9, 7), (1, 7), (7, 1), (4, 12), (2, 2), (5, 5))


def reduced(name: str, layers: int = 0, vision_layers: int = 0, head_dim: int = 12,
            vision_head_dim: int = 20) -> ModelConfig:
    """A published size with narrow layers.

    Depths, full blocks, patches, windows, query heads per key head and a tied head are kept.

    Args:
      layers, vision_layers: instead of the published depths; of the full blocks, those within
        remain, or else the last one is full.
      head_dim, vision_head_dim: features of a head, of which the encoder has two. Their roots
        should be no powers of two, as the published ones.

    Raises:
      InputError: a head width that rotary embeddings cannot have.
    """
    full = preset(name)
    v, d = full.vision, full.decoder
    heads, width = 2 * d.heads // d.kv_heads, 2 * vision_head_dim
    half = head_dim // 2
    time = max(1, half // 4)
    rows = (half - time) // 2
    depth = vision_layers or v.layers
    vision = dataclasses.replace(
        v, width=width, heads=2, mlp=width * v.mlp // v.width, layers=depth,
        full_layers=tuple(i for i in v.full_layers if i < depth) or (depth - 1,))
    decoder = dataclasses.replace(
        d, width=head_dim * heads, layers=layers or d.layers, heads=heads, kv_heads=2,
        head_dim=head_dim, mlp=2 * head_dim * heads, vocab=1024,
        mrope_sections=(time, rows, half - time - rows), valid_vocab=None)
    return dataclasses.replace(full, vision=vision, decoder=decoder, dtype="float32",
                               remat="none")


@dataclasses.dataclass
class Pair:
    """transformers' model and processor, and ours with the same weights; ``folder`` holds them."""

    folder: Path
    model: Any
    official: Any
    ours: ModelBundle

    def inputs(self, rows: Sequence[Row], side: str = "right") -> Any:
        """See ``their_inputs``."""
        return their_inputs(self.official, self.ours.processor.protocol, rows, side)


def make_processor(config: ModelConfig) -> Processor:
    """The shipped tokenizer with the model's patches; frames of 4 to 72 merged tokens."""
    area = _TOKEN**2
    return Processor(tiny_tokenizer(), config.protocol(min_pixels=4 * area, max_pixels=72 * area))


def make_model(config: ModelConfig, dtype: str, processor: Processor) -> Any:
    """transformers' model of this size, with transformers' own random weights."""
    import transformers

    settings = transformers.AutoConfig.for_model(**family(config.family, "bench").to_hf(
        config, dtype, **token_ids(processor.tokenizer)))
    return transformers.AutoModelForImageTextToText.from_config(settings).eval()


def draw_weights(model: Any, seed: int) -> None:
    """Random weights, all of them: zero biases and unit scales would hide mistakes.

    They are numbers of bfloat16, so that models of both precisions hold the same.
    """
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                drawn = torch.randn_like(value) * 0.2 + (0.0 if "bias" in name else 1.0)
            else:
                gain = 1.6 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else 0.8
                drawn = torch.randn_like(value) * gain / value[0].numel() ** 0.5
            value.copy_(drawn.bfloat16())


def make_pair(config: ModelConfig, folder: Path, seed: int) -> Pair:
    """A model that transformers builds and saves, and that we open."""
    import transformers

    processor = make_processor(config)
    model = make_model(config, "float32", processor)
    draw_weights(model, seed)
    model.save_pretrained(folder, safe_serialization=True)
    processor.export(folder, family(config.family, folder).CLASSES)
    official = transformers.AutoProcessor.from_pretrained(folder)
    return Pair(folder, model, official, open_ours(folder, dtype="float32"))


def open_ours(folder: Path, **model: Any) -> ModelBundle:
    """A directory on this process's first device."""
    mesh = make_mesh("data=1", jax.local_devices()[:1])
    return open_hf(folder, mesh, remat="none", **model)


@dataclasses.dataclass(frozen=True)
class Row:
    """A question about media.

    Attributes:
      rates: frames a second of each video, which is how transformers is told of time.
      uneven: a video's frames follow each other at no one rate.
    """

    name: str
    question: str
    media: list[Image | Video]
    rates: list[float]
    uneven: bool = False

    def example(self, processor: Processor) -> Example:
        return processor.prompt(self.question, self.media)


def make_rows(rng: np.random.Generator, grids: Sequence[tuple[int, int]] = (),
              videos: Sequence[tuple[int, float]] = ()) -> list[Row]:
    """One row of every kind of input, with sizes, lengths and pixels drawn.

    Args:
      grids: rows and columns, in merged tokens, of the images of one more row.
      videos: frames, and frames a second, of the videos of one more row.
    """
    rates = iter([*RATES[:2], *rng.permutation(RATES[2:]).tolist()])

    def noise(*shape: int | np.integer) -> np.ndarray:
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

    def image() -> Image:
        return Image(noise(*rng.integers(_TOKEN, 90, 2)))

    def edge(*grid: int) -> Image:
        sides = [n * _TOKEN + int(rng.integers(-13, 14)) for n in grid]  # What rounds to the grid.
        return Image(noise(*(max(side, _TOKEN) for side in sides)))

    def video(counts: Sequence[int], rate: float) -> Video:
        count = int(rng.choice(counts))
        return Video(noise(count, *rng.integers(40, 150, 2)), np.arange(count) / rate)

    def row(name: str, *media: Image | Video, rates: Sequence[float] = (), uneven: bool = False
            ) -> Row:
        return Row(name, str(rng.choice(_QUESTIONS)), list(media), list(rates), uneven)

    a, b, c, d = (next(rates) for _ in range(4))
    edges = [_EDGES[i] for i in rng.permutation(len(_EDGES))[:4]]
    steps = np.cumsum(rng.uniform(0.1, 2.0, 5))
    found = [
        row("text"),
        row("odd image", Image(noise(*(2 * rng.integers(20, 110, 2) + 1)))),
        row("many images", *(image() for _ in range(6))),
        row("window edges", *(edge(*grid) for grid in edges)),
        row("video, even", video((2, 4, 6), a), rates=[a]),
        row("video, odd", video((1, 3, 5, 7), b), rates=[b]),
        row("video by timestamps", Video(noise(5, *rng.integers(40, 150, 2)), steps), rates=[1.0],
            uneven=True),
        row("image and videos", image(), video((3, 4), c), image(), video((2, 5), d),
            rates=[c, d]),
    ]
    if grids:
        found.append(row("given grids", *(edge(*grid) for grid in grids)))
    if videos:
        found.append(row("given videos", *(video((count,), rate) for count, rate in videos),
                         rates=[rate for _, rate in videos]))
    return found


def their_inputs(processor: Any, protocol: ProtocolSpec, rows: Sequence[Row],
                 side: str = "right") -> Any:
    """The official processor's inputs of a padded batch."""
    import PIL.Image

    flat = [medium for row in rows for medium in row.media]
    images = [PIL.Image.fromarray(m.pixels) for m in flat if isinstance(m, Image)]
    videos = [m.frames for m in flat if isinstance(m, Video)]
    processor.tokenizer.padding_side = side
    return processor(
        text=[their_text(processor, protocol, row) for row in rows], images=images or None,
        videos=videos or None, fps=[rate for row in rows for rate in row.rates] or None,
        padding=True, return_tensors="pt")


def their_text(processor: Any, protocol: ProtocolSpec, row: Row) -> str:
    """The prompt as the official chat template writes it, with the protocol's suffix."""
    text = user_text(row.question, protocol)
    content = [*({"type": m.kind} for m in row.media), {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)


def their_positions(model: Any, inputs: Any) -> np.ndarray:
    """M-RoPE ids (3, B, L) as transformers counts them."""
    return model.get_rope_index(
        inputs["input_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw"),
        inputs.get("second_per_grid_ts"), inputs["attention_mask"])[0].numpy()


@contextlib.contextmanager
def their_layers(model: Any) -> Iterator[dict[str, list[np.ndarray]]]:
    """Lists what stages of transformers' model give: an entry for each layer and call."""
    kept: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            out = out[0] if isinstance(out, tuple) else out
            kept.setdefault(name, []).append(out.float().numpy())

        return hook

    def inputs(module: Any, args: Any, kwargs: Any) -> None:
        kept.setdefault("embeds", []).append(kwargs["inputs_embeds"].float().numpy())

    hooks = [model.model.register_forward_pre_hook(inputs, with_kwargs=True)]
    for name, modules in (("blocks", model.visual.blocks), ("features", [model.visual]),
                          ("layers", model.model.layers), ("norm", [model.model.norm])):
        hooks += [module.register_forward_hook(keep(name), with_kwargs=True)
                  for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def patches_in_their_order(example: Example, row: Row, kind: type, processor: Processor
                           ) -> list[np.ndarray]:
    """Our patches of a row's media of one kind, as the official processor lists them."""
    protocol, found, slot = processor.protocol, [], 0
    for medium in row.media:
        _, grid = frames_to_slots(medium.frames, protocol)
        if isinstance(medium, kind):
            own = example.slots.patches[slot : slot + grid.slots]
            own = own.reshape(grid.slots, -1, protocol.merge**2, protocol.patch_dim)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            found.append(own[:, offsets].reshape(-1, protocol.patch_dim))
        slot += grid.slots
    return found


def slots_of_kind(rows: Sequence[Row], kind: type, processor: Processor, slots: int) -> list[int]:
    """Places of the frame slots of one kind of media among ``slots`` for each row."""
    found = []
    for number, row in enumerate(rows):
        slot = number * slots
        for medium in row.media:
            _, grid = frames_to_slots(medium.frames, processor.protocol)
            if isinstance(medium, kind):
                found += range(slot, slot + grid.slots)
            slot += grid.slots
    return found
