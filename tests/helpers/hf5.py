"""A random tiny model of transformers 5 with text config and DeepStack, beside ours. No tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourd4d.bench.hf_parity import reference
from fourd4d.core.example import Example
from fourd4d.models import preset, preset_protocol
from fourd4d.models.families import family
from fourd4d.processing import Processor, tiny_tokenizer
from fourd4d.processing.media import Image, Video
from fourd4d.processing.patches import frames_to_slots

Media = Sequence[Image | Video]


def make_pair(folder: Path, *, tied: bool, seed: int = 0) -> reference.Pair:
    """transformers' model, saved to ``folder``, and ours read from there."""
    config = preset("tiny3")
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=tied))
    processor = Processor(tiny_tokenizer(), preset_protocol("tiny3"))
    model = reference.make_model(config, "float32", processor)
    reference.draw_weights(model, seed)
    model.save_pretrained(folder)
    processor.export(folder, family(config.family, folder).CLASSES)
    return reference.Pair(folder, model, None, reference.open_ours(folder, dtype="float32"))


def their_inputs(pair: reference.Pair, examples: Sequence[Example], media: Sequence[Media],
                 side: str = "right") -> dict[str, Any]:
    """transformers' inputs of our examples, padded on one side; without their processor."""
    processor = pair.ours.processor
    length = max(example.length for example in examples)
    ids = torch.full((len(examples), length), processor.tokenizer.pad)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        at = slice(0, example.length) if side == "right" else slice(length - example.length, None)
        ids[row, at], mask[row, at] = torch.tensor(example.tokens).long(), 1
    inputs: dict[str, Any] = dict(input_ids=ids, attention_mask=mask)
    kinds = torch.zeros_like(ids)
    for number, (kind, pixels, grid, pad) in enumerate((
            (Image, "pixel_values", "image_grid_thw", "<|image_pad|>"),
            (Video, "pixel_values_videos", "video_grid_thw", "<|video_pad|>")), 1):
        kinds[ids == processor.tokenizer.id(pad)] = number
        patches = [part for example, own in zip(examples, media, strict=True)
                   for part in reference.patches_in_their_order(
                       example, reference.Row("", "", list(own), []), kind, processor)]
        if patches:
            grids = [frames_to_slots(m.frames, processor.protocol, kind=m.kind)[1]
                     for own in media for m in own if isinstance(m, kind)]
            inputs[pixels] = torch.tensor(np.concatenate(patches))
            inputs[grid] = torch.tensor([(g.slots, g.rows, g.columns) for g in grids])
    inputs["mm_token_type_ids"] = kinds
    return inputs


def their_positions(pair: reference.Pair, inputs: dict[str, Any]) -> np.ndarray:
    """M-RoPE ids (3, B, L) as transformers counts them."""
    named = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs}
    return pair.model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"],
        attention_mask=inputs["attention_mask"], **named)[0].numpy()
