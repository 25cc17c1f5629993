"""transformers' side of a comparison: its model, its processor's inputs, rows of random media."""

from __future__ import annotations

import contextlib
import dataclasses
import re
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
from fourd4d.processing.patches import frames_to_slots, resize, smart_resize, token_offsets

RATES = (0.5, 30.0, 1.0, 2.0, 3.0, 12.5, 24.0, 29.97)
_QUESTIONS = ("Which way does it go?", "Left or right?\n\nA. Left\nB. Right", "Say what moves.")
_PADS = re.compile(r"(<\|(?:image|video)_pad\|>)\1*")
# Merged grids beside a window of 4 x 4: inside it, exactly it, and one row or column over.
_EDGES = ((4, 4), (5, 3), (3, 5), (8, 4), (9, 7), (1, 7), (7, 1), (4, 12), (2, 2), (5, 5))


def reduced(name: str, layers: int = 0, vision_layers: int = 0, head_dim: int = 0,
            vision_head_dim: int = 20) -> ModelConfig:
    """A published size with narrow layers.

    Depths, full blocks, patches, windows, query heads per key head and a tied head are kept, and
    so is what DeepStack takes.

    Args:
      layers, vision_layers: instead of the published depths; of the full blocks, those within
        remain, or else the last one is full, and of DeepStack's blocks those within, or else the
        first.
      head_dim, vision_head_dim: features of a head, of which the encoder has two. Their roots
        should be no powers of two, as the published ones. ``head_dim`` 0 is 12, or 20 where the
        axes of positions take turns.

    Raises:
      InputError: a head width that rotary embeddings cannot have.
    """
    full = preset(name)
    v, d = full.vision, full.decoder
    heads, width = 2 * d.heads // d.kv_heads, 2 * vision_head_dim
    turns = d.mrope == "interleaved"
    head_dim = head_dim or (20 if turns else 12)
    half = head_dim // 2
    time = half - 2 * max(1, half * 5 // 16) if turns else max(1, half // 4)
    rows = (half - time) // 2
    depth, deep = vision_layers or v.layers, layers or d.layers
    wide = head_dim * heads
    vision = dataclasses.replace(
        v, width=width, heads=2, mlp=width * v.mlp // v.width, layers=depth,
        full_layers=tuple(i for i in v.full_layers if i < depth) or (depth - 1,),
        deepstack=v.deepstack and (tuple(i for i in v.deepstack if i < depth)[:deep] or (0,)))
    decoder = dataclasses.replace(  # Where norms free the width of the heads, it is another.
        d, width=wide + 8 if d.qkv == "normed" else wide, layers=deep, heads=heads, kv_heads=2,
        head_dim=head_dim, mlp=2 * wide, vocab=1024,
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

    def inputs(self, rows: Sequence[Row], side: str = "right", *, resized: bool = True) -> Any:
        """See ``their_inputs``."""
        return their_inputs(self.official, self.ours.processor.protocol, rows, side,
                            resized=resized)


def make_processor(config: ModelConfig) -> Processor:
    """The shipped tokenizer with the model's patches; images of 4 to 72 merged tokens.

    So are frames; where a video's are bounded together, 8 to 288 tokens of them, each counted.
    """
    area = (config.vision.patch_size * config.vision.merge) ** 2
    protocol = config.protocol(min_pixels=4 * area, max_pixels=72 * area)
    if protocol.budget == "video":
        protocol = config.protocol(min_pixels=8 * area, max_pixels=288 * area,
                                   image_min_pixels=4 * area, image_max_pixels=72 * area)
    return Processor(tiny_tokenizer(), protocol)


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
    model.save_pretrained(folder)
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
              videos: Sequence[tuple[int, float]] = (), *, token: int = 28,
              counts: Sequence[int] = ()) -> list[Row]:
    """One row of every kind of input, with sizes, lengths and pixels drawn.

    Args:
      grids: rows and columns, in merged tokens, of the images of one more row.
      videos: frames, and frames a second, of the videos of one more row.
      token: pixels of a merged token's side; transformers refuses smaller images.
      counts: frames of one more video each, which begins late.
    """
    rates = iter([*RATES[:2], *rng.permutation(RATES[2:]).tolist()])

    def noise(*shape: int | np.integer) -> np.ndarray:
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

    def image() -> Image:
        return Image(noise(*rng.integers(token, 90, 2)))

    def edge(*grid: int) -> Image:
        sides = [n * token + int(rng.integers(-13, 14)) for n in grid]  # What rounds to the grid.
        return Image(noise(*(max(side, token) for side in sides)))

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
    for count in counts:
        late = rng.uniform(0, 9) + np.arange(count) / rng.choice(RATES)
        found.append(row(f"video of {count}", Video(noise(count, *rng.integers(20, 90, 2)), late),
                         rates=[1.0]))
    return found


def their_inputs(processor: Any, protocol: ProtocolSpec, rows: Sequence[Row],
                 side: str = "right", *, resized: bool = True) -> Any:
    """The official processor's inputs of a padded batch.

    Args:
      resized: where it resizes by torchvision, let it take frames of the size that the encoder
        reads, resized by us.
    """
    import PIL.Image

    flat = [medium for row in rows for medium in row.media]
    own: dict[str, Any] = dict(fps=[rate for row in rows for rate in row.rates] or None)
    if protocol.times is not None:
        own = dict(do_sample_frames=False, do_resize=not resized)
        own["video_metadata"] = [_metadata(medium, rate) for row in rows for medium, rate in zip(
            (m for m in row.media if isinstance(m, Video)), row.rates, strict=True)] or None
        if resized:
            flat = [_resized(medium, protocol) for medium in flat]
    images = [PIL.Image.fromarray(m.pixels) for m in flat if isinstance(m, Image)]
    videos = [_given_frames(m, protocol) for m in flat if isinstance(m, Video)]
    processor.tokenizer.padding_side = side
    return processor(
        text=[_their_template(processor, protocol, row) for row in rows], images=images or None,
        videos=videos or None, padding=True, return_tensors="pt", **own)


def _resized(medium: Image | Video, protocol: ProtocolSpec) -> Image | Video:
    frames = medium.frames
    height, width = frames.shape[1:3]
    size = smart_resize(height, width, protocol, medium.kind, len(frames))
    frames = np.stack([resize(frame, size) for frame in frames])
    return Image(frames[0]) if isinstance(medium, Image) else Video(frames, medium.timestamps)


def _given_frames(video: Video, protocol: ProtocolSpec) -> np.ndarray:
    """Its frames; one alone twice where transformers takes no video of one."""
    alone = protocol.times is not None and len(video.frames) == 1
    return np.repeat(video.frames, 2, axis=0) if alone else video.frames


def _metadata(video: Video, rate: float) -> dict[str, Any]:
    """When its frames were: numbers of frames at their rate, or seconds as such at a rate of 1."""
    numbers = np.arange(len(video.timestamps))
    if not np.array_equal(numbers / rate, video.timestamps):
        numbers, rate = video.timestamps, 1.0
    if len(numbers) == 1:
        numbers = np.repeat(numbers, 2)
    return dict(total_num_frames=len(numbers), fps=rate, frames_indices=numbers.tolist())


def _their_template(processor: Any, protocol: ProtocolSpec, row: Row) -> str:
    text = user_text(row.question, protocol)
    content = [*({"type": m.kind} for m in row.media), {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)


def their_text(processor: Any, protocol: ProtocolSpec, row: Row) -> str:
    """The prompt as the official processor writes it, with the protocol's suffix.

    Where times are text the processor adds them to what the chat template gives: its ids are read
    back, with one pad for each run.
    """
    if protocol.times is None:
        return _their_template(processor, protocol, row)
    ids = their_inputs(processor, protocol, [row])["input_ids"][0]
    return _PADS.sub(r"\1", processor.tokenizer.decode(ids))


def their_positions(model: Any, inputs: Any) -> np.ndarray:
    """M-RoPE ids (3, B, L) as transformers counts them."""
    grids = [inputs.get("image_grid_thw"), inputs.get("video_grid_thw")]
    mask = inputs["attention_mask"]
    if "mm_token_type_ids" in inputs:
        found = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"],
                                           *grids, attention_mask=mask)
    else:
        found = model.get_rope_index(inputs["input_ids"], *grids,
                                     inputs.get("second_per_grid_ts"), mask)
    return found[0].numpy()


def parts(model: Any) -> tuple[Any, Any]:
    """transformers' vision encoder and decoder, wherever its release keeps them."""
    inner = model.model
    visual = getattr(model, "visual", None)
    return inner.visual if visual is None else visual, getattr(inner, "language_model", inner)


@contextlib.contextmanager
def their_layers(model: Any) -> Iterator[dict[str, list[np.ndarray]]]:
    """Lists what stages of transformers' model give: an entry for each layer and call.

    A decoder layer's is what the next one, or the norm, is given: with what DeepStack adds.
    """
    kept: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            if deep := getattr(out, "deepstack_features", None):
                out = torch.cat([out.pooler_output, *deep], -1)
            out = out[0] if isinstance(out, tuple) else out
            kept.setdefault(name, []).append(out.float().numpy())

        return hook

    def given(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            x = kwargs.get("inputs_embeds", kwargs.get("hidden_states"))
            kept.setdefault(name, []).append((args[0] if x is None else x).float().numpy())

        return hook

    import torch

    visual, decoder = parts(model)
    hooks = [decoder.register_forward_pre_hook(given("embeds"), with_kwargs=True)]
    hooks += [module.register_forward_pre_hook(given("layers"), with_kwargs=True)
              for module in (*decoder.layers[1:], decoder.norm)]
    for name, modules in (("blocks", visual.blocks), ("features", [visual]),
                          ("norm", [decoder.norm])):
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
        _, grid = frames_to_slots(medium.frames, protocol, kind=medium.kind)
        if isinstance(medium, kind):
            own = example.slots.patches[slot : slot + grid.slots]
            own = own.reshape(grid.slots, -1, protocol.merge**2, protocol.patch_dim)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            found.append(own[:, offsets].reshape(-1, protocol.patch_dim))
        slot += grid.slots
    return found


def places_of_kind(rows: Sequence[Row], kind: type, processor: Processor, mask: np.ndarray,
                   windows: bool) -> np.ndarray:
    """Where one kind of media has its patches among ours, as transformers' encoder lists them.

    Args:
      mask: (rows, slots, patches), which of our patches are real.
      windows: whether that encoder puts them into windows first, as ours are; else they are in
        raster order of merged tokens.
    """
    protocol, found = processor.protocol, []
    places = np.arange(mask.size).reshape(mask.shape)
    for number, row in enumerate(rows):
        slot = 0
        for medium in row.media:
            _, grid = frames_to_slots(medium.frames, protocol, kind=medium.kind)
            own = slice(slot, slot + grid.slots)
            slot += grid.slots
            if not isinstance(medium, kind):
                continue
            if windows:
                found.append(places[number, own][mask[number, own]])
                continue
            merged = places[number, own].reshape(grid.slots, -1, protocol.merge**2)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            found.append(merged[:, offsets].reshape(-1))
    return np.concatenate(found)
