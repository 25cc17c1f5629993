"""A directory that transformers 5 wrote, trained here for a few steps, run by it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.dift_config import data, tiny  # noqa: F401  (a fixture)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("torchvision")

from fourd4d import convert  # noqa: E402
from fourd4d.data.collate import collate, shape_for  # noqa: E402
from fourd4d.dift.__main__ import train  # noqa: E402
from fourd4d.models import preset, preset_protocol  # noqa: E402
from fourd4d.models.families import family  # noqa: E402
from fourd4d.parallel import make_mesh, use  # noqa: E402
from fourd4d.pretrained.huggingface import open_hf, token_ids  # noqa: E402
from fourd4d.processing import chat_template, tiny_tokenizer  # noqa: E402
from fourd4d.processing.media import Image, Video  # noqa: E402
from fourd4d.processing.sentencepiece_export import to_tokenizer_json  # noqa: E402
from fourd4d.sampling import SamplingSpec, sample  # noqa: E402

BUDGET = 12


@pytest.fixture(scope="module")
def official(tmp_path_factory: Any) -> Path:
    """A tiny random model and its processor, by transformers' classes and ``save_pretrained``."""
    root, words = tmp_path_factory.mktemp("official"), tiny_tokenizer()
    config = preset("tiny3")
    settings = transformers.Qwen3VLConfig(
        **family(config.family, root).to_hf(config, "float32", **token_ids(words)))
    torch.manual_seed(0)
    transformers.Qwen3VLForConditionalGeneration(settings).save_pretrained(root)
    to_tokenizer_json(words.model).save(root)
    shared: dict[str, Any] = dict(patch_size=8, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    size = dict(shortest_edge=32 * 32, longest_edge=16 * 64 * 64)
    transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**shared, size=size),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(root / "tokenizer.json"), eos_token="<|im_end|>",
            pad_token="<|endoftext|>"),
        video_processor=transformers.Qwen3VLVideoProcessor(**shared, size=size),
        chat_template=chat_template.jinja(preset_protocol("tiny"))).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def exported(official: Path, data: Path, tmp_path_factory: Any) -> Path:
    """What three DIFT steps made of it, as transformers' own directory again."""
    root = tmp_path_factory.mktemp("trained")
    train(tiny(data, root / "run", init=str(official), preset="", mesh="data=1", steps=3,
               **{"data.held_out": ""}))
    assert not convert.main([str(root / "run" / "checkpoints"), str(root / "model"), "--to", "hf"])
    return root / "model"


def asked() -> tuple[str, Image, Video]:
    rng = np.random.default_rng(0)
    still = Image(rng.integers(0, 256, (32, 48, 3), np.uint8))
    clip = Video(rng.integers(0, 256, (5, 32, 32, 3), np.uint8), 0.7 + np.arange(5) / 1.5)
    return "Which way does it go?", still, clip


def test_transformers_alone_prepares_and_says_the_same(official: Path, exported: Path) -> None:
    question, still, clip = asked()
    processor = transformers.AutoProcessor.from_pretrained(exported)
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        exported, torch_dtype=torch.float32).eval()
    with use(mesh := make_mesh("data=1", jax.local_devices()[:1])):
        bundle = open_hf(exported, mesh)
    protocol = bundle.processor.protocol
    assert protocol.times == "text" and protocol.budget == "video"
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [
            {"type": "image"}, {"type": "video"},
            {"type": "text", "text": chat_template.user_text(question, protocol)}]}],
        add_generation_prompt=True, tokenize=False)
    times = dict(total_num_frames=5, fps=1.0, frames_indices=clip.timestamps.tolist())
    inputs = processor(text=[prompt], images=[still.pixels], videos=[clip.frames],
                       video_metadata=[times], do_sample_frames=False, return_tensors="pt")
    example = bundle.processor.prompt(question, [still, clip])
    np.testing.assert_array_equal(inputs["input_ids"][0], example.tokens)
    assert not torch.equal(model.state_dict()["lm_head.weight"],
                           transformers.AutoModelForImageTextToText.from_pretrained(official)
                           .state_dict()["lm_head.weight"])

    spec = SamplingSpec.of(bundle.processor.tokenizer, protocol, max_tokens=BUDGET)
    spec = dataclasses.replace(spec, temperature=0.0)
    batch = collate([example], shape_for([example]), protocol)
    with jax.default_matmul_precision("highest"):
        rollout = jax.device_get(sample(bundle.model, batch, jax.random.key(0), spec))
    said = model.generate(**inputs, custom_generate=str(exported), trust_remote_code=True,
                          max_new_tokens=BUDGET)
    length, mine = example.length, rollout.tokens[0][rollout.mask[0]]
    np.testing.assert_array_equal(said[0, length : length + len(mine)], mine)
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert plain.shape[1] > length


def test_what_transformers_saves_again_opens_here(exported: Path, tmp_path: Path) -> None:
    """Its files replace ours; the protocol travels in its image processor's."""
    from fourd4d.processing.processor import load_processor

    transformers.AutoProcessor.from_pretrained(exported).save_pretrained(tmp_path)
    again = load_processor(tmp_path, preset("tiny3").protocol())
    assert again.protocol == load_processor(exported).protocol
