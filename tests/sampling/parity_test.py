"""Decoding against transformers: greedy tokens, and latents against a re-computation without cache.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.hf import (  # noqa: E402
    END,
    IMAGE,
    PAD,
    START,
    VIDEO,
    Medium,
    hf_config,
    hf_model,
    load,
    make_rows,
    ours,
    rope_ids,
    their_stages,
)

from fourd4d.core.batch import Batch, OverlayInput  # noqa: E402
from fourd4d.sampling import SamplingSpec, sample  # noqa: E402

pytestmark = pytest.mark.usefixtures("highest_precision")

VOCAB, LATENT, BEGIN, STOP = 512, 405, 406, 407
CONTROL = (IMAGE, VIDEO, START, END, PAD, LATENT, STOP)
GREEDY = SamplingSpec(
    max_tokens=128, vocab=VOCAB, latent_start=BEGIN, latent_pad=LATENT, latent_end=STOP,
    ends=(VOCAB,), forbidden=CONTROL, latent_size=4, max_latents=8, temperature=0.0,
    imagery=False,
)
STILL, CLIP = Medium("image", (1, 6, 10)), Medium("video", (3, 4, 6), 0.5)
CASES = {
    "text": [[17], [17]],
    "image": [[4, STILL, 5], [6, STILL, 3]],
    "video": [[3, CLIP, 6], [5, CLIP, 4]],
    "ragged": [[12], [3, STILL, 9], [2, CLIP, 1, STILL, 2]],
}


def prompts(model: Any, inputs: dict[str, Any]) -> Batch:
    """transformers' inputs as our prompts."""
    mine = ours(inputs, rope_ids(model, inputs))
    rows, length = mine["tokens"].shape
    units = mine["vision"].patches.shape[2] * mine["vision"].patches.shape[3] // 4
    return Batch(
        **mine, text_weights=np.zeros((rows, length), np.float32),
        latent_index=np.full((rows, length), -1, np.int32),
        overlays=OverlayInput(np.full((rows, 0), -1, np.int32),
                              np.zeros((rows, 0, 4, units), np.float32)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: Any) -> tuple[Any, Any]:
    """The same random model there and here; its head likes to begin a block."""
    directory = tmp_path_factory.mktemp("hf")
    theirs = hf_model(hf_config(tied=False))
    with torch.no_grad():
        theirs.lm_head.weight[BEGIN] *= 5.0
    theirs.save_pretrained(directory, safe_serialization=True)
    return theirs, load(directory)


@pytest.mark.parametrize("case", CASES)
def test_greedy_is_transformers_generate(pair: tuple[Any, Any], case: str) -> None:
    theirs, thinker = pair
    inputs = make_rows(CASES[case], seed=len(case), side="left")
    result = sample(thinker, prompts(theirs, inputs), jax.random.key(0), GREEDY)
    generated = theirs.generate(
        **inputs, max_new_tokens=128, do_sample=False, use_cache=True, pad_token_id=PAD,
        suppress_tokens=[*CONTROL, BEGIN])
    wanted = generated[:, inputs["input_ids"].shape[1] :].numpy()
    assert wanted.shape == (len(CASES[case]), 128) and len(np.unique(wanted)) > 4
    np.testing.assert_array_equal(result.tokens, wanted)
    assert result.truncated.all()


def recompute(model: Any, inputs: dict[str, Any], spec: SamplingSpec) -> tuple[list[int], Any]:
    """Tokens and latents of one prompt: at each step a full forward over all input embeddings."""
    embeds = torch.tensor(their_stages(model, inputs)[1])
    positions = torch.tensor(rope_ids(model, inputs))
    following = int(positions.max()) + 1
    banned = [*spec.forbidden]
    tokens: list[int] = []
    latents: list[Any] = []
    block = 0
    for step in range(spec.max_tokens):
        with torch.no_grad():
            hidden = model.model(
                inputs_embeds=embeds, position_ids=positions, use_cache=False,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            ).last_hidden_state[:, -1]
            logits = model.lm_head(hidden)[0]
        fed = None
        if block == 0:
            logits[banned] = -torch.inf
            if len(latents) + spec.latent_size > spec.max_latents:
                logits[spec.latent_start] = -torch.inf
            tokens.append(int(logits.argmax()))
            if tokens[-1] == spec.latent_start:
                block = spec.latent_size + 1
        else:
            block -= 1
            tokens.append(spec.latent_pad if block else spec.latent_end)
            if block:
                fed = hidden[:, None]
                latents.append(hidden[0].numpy())
        if fed is None:
            fed = model.model.embed_tokens(torch.tensor([[tokens[-1]]])).detach()
        embeds = torch.cat([embeds, fed], 1)
        here = torch.full((3, 1, 1), following + step)
        positions = torch.cat([positions, here], 2)
    return tokens, np.array(latents)


def test_latents_are_a_plain_recomputation(pair: tuple[Any, Any]) -> None:
    """Three ragged rows of two blocks each, begun at different steps."""
    theirs, thinker = pair
    spec = dataclasses.replace(GREEDY, imagery=True, max_tokens=48)
    rows = [[12], [3, STILL, 9], [2, CLIP, 1]]
    inputs = make_rows(rows, seed=4, side="right")
    result = sample(thinker, prompts(theirs, inputs), jax.random.key(0), spec)
    media = {1: ("pixel_values", "image_grid_thw"),
             2: ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")}
    begun = set()
    for row in range(len(rows)):
        real = inputs["attention_mask"][row].bool()
        alone = {"input_ids": inputs["input_ids"][row][real][None],
                 "attention_mask": torch.ones((1, int(real.sum())), dtype=torch.long)}
        alone |= {name: inputs[name] for name in media.get(row, ())}
        tokens, latents = recompute(theirs, alone, spec)
        assert latents.shape == (8, 64)
        np.testing.assert_array_equal(result.tokens[row], tokens)
        np.testing.assert_allclose(result.latents[row], latents, atol=1e-4)
        begun |= set(np.flatnonzero(np.array(tokens) == BEGIN).tolist())
    assert len(begun) >= 5, begun
