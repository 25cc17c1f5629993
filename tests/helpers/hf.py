"""Random tiny Qwen2.5-VL models of transformers, and its inputs in our layout. No tests here."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fourd4d.checkpoint.safetensors import read_hf
from fourd4d.core.batch import VisionInput
from fourd4d.models import Thinker
from fourd4d.models.qwen2_5_vl import from_hf, key_table

IMAGE, VIDEO, START, END, PAD = 400, 401, 402, 403, 404


def hf_config(width: int = 64, layers: int = 3, heads: int = 4, kv_heads: int = 2, mlp: int = 96,
              vocab: int = 512, tied: bool = True, vision_layers: int = 4,
              full: tuple[int, ...] = (1, 3), sections: tuple[int, ...] = (2, 3, 3),
              vision_mlp: int = 72, tokens_per_second: int = 2, **extra: Any) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=1e-6,
        tie_word_embeddings=tied, rope_scaling={"type": "mrope", "mrope_section": list(sections)},
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START,
        vision_end_token_id=END, max_position_embeddings=32768, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
        vision_config=dict(
            depth=vision_layers, hidden_size=32, num_heads=2, intermediate_size=vision_mlp,
            patch_size=4, window_size=16, fullatt_block_indexes=list(full), out_hidden_size=width,
            tokens_per_second=tokens_per_second), **extra)


def hf_model(config: Qwen2_5_VLConfig, seed: int = 0, attention: str = "eager"
             ) -> Qwen2_5_VLForConditionalGeneration:
    """Random weights, all of them: zero biases and unit scales would hide mistakes."""
    torch.manual_seed(seed)
    config = type(config).from_dict(config.to_dict())
    config._attn_implementation = attention
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.copy_(torch.randn_like(value) * 0.2 + (1.0 if "bias" not in name else 0.0))
            else:
                fan_in = value[0].numel() if "embed_tokens" not in name else 4
                value.copy_(torch.randn_like(value) * 0.8 / fan_in**0.5)
    return model


@dataclasses.dataclass
class Medium:
    """A grid of patches: an image (one slot) or a video."""

    kind: str
    grid: tuple[int, int, int]
    seconds_per_grid: float = 1.0

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w // 4


def make_rows(rows: list[list[int | Medium]], seed: int, side: str = "right", vocab: int = 390
              ) -> dict[str, Any]:
    """transformers' inputs for rows of text lengths and media, padded on one side."""
    rng = np.random.default_rng(seed)
    ids, images, videos = [], [], []
    for row in rows:
        tokens: list[int] = []
        for part in row:
            if isinstance(part, int):
                tokens += rng.integers(0, vocab, part).tolist()
            else:
                (images if part.kind == "image" else videos).append(part)
                pad = IMAGE if part.kind == "image" else VIDEO
                tokens += [START, *[pad] * part.tokens, END]
        ids.append(tokens)
    length = max(map(len, ids))
    padded = np.full((len(ids), length), PAD)
    mask = np.zeros((len(ids), length), np.int64)
    for i, tokens in enumerate(ids):
        at = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), None)
        padded[i, at], mask[i, at] = tokens, 1
    inputs: dict[str, Any] = dict(input_ids=torch.tensor(padded),
                                  attention_mask=torch.tensor(mask))

    def pixels(media: list[Medium]) -> torch.Tensor:
        count = sum(int(np.prod(m.grid)) for m in media)
        return torch.tensor(rng.standard_normal((count, 3 * 2 * 4 * 4)), dtype=torch.float32)

    if images:
        inputs |= dict(pixel_values=pixels(images),
                       image_grid_thw=torch.tensor([m.grid for m in images]))
    if videos:
        inputs |= dict(pixel_values_videos=pixels(videos),
                       video_grid_thw=torch.tensor([m.grid for m in videos]),
                       second_per_grid_ts=torch.tensor([m.seconds_per_grid for m in videos]))
    return inputs


