"""Published table sizes, and tokenizers with and without the three added tokens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from flax import nnx

import fourd4d
from fourd4d import convert
from fourd4d.core.errors import InputError
from fourd4d.models import DecoderConfig, ModelConfig, Thinker, VisionConfig
from fourd4d.models.qwen2_5_vl import vocabulary
from fourd4d.parallel import DEFAULT_RULES, make_mesh
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.huggingface import export_hf, open_hf
from fourd4d.processing import HFTokenizer, Processor
from fourd4d.processing.tokenizer import IMAGERY_TOKENS
from fourd4d.sampling import SamplingSpec

FIRST = 151_643  # Of the control tokens; the imagery tokens follow at 151,665.
IDS = [151_665, 151_666, 151_667]
TABLES = [(151_668, True), (151_936, True), (152_064, False)]


def words(imagery: tuple[str, ...] = IMAGERY_TOKENS) -> HFTokenizer:
    """The published ids of every control token, over bytes and made-up words."""
    characters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate(characters)}
    vocab |= {f"word{i}": i for i in range(len(vocab), FIRST)}
    backend: Any = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(vocabulary.SPECIAL))
    backend.add_tokens([tokenizers.AddedToken(n, special=False) for n in vocabulary.ADDED])
    backend.add_special_tokens(list(imagery))
    return backend


def config_of(rows: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(width=16, layers=1, heads=2, mlp=16, full_layers=(0,), patch_size=4,
                            window=16),
        decoder=DecoderConfig(width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp=32,
                              vocab=rows, mrope_sections=(2, 1, 1), tied=tied),
        dtype="float32", remat="none")


@pytest.fixture(scope="module")
def mesh() -> Any:
    return make_mesh("data=1", jax.devices()[:1])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: Any) -> Any:
    """Makes, once, the directory of a model with so many rows and such a head."""
    made: dict[tuple[int, bool], Path] = {}

    def make(rows: int, tied: bool) -> Path:
        if (rows, tied) not in made:
            made[rows, tied] = tmp_path_factory.mktemp(f"rows{rows}")
            config = config_of(rows, tied)
            graphdef, shapes = jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0))))
            rng = np.random.default_rng(rows)
            tree = jax.tree.map(
                lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape, np.float32)), shapes)
            processor = Processor(HFTokenizer.from_json(words().to_str()), config.protocol())
            export_hf(ModelBundle(config, processor, graphdef, tree), made[rows, tied])
        return made[rows, tied]

    return make


def plain_tokenizer(directory: Path, target: Path, imagery: tuple[str, ...] = ()) -> Path:
    """The directory with a tokenizer that lacks imagery tokens, as before fine-tuning."""
    target.mkdir()
    for file in directory.iterdir():
        if file.name not in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
            (target / file.name).symlink_to(file)
    words(imagery).save(str(target / "tokenizer.json"))
    return target


@jax.jit
def _logits(hidden: jax.Array, head: jax.Array) -> jax.Array:
    return hidden @ head


@pytest.mark.parametrize("rows, tied", [
    TABLES[0], pytest.param(*TABLES[1], marks=pytest.mark.slow), TABLES[2]])
def test_tables_of_every_published_size(directory: Any, mesh: Any, rows: int, tied: bool,
                                        tmp_path: Path) -> None:
    path = directory(rows, tied)
    bundle = open_hf(path, mesh)
    assert bundle.config.decoder.vocab == rows and bundle.config.decoder.tied == tied
    assert bundle.config.decoder.valid_vocab == 151_668
    assert [bundle.processor.tokenizer.id(name) for name in IMAGERY_TOKENS] == IDS
    assert bundle.model.head().shape == (16, rows)
    spec = SamplingSpec.of(bundle.processor.tokenizer, bundle.processor.protocol, max_tokens=4)
    assert spec.vocab == 151_668  # Padding rows are never drawn.
    export_hf(bundle, tmp_path)
    back = open_hf(tmp_path, mesh)
    for a, b in zip(jax.tree.leaves(bundle.tree), jax.tree.leaves(back.tree), strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == rows


@pytest.mark.parametrize("rows, tied", TABLES)
def test_transformers_gives_the_same_logits_for_every_row(directory: Any, mesh: Any, rows: int,
                                                          tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(directory(rows, tied)).eval()
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    for name in ("tokenizer.json", "protocol.json"):
        (tmp_path / name).symlink_to(directory(rows, tied) / name)
    model = open_hf(tmp_path, mesh).model
    tokens = np.array([[5, 70_000, *IDS, 151_655, 151_645, 3]], np.int32)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(tokens).long()).logits.numpy()
    positions = np.broadcast_to(np.arange(tokens.shape[1]), (3, *tokens.shape))
    with jax.default_matmul_precision("highest"):
        hidden, _ = model.decode(model.embed(tokens), positions, np.ones_like(tokens))
        logits = _logits(hidden, model.head())
    assert logits.shape == wanted.shape == (1, 8, rows)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_odd_tables_split_over_devices(directory: Any, devices: Any) -> None:
    path = directory(151_668, True)
    whole = open_hf(path, make_mesh("data=1", devices[:1])).tree["embedding"].get_value()
    split = open_hf(path, make_mesh("fsdp=4,tensor=2", devices)).tree["embedding"]
    assert split.get_value().addressable_shards[0].data.shape == (151_668 // 2, 4)
    np.testing.assert_array_equal(split.get_value(), whole)
    eight = make_mesh("tensor=8", devices)
    rules = DEFAULT_RULES.replicating("heads", "kv_heads", "vision_heads")
    with pytest.raises(InputError, match="'vocab' has size 151668.*replicable"):
        open_hf(path, eight, rules)
    kept = open_hf(path, eight, rules.replicating("vocab")).tree["embedding"].get_value()
    np.testing.assert_array_equal(kept, whole)


def test_a_tokenizer_without_the_tokens_is_refused(directory: Any, mesh: Any, tmp_path: Path,
                                                   capsys: Any) -> None:
    path = plain_tokenizer(directory(151_936, True), tmp_path / "m")
    for opens in (lambda: open_hf(path, mesh), lambda: fourd4d.load(path)):
        with pytest.raises(InputError) as caught:
            opens()
        for word in ("tokenizer.json", *IMAGERY_TOKENS, "new_tokens='mean'", "--new-tokens mean"):
            assert word in str(caught.value)
    assert convert.main([str(path), str(tmp_path / "out")]) == 2
    assert "--new-tokens mean" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="unknown value 'median'"):
        open_hf(path, mesh, new_tokens="median")


@pytest.mark.parametrize("rows, tied", TABLES[1:])
def test_added_tokens_start_as_the_mean_of_the_trained_rows(
        directory: Any, mesh: Any, rows: int, tied: bool, tmp_path: Path) -> None:
    before = open_hf(directory(rows, tied), mesh).tree
    path = plain_tokenizer(directory(rows, tied), tmp_path / "m")
    bundle = open_hf(path, mesh, new_tokens="mean")
    assert bundle.processor.tokenizer.added == tuple(IDS)
    assert bundle.config.decoder.valid_vocab == 151_668
    tables = [("embedding", 0)] + ([] if tied else [("output", 1)])
    for name, axis in tables:
        old, new = (np.moveaxis(np.asarray(tree[name].get_value()), axis, 0)
                    for tree in (before, bundle.tree))
        mean = old[: IDS[0]].mean(0, dtype=np.float64)
        np.testing.assert_allclose(new[IDS], np.tile(mean, (3, 1)), atol=1e-6)
        rest = np.setdiff1d(np.arange(rows), IDS)
        np.testing.assert_array_equal(new[rest], old[rest])
    assert fourd4d.load(path, new_tokens="mean").bundle.processor.tokenizer.added == tuple(IDS)


def test_the_command_adds_the_tokens_for_good(directory: Any, mesh: Any, tmp_path: Path) -> None:
    path = plain_tokenizer(directory(151_936, True), tmp_path / "m")
    assert convert.main([str(path), str(tmp_path / "orbax"), "--new-tokens", "mean"]) == 0
    assert convert.main([str(tmp_path / "orbax"), str(tmp_path / "hf")]) == 0
    tokenizer = open_hf(tmp_path / "hf", mesh).processor.tokenizer
    assert [tokenizer.id(name) for name in IMAGERY_TOKENS] == IDS and tokenizer.added == ()


def test_only_the_lacking_tokens_are_added(directory: Any, mesh: Any, tmp_path: Path) -> None:
    path = plain_tokenizer(directory(151_936, True), tmp_path / "m", IMAGERY_TOKENS[:1])
    before = open_hf(directory(151_936, True), mesh).tree["embedding"].get_value()
    bundle = open_hf(path, mesh, new_tokens="mean")
    assert bundle.processor.tokenizer.added == tuple(IDS[1:])
    table = np.asarray(bundle.tree["embedding"].get_value())
    np.testing.assert_array_equal(table[IDS[0]], before[IDS[0]])
    np.testing.assert_allclose(
        table[IDS[1]], np.asarray(before)[: IDS[1]].mean(0, dtype=np.float64), atol=1e-6)


def test_a_table_without_room_is_refused(tmp_path: Path, mesh: Any, directory: Any) -> None:
    path = directory(151_668, True)
    (tmp_path / "m").mkdir()
    for file in path.iterdir():
        if file.name != "config.json":
            (tmp_path / "m" / file.name).symlink_to(file)
    value = json.loads((path / "config.json").read_text()) | {"vocab_size": 151_665}
    (tmp_path / "m" / "config.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="151668 tokens.*151665 rows.*resize_token_embeddings"):
        open_hf(tmp_path / "m", mesh)


def test_numbers_that_transformers_cannot_hold_are_not_dropped(directory: Any, mesh: Any,
                                                               tmp_path: Path) -> None:
    bundle = open_hf(directory(151_668, True), mesh)
    turned = dataclasses.replace(
        bundle.config, vision=dataclasses.replace(bundle.config.vision, rope_theta=20.0))
    with pytest.raises(InputError, match=r"vision.rope_theta 20 \(only 10000 can be written\)"):
        export_hf(dataclasses.replace(bundle, config=turned), tmp_path / "x")
