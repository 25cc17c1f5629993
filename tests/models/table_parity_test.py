"""The family with a table encoder and DeepStack, against transformers 5 where that is installed.

Its processor needs torchvision and is not asked here: pixels, ids and grids are ours.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from helpers import hf5  # noqa: E402

from fourd4d.bench.hf_parity import reference  # noqa: E402
from fourd4d.core.batch import BatchShape  # noqa: E402
from fourd4d.data import collate, shape_for  # noqa: E402
from fourd4d.models.scan import watching  # noqa: E402
from fourd4d.pretrained.huggingface import export_hf  # noqa: E402
from fourd4d.processing.media import Image, Video  # noqa: E402
from fourd4d.sampling import SamplingSpec, sample  # noqa: E402

pytestmark = pytest.mark.usefixtures("highest_precision")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def video(frames: int, height: int, width: int, rate: float) -> Video:
    return Video(noise(frames, height, width), 0.3 + np.arange(frames) / rate)


MEDIA = (
    (),
    (Image(noise(57, 83)),),
    tuple(Image(noise(16 + 9 * i, 90 - 7 * i)) for i in range(6)),
    (video(1, 40, 60, 2.0),),
    (video(4, 40, 60, 12.5),),
    (Image(noise(33, 70)), video(5, 90, 50, 1.5), Image(noise(20, 20)), video(16, 130, 150, 29.97)),
    (video(64, 48, 64, 24.0),),
)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path_factory):
    return hf5.make_pair(tmp_path_factory.mktemp("model"), tied=request.param)


@pytest.fixture(scope="module")
def examples(pair):
    return [pair.ours.processor.prompt("Left or right?" * (1 + i), media)
            for i, media in enumerate(MEDIA)]


@nnx.jit
def stages(model, batch):
    with watching() as kept:
        features = model.encode(batch.vision)
        embeds = model.embed(batch.tokens, batch.vision_index, features)
        hidden, _ = model.decode(embeds, batch.positions, batch.segment_ids)
    return model.logits(hidden), kept[-1]


def their_logits(pair, inputs, positions):
    with torch.no_grad():
        return pair.model(**inputs, position_ids=torch.tensor(positions).long(),
                          use_cache=False).logits.float().numpy()


def test_positions_and_logits_of_a_ragged_batch(pair, examples):
    shape = shape_for(examples)
    for side in ("right", "left"):
        inputs = hf5.their_inputs(pair, examples, MEDIA, side)
        positions = hf5.their_positions(pair, inputs)
        real = inputs["attention_mask"].numpy() > 0
        for row, example in enumerate(examples):
            np.testing.assert_array_equal(positions[:, row][:, real[row]], example.positions)
        batch = collate(examples, shape, pair.ours.processor.protocol, side=side)
        ours, _ = stages(pair.ours.model, jax.tree.map(jnp.asarray, batch))
        own = np.asarray(batch.segment_ids) > 0
        theirs = their_logits(pair, inputs, positions)
        for row in range(len(examples)):
            np.testing.assert_allclose(np.asarray(ours)[row][own[row]], theirs[row][real[row]],
                                       atol=1e-4)


def test_packed_rows_are_their_documents(pair, examples):
    few, media = [examples[i] for i in (1, 4)], [MEDIA[i] for i in (1, 4)]
    one = shape_for(few)
    shape = BatchShape(1, sum(e.length for e in few), sum(len(e.slots.mask) for e in few),
                       one.windows, 0)
    packed = collate(few, shape, pair.ours.processor.protocol, pack=True)
    assert np.asarray(packed.segment_ids).max() == 2
    ours = np.asarray(stages(pair.ours.model, jax.tree.map(jnp.asarray, packed))[0])
    for number, (example, own) in enumerate(zip(few, media, strict=True), 1):
        inputs = hf5.their_inputs(pair, [example], [own])
        theirs = their_logits(pair, inputs, example.positions[:, None])
        at = np.argwhere(np.asarray(packed.segment_ids) == number)
        np.testing.assert_allclose(ours[at[:, 0], at[:, 1]], theirs[0], atol=1e-4)


def test_deepstack_is_added_after_the_first_layers(pair, examples):
    """Layer by layer: what enters each, which a hook of theirs sees before anything is added."""
    entered: list[np.ndarray] = []

    def keep(module, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"])[0].numpy())

    layers = pair.model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    their_logits(pair, hf5.their_inputs(pair, [examples[4]], [MEDIA[4]]),
                 examples[4].positions[:, None])
    for hook in hooks:
        hook.remove()
    batch = collate([examples[4]], shape_for([examples[4]]), pair.ours.processor.protocol)
    _, left = stages(pair.ours.model, jax.tree.map(jnp.asarray, batch))
    assert len(entered) == len(layers) > 1
    for number, wanted in enumerate(entered[1:]):
        np.testing.assert_allclose(np.asarray(left)[number, 0][: len(wanted)], wanted, atol=1e-4)


def test_greedy_tokens_and_latents(pair, examples):
    """Tokens as transformers decodes; latents are last hidden states of passes without a cache."""
    example, media, processor = examples[4], MEDIA[4], pair.ours.processor
    batch = jax.tree.map(jnp.asarray, collate([example], shape_for([example]), processor.protocol))
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=24)
    free = dataclasses.replace(spec, temperature=0.0, forbidden=(*spec.forbidden, *spec.ends))
    chosen = dataclasses.replace(
        spec, temperature=20.0, max_latents=2 * spec.latent_size,
        forbidden=tuple(i for i in range(spec.vocab) if i not in (spec.latent_start, 301, 302)))
    inputs = hf5.their_inputs(pair, [example], [media])
    kept = {}

    def keep(module, args, kwargs):
        kept.update(kwargs)

    hook = pair.model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    their_logits(pair, inputs, example.positions[:, None])
    hook.remove()
    for own, imagined in ((free, False), (chosen, True)):
        rollout = sample(pair.ours.model, batch, jax.random.key(1), own)
        embeds, places = kept["inputs_embeds"], torch.tensor(example.positions[:, None]).long()
        there, deep, count = kept["visual_pos_masks"], kept["deepstack_visual_embeds"], 0
        allowed = np.ones(spec.vocab, bool)
        allowed[list(own.forbidden)] = False
        for token, index, sampled in zip(
                np.asarray(rollout.tokens[0]), np.asarray(rollout.latent_index[0]),
                np.asarray(rollout.sampled[0]), strict=True):
            with torch.no_grad():
                hidden = pair.model.model.language_model(
                    inputs_embeds=embeds, position_ids=places, visual_pos_masks=there,
                    deepstack_visual_embeds=deep, use_cache=False).last_hidden_state[:, -1:]
                fed = hidden
                if index >= 0:
                    np.testing.assert_allclose(np.asarray(rollout.latents[0, index]),
                                               hidden[0, 0].numpy(), atol=1e-4)
                    count += 1
                else:
                    if sampled and not imagined:
                        scores = pair.model.lm_head(hidden)[0, 0].numpy()[: spec.vocab]
                        best = int(np.argmax(np.where(allowed, scores, -np.inf)))
                        assert token == best or scores[best] - scores[token] < 1e-4
                    fed = pair.model.get_input_embeddings()(torch.tensor([[int(token)]]))
            embeds = torch.cat([embeds, fed], 1)
            places = torch.cat([places, places.amax() + torch.ones(3, 1, 1).long()], 2)
            there = torch.cat([there, torch.zeros(1, 1, dtype=torch.bool)], 1)
        assert count == (2 * spec.latent_size if imagined else count)


def test_weights_in_and_out_byte_for_byte(pair, tmp_path):
    export_hf(pair.ours, tmp_path)
    back = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path).state_dict()
    for name, value in pair.model.state_dict().items():
        assert torch.equal(value, back[name]), name
    again = reference.open_ours(tmp_path, dtype="float32")
    assert again.config == pair.ours.config and again.processor.protocol == (
        pair.ours.processor.protocol)


def test_bfloat16_is_no_worse_than_theirs(pair, examples):
    example, media = examples[5], MEDIA[5]
    inputs = hf5.their_inputs(pair, [example], [media])
    positions = example.positions[:, None]
    truth = their_logits(pair, inputs, positions)[0]
    half = transformers.AutoModelForImageTextToText.from_pretrained(
        pair.folder, dtype=torch.bfloat16).eval()
    theirs = their_logits(dataclasses.replace(pair, model=half), inputs, positions)[0]
    batch = collate([example], shape_for([example]), pair.ours.processor.protocol)
    ours, _ = stages(reference.open_ours(pair.folder, dtype="bfloat16", param_dtype="bfloat16"
                                         ).model, jax.tree.map(jnp.asarray, batch))
    mine = np.asarray(ours, np.float32)[0][: example.length]
    error, other = (np.sqrt(np.mean((x - truth) ** 2)) for x in (mine, theirs))
    assert error <= 1.05 * other
