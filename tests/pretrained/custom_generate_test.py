"""An export decodes in plain transformers as it does here: tokens, latents, batch and single."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from helpers.bundles import CONFIG, TABLE_CONFIG, bundle_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fourd4d.core.protocol import ProtocolSpec  # noqa: E402
from fourd4d.data.collate import bucketed_shape, collate  # noqa: E402
from fourd4d.models.config import ImageryConfig, ModelConfig  # noqa: E402
from fourd4d.pretrained.bundle import ModelBundle  # noqa: E402
from fourd4d.pretrained.huggingface import GENERATE, HEAD, export_hf  # noqa: E402
from fourd4d.processing import Processor, chat_template  # noqa: E402
from fourd4d.processing.media import Image, Video  # noqa: E402
from fourd4d.sampling import SamplingSpec, sample  # noqa: E402

pytestmark = pytest.mark.usefixtures("highest_precision")

BUDGET, LATENTS = 40, 8
NATIVE = hasattr(transformers.GenerationMixin, "load_custom_generate")
KINDS = {"plain": {}, "mlp": {"head": "mlp"}, "blind": {"reader": "blind"},
         "table": {"config": TABLE_CONFIG, "reader": "blind"}}
TABLE = pytest.param("table", marks=pytest.mark.skipif(
    not hasattr(transformers, "Qwen3VLForConditionalGeneration"),
    reason="the family came with transformers 4.57"))


def thinker(head: str = "identity", reader: str | None = None, config: ModelConfig = CONFIG
            ) -> ModelBundle:
    """A random model that likes to begin a mental image."""
    config = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, tied=False),
        imagery=ImageryConfig("mlp", 16) if head == "mlp" else ImageryConfig())
    bundle = bundle_of(config)
    begin = bundle.processor.tokenizer.id("<|latent_start|>")
    output = bundle.tree["output"]
    bundle.tree["output"] = output.replace(output.get_value().at[:, begin].multiply(6.0))
    protocol = dataclasses.replace(bundle.processor.protocol, reader=reader, max_pixels=2048,
                                   min_pixels=256)
    return dataclasses.replace(bundle, processor=Processor(bundle.processor.tokenizer, protocol))


def prompts() -> list[tuple[str, list[Any]]]:
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> Any:
        return rng.integers(0, 256, (*shape, 3)).astype(np.uint8)

    clip = Video(pixels(4, 24, 32), np.arange(4) / 2)
    return [("Which way does the red cube go?", [clip]), ("What is it?", [Image(pixels(32, 32))]),
            ("Say something long about nothing at all, please.", []),
            ("Both?", [Image(pixels(24, 40)), Video(pixels(6, 16, 32), np.arange(6) / 1.0)])]


def grid_of(medium: Any, protocol: ProtocolSpec) -> list[int]:
    from fourd4d.processing.patches import frames_to_slots

    grid = frames_to_slots(medium.frames, protocol, kind=medium.kind)[1]
    return [grid.slots, grid.rows, grid.columns]


def their_inputs(bundle: ModelBundle, asked: Any, side: str) -> dict[str, Any]:
    """The prompts as transformers' processor would return them, from our ids and patches."""
    from fourd4d.processing.patches import frames_to_slots, token_offsets

    processor, protocol = bundle.processor, bundle.processor.protocol
    examples = [processor.prompt(text, media) for text, media in asked]
    length = max(example.length for example in examples)
    ids = np.full((len(asked), length), processor.tokenizer.id("<|endoftext|>"), np.int64)
    mask = np.zeros_like(ids)
    for row, example in enumerate(examples):
        at = slice(length - example.length, None) if side == "left" else slice(example.length)
        ids[row, at], mask[row, at] = example.tokens, 1
    inputs: dict[str, Any] = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    for kind, pixels, grids in (("image", "pixel_values", "image_grid_thw"),
                                ("video", "pixel_values_videos", "video_grid_thw")):
        media = [m for _, found in asked for m in found if m.kind == kind]
        patches = []
        for medium in media:
            slots, grid = frames_to_slots(medium.frames, protocol, kind=kind)
            own = slots.patches.reshape(grid.slots, -1, protocol.merge**2, protocol.patch_dim)
            offsets = token_offsets(grid.rows, grid.columns, protocol)
            patches.append(own[:, offsets].reshape(-1, protocol.patch_dim))
        if media:
            inputs[pixels] = torch.tensor(np.concatenate(patches))
            inputs[grids] = torch.tensor([grid_of(medium, protocol) for medium in media])
        if media and kind == "video" and protocol.times is None:
            inputs["second_per_grid_ts"] = [
                protocol.temporal_patch * float(np.diff(m.timestamps)[0]) for m in media]
    return inputs


def our_rollout(bundle: ModelBundle, asked: Any, **options: Any) -> tuple[Any, SamplingSpec]:
    processor = bundle.processor
    examples = [processor.prompt(text, media) for text, media in asked]
    batch = collate(examples, bucketed_shape(examples), processor.protocol)
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=BUDGET,
                           temperature=0.0, max_latents=LATENTS, **options)
    return jax.device_get(sample(bundle.model, batch, jax.random.key(0), spec)), spec


def opened(directory: Any, **options: Any) -> Any:
    kind = transformers.AutoModelForImageTextToText
    return kind.from_pretrained(directory, torch_dtype=torch.float32, **options).eval()