def slots_of(patches: np.ndarray, grid: tuple[int, int, int], window: int, merge: int = 2
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Patches in transformers' order as our slots; ``window`` in merged tokens a side.

    Returns patches (T, W, M, C), coords, mask and, for each raster merged token of a slot, where
    it lies in the slot's U.
    """
    t, h, w = grid
    hm, wm = h // merge, w // merge
    grouped = patches.reshape(t, hm, wm, merge * merge, -1)
    rows, cols = -(-hm // window), -(-wm // window)
    m = window * window * merge * merge
    out = np.zeros((t, rows * cols, m, patches.shape[-1]), np.float32)
    coords = np.zeros((t, rows * cols, m, 2), np.int32)
    mask = np.zeros((t, rows * cols, m), bool)
    where = np.zeros((hm, wm), np.int32)
    for i in range(hm):
        for j in range(wm):
            win = (i // window) * cols + j // window
            token = (i % window) * window + j % window
            at = slice(token * merge**2, (token + 1) * merge**2)
            out[:, win, at] = grouped[:, i, j]
            mask[:, win, at] = True
            coords[:, win, at] = [(merge * i + a, merge * j + b)
                                  for a in range(merge) for b in range(merge)]
            where[i, j] = win * window * window + token
    return out, coords, mask, where.reshape(-1)


def ours(inputs: dict[str, Any], positions: Any, window: int = 2) -> dict[str, Any]:
    """Tokens, positions, segments, vision slots and index for the same rows."""
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    slots: list[list[Any]] = [[] for _ in ids]
    index = np.full(ids.shape, -1, np.int32)
    taken = {IMAGE: 0, VIDEO: 0}
    used = {IMAGE: 0, VIDEO: 0}
    for row, tokens in enumerate(ids):
        at = 0
        while at < len(tokens):
            kind = int(tokens[at])
            if kind not in taken or not mask[row, at]:
                at += 1
                continue
            name = "image" if kind == IMAGE else "video"
            grid = tuple(inputs[f"{name}_grid_thw"][taken[kind]].tolist())
            pixels = inputs["pixel_values" if kind == IMAGE else "pixel_values_videos"].numpy()
            count = int(np.prod(grid))
            p, c, m, where = slots_of(pixels[used[kind] : used[kind] + count], grid, window)
            taken[kind] += 1
            used[kind] += count
            for frame in range(grid[0]):
                slots[row].append((p[frame], c[frame], m[frame]))
                n = len(where)
                # The slot's number is filled in once the number of windows is known.
                index[row, at : at + n] = where + 1_000_000 * len(slots[row])
                at += n
    f = max(1, max(map(len, slots)))
    w = max([1] + [s[0].shape[0] for row in slots for s in row])
    m, patch = window * window * 4, 96
    u = w * m // 4
    vision = VisionInput(np.zeros((len(ids), f, w, m, patch), np.float32),
                         np.zeros((len(ids), f, w, m, 2), np.int32),
                         np.zeros((len(ids), f, w, m), bool))
    for b, row in enumerate(slots):
        for s, (p, c, k) in enumerate(row):
            vision.patches[b, s, : len(p)] = p
            vision.coords[b, s, : len(p)] = c
            vision.mask[b, s, : len(p)] = k
    fed = index >= 0
    index[fed] = (index[fed] // 1_000_000 - 1) * u + index[fed] % 1_000_000
    return dict(tokens=ids.astype(np.int32), positions=np.asarray(positions, np.int32),
                segment_ids=mask.astype(np.int32), vision=vision, vision_index=index)


def load(directory, **fields):
    config = json.loads((directory / "config.json").read_text())
    config = from_hf(config, **({"dtype": "float32", "remat": "none"} | fields))
    graphdef, abstract = jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0))))
    return nnx.merge(graphdef, read_hf(directory, key_table(config), abstract))


def rope_ids(model, inputs):
    return model.get_rope_index(
        inputs["input_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw"),
        inputs.get("second_per_grid_ts"), inputs["attention_mask"])[0].numpy()


def their_stages(model, inputs):
    """Features in raster order, embeddings, logits; positions as transformers makes them."""
    got = {}

    def features(module, args, kwargs, out):
        got.setdefault("features", []).append(out)

    def embeds(module, args, kwargs, out):
        got["embeds"] = kwargs["inputs_embeds"]

    hooks = [model.visual.register_forward_hook(features, with_kwargs=True),
             model.model.register_forward_hook(embeds, with_kwargs=True)]
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return got.get("features", []), got["embeds"].numpy(), logits.numpy()
