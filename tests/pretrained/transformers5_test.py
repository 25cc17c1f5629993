"""A directory that transformers 5 wrote, trained here by both trainers, run by it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.dift_config import data, tiny  # noqa: F401  (a fixture)
from helpers.rl_config import reward_by_length
from helpers.rl_config import tiny as rl_tiny
from ml_collections import ConfigDict

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("torchvision")

from fourd4d import convert  # noqa: E402
from fourd4d.data.collate import collate, shape_for  # noqa: E402
from fourd4d.dift.__main__ import train as dift  # noqa: E402
from fourd4d.models import preset, preset_protocol  # noqa: E402
from fourd4d.models.families import family  # noqa: E402
from fourd4d.parallel import make_mesh, use  # noqa: E402
from fourd4d.pretrained.huggingface import open_hf, token_ids  # noqa: E402
from fourd4d.processing import chat_template, tiny_tokenizer  # noqa: E402
from fourd4d.processing.media import Image, Video  # noqa: E402
from fourd4d.processing.sentencepiece_export import to_tokenizer_json  # noqa: E402
from fourd4d.rl.__main__ import train as rl  # noqa: E402
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
def trained(official: Path, data: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """What three DIFT steps made of it, and two of 4DRL, on adapters, of that; as transformers' own
    directories.
    """
    root = tmp_path_factory.mktemp("trained")

    def export(name: str) -> Path:
        told = [str(root / name / "checkpoints"), str(root / f"{name}_hf"), "--to", "hf"]
        assert not convert.main(told)
        return root / f"{name}_hf"

    dift(tiny(data, root / "dift", init=str(official), preset="", mesh="data=1", steps=3,
              **{"data.held_out": ""}))
    found = {"dift": export("dift")}
    config = rl_tiny(data, root / "rl", init=str(found["dift"]), preset="", mesh="data=1", steps=2,
                     trainable=(r".*/lora_[ab]",), **{"optimizer.learning_rate": 0.05})
    with config.unlocked():
        config.model = ConfigDict(dict(lora=dict(rank=2, alpha=4.0, targets=("q", "v", "down"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourd4d.rl.trainer.score", reward_by_length)
        rl(config)
    return found | {"rl": export("rl")}


@pytest.fixture(scope="module", params=["dift", "rl"])
def exported(trained: dict[str, Path], request: Any) -> Path:
    return trained[request.param]


def asked() -> tuple[str, Image, Video]:
    rng = np.random.default_rng(0)
    still = Image(rng.integers(0, 256, (32, 48, 3), np.uint8))
    clip = Video(rng.integers(0, 256, (5, 32, 32, 3), np.uint8), 0.7 + np.arange(5) / 1.5)
    return "Which way does it go?", still, clip


def queries_of(directory: Path) -> Any:
    model = transformers.AutoModelForImageTextToText.from_pretrained(directory)
    return model.state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"]


def test_transformers_alone_prepares_and_says_the_same(exported: Path) -> None:
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


def test_each_stage_has_learnt(official: Path, trained: dict[str, Path]) -> None:
    before, after, last = map(queries_of, (official, trained["dift"], trained["rl"]))
    assert not torch.equal(before, after) and (after - last).abs().max() > 1e-3


def test_what_transformers_saves_again_opens_here(exported: Path, tmp_path: Path) -> None:
    """Its files replace ours; the protocol travels in its image processor's."""
    from fourd4d.processing.processor import load_processor

    transformers.AutoProcessor.from_pretrained(exported).save_pretrained(tmp_path)
    again = load_processor(tmp_path, preset("tiny3").protocol())
    assert again.protocol == load_processor(exported).protocol