def by_file(directory: Any) -> Any:
    spec = importlib.util.spec_from_file_location("own", directory / "custom_generate/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = opened(directory)
    return lambda **inputs: module.generate(model, **inputs)


def by_name(directory: Any) -> Any:
    model = opened(directory)
    return lambda **inputs: model.generate(**inputs, custom_generate=str(directory),
                                           trust_remote_code=True)


def with_model(directory: Any) -> Any:
    return opened(directory, trust_remote_code=True).generate


WAYS = [by_file, *(pytest.param(way, marks=pytest.mark.skipif(
    not NATIVE, reason="custom_generate came with transformers 4.52"))
    for way in (by_name, with_model))]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: Any) -> Any:
    made = {}

    def of(kind: str) -> Any:
        if kind not in made:
            bundle = thinker(**KINDS[kind])
            directory = tmp_path_factory.mktemp(kind) / "model"
            export_hf(bundle, directory)
            with jax.default_matmul_precision("highest"):
                made[kind] = bundle, directory, *our_rollout(bundle, prompts())
        return made[kind]

    return of


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["plain", "mlp", "blind", TABLE])
def test_tokens_and_latents_are_ours(exported: Any, kind: str, way: Any) -> None:
    bundle, directory, rollout, spec = exported(kind)
    generate, asked = way(directory), prompts()
    options = dict(max_new_tokens=BUDGET, max_latents=LATENTS, return_dict_in_generate=True)
    runs = [(side, [*range(4)]) for side in ("left", "right")] + [("left", [n]) for n in range(4)]
    for side, rows in runs:
        inputs = their_inputs(bundle, [asked[row] for row in rows], side)
        said = generate(**inputs, **options)
        new = said.sequences[:, inputs["input_ids"].shape[1] :].numpy()
        for at, row in enumerate(rows):
            own = rollout.tokens[row][rollout.mask[row]]
            np.testing.assert_array_equal(new[at, : len(own)], own)
            assert (new[at, len(own) :] == bundle.processor.tokenizer.id("<|endoftext|>")).all()
            count = int(rollout.latent_index[row].max()) + 1
            assert said.latents[at].shape == (count, 32)
            np.testing.assert_allclose(said.latents[at], rollout.latents[row, :count], atol=1e-4)
    begun = [np.flatnonzero(row == spec.latent_start).tolist() for row in rollout.tokens]
    assert sum(map(len, begun)) >= 4 and len({tuple(at) for at in begun}) >= 2, begun


def test_the_kinds_differ(exported: Any) -> None:
    """Head and reader change what is said; else the test above would not see them."""
    said = {kind: exported(kind)[2].tokens for kind in ("plain", "mlp", "blind")}
    assert (said["mlp"] != said["plain"]).any() and (said["blind"] != said["plain"]).any()


def test_without_imagery_and_drawn(exported: Any) -> None:
    bundle, directory, _, _ = exported("plain")
    generate, asked = by_file(directory), prompts()
    inputs = their_inputs(bundle, asked, "left")
    rollout, spec = our_rollout(bundle, asked, imagery=False)
    said = generate(**inputs, max_new_tokens=BUDGET, imagery=False)
    new = said[:, inputs["input_ids"].shape[1] :]
    for row, mask in enumerate(rollout.mask):
        np.testing.assert_array_equal(new[row][: mask.sum()], rollout.tokens[row][mask])
    drawn = [generate(**inputs, max_new_tokens=BUDGET, do_sample=True, temperature=3.0, top_p=0.9,
                      generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert int(drawn[0].max()) < spec.vocab
    for options, words in ((dict(num_beams=4), "takes no num_beams"),
                           (dict(use_cache=False), "takes no use_cache=False"),
                           (dict(position_ids=torch.zeros(4, 9)), "position_ids have shape")):
        with pytest.raises(ValueError, match=words):
            generate(**inputs, **options)


def test_a_lost_head_is_an_error(exported: Any, tmp_path: Any) -> None:
    _, directory, _, _ = exported("mlp")
    copy = shutil.copytree(directory, tmp_path / "m")
    shutil.rmtree(copy / HEAD)
    with pytest.raises(OSError, match="imagery_head"):
        by_file(copy)(input_ids=torch.ones((1, 3), dtype=torch.long), max_new_tokens=2)


@pytest.mark.parametrize("kind", ["plain", TABLE])
def test_the_card_runs(exported: Any, kind: str) -> None:
    """Its own lines, on a clip."""
    if transformers.__version__ >= "5":
        pytest.importorskip("torchvision")  # Its video processor needs it.
    bundle, directory, rollout, _ = exported(kind)
    text = (directory / "README.md").read_text()
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert front and "library_name: transformers" in front[1]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert json.dumps(chat_template.user_text("", bundle.processor.protocol)) in code
    question, (clip,) = prompts()[0]
    names = dict(here=str(directory), question=question, frames=clip.frames, fps=2)
    if not NATIVE:
        code = code.replace("said = model.generate(", "said = decode(model, ").replace(
            "custom_generate=here, trust_remote_code=True, ", "")
        scope: dict[str, Any] = {}
        exec(GENERATE.read_text(), scope)
        names["decode"] = scope["generate"]
    exec(code, names)
    said: Any = names["said"]
    length = len(bundle.processor.prompt(question, [clip]).tokens)
    own = rollout.tokens[0][rollout.mask[0]][:8]
    np.testing.assert_array_equal(said.sequences[0, length : length + 8], own)
    assert said.latents[0].shape[1] == 32


def test_the_file_stands_alone() -> None:
    source = GENERATE.read_text()
    assert len(source.splitlines()) <= 200
    assert not re.search(r"^\s*(import|from) fourd4d", source, re.MULTILINE)
