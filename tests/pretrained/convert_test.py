"""Hugging Face directories in and out, and every way they can be bad."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from helpers.bundles import CONFIG, bundle_of

from fourd4d import convert
from fourd4d.checkpoint import safetensors
from fourd4d.core import files
from fourd4d.core.errors import InputError
from fourd4d.models import LoraConfig, qwen2_5_vl
from fourd4d.models.config import ImageryConfig
from fourd4d.parallel import make_mesh
from fourd4d.pretrained import huggingface
from fourd4d.pretrained.huggingface import _mean_rows, export_hf, hf_config, open_hf
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.processing import Processor, load_processor, tiny_tokenizer


def flat(bundle):
    return {"/".join(map(str, path)): np.asarray(leaf.get_value())
            for path, leaf in nnx.to_flat_state(bundle.tree)}


def assert_same(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("data=1", jax.devices()[:1])


@pytest.fixture(scope="module")
def bundle():
    return bundle_of()


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported")
    export_hf(bundle, directory)
    return directory


@pytest.fixture
def directory(exported, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "model")


@pytest.fixture
def sharded(bundle, tmp_path):
    """The same model in several shards."""
    assert len(export_hf(bundle, tmp_path / "s", shard_bytes=40_000)) > 2
    return tmp_path / "s"


def rewrite(directory, change):
    """Changes the tensors of a single-file directory with the safetensors library."""
    from safetensors.numpy import load_file, save_file

    file = directory / "model.safetensors"
    tensors = dict(load_file(file))
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file)


def test_round_trip_is_exact(bundle, exported, mesh):
    back = open_hf(exported, mesh)
    assert_same(back, bundle)
    assert back.config.decoder == bundle.config.decoder
    assert back.config.vision == bundle.config.vision
    assert back.processor.protocol == bundle.processor.protocol


def test_the_library_reads_what_we_write(bundle, exported):
    from safetensors.numpy import load_file

    tensors = load_file(exported / "model.safetensors")
    ours = flat(bundle)
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.q_proj.weight"],
        ours["decoder/blocks/q/kernel"][1].reshape(32, 32).T)
    qkv = tensors["visual.blocks.0.attn.qkv.weight"]
    np.testing.assert_array_equal(qkv[16:32], ours["vision/blocks/k/kernel"][0].reshape(16, 16).T)
    assert tensors["visual.patch_embed.proj.weight"].shape == (16, 3, 2, 4, 4)


def test_shards_and_untied_head(sharded, bundle, mesh, tmp_path):
    assert_same(open_hf(sharded, mesh), bundle)
    untied = bundle_of(dataclasses.replace(
        CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tied=False)))
    export_hf(untied, tmp_path / "untied")
    assert_same(open_hf(tmp_path / "untied", mesh), untied)


def test_the_small_files_say_what_is_beside_them(bundle, exported, sharded):
    words = bundle.processor.tokenizer
    end, pad = words.id("<|im_end|>"), words.id("<|endoftext|>")
    said = json.loads((exported / "generation_config.json").read_text())
    assert said["eos_token_id"] == [end, pad] and said["pad_token_id"] == pad
    assert said["do_sample"] is False
    value = json.loads((exported / "config.json").read_text())
    assert value["torch_dtype"] == "float32" and value["eos_token_id"] == end
    for name in ("image", "video", "vision"):
        assert value[f"{name}_token_id"] == words.id(f"<|{name}_pad|>")
    for name in ("start", "end"):
        assert value[f"vision_{name}_token_id"] == words.id(f"<|vision_{name}|>")
    index = json.loads((sharded / safetensors.INDEX).read_text())
    tensors = safetensors.open_directory(sharded)
    assert index["weight_map"] == {key: tensors[key].file.name for key in sorted(tensors)}
    assert index["metadata"]["total_size"] == sum(t.stop - t.start for t in tensors.values())


def test_export_over_another_layout_leaves_no_stale_shard(sharded, bundle, mesh):
    export_hf(bundle, sharded)
    assert [f.name for f in sharded.glob("*.safetensors*")] == ["model.safetensors"]
    assert_same(open_hf(sharded, mesh), bundle)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(bundle, mesh, tmp_path, dtype):
    export_hf(bundle, tmp_path / "half", dtype=dtype)
    stored = {t.dtype for t in safetensors.open_directory(tmp_path / "half").values()}
    assert stored == {{"float16": "F16", "bfloat16": "BF16"}[dtype]}
    back = open_hf(tmp_path / "half", mesh)
    assert back.config.param_dtype == dtype
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    for name, value in flat(bundle).items():
        np.testing.assert_array_equal(flat(back)[name], value.astype(kind), err_msg=name)
    wide = open_hf(tmp_path / "half", mesh, param_dtype="float32")
    assert flat(wide)["embedding"].dtype == np.float32


def test_newer_prefixes_and_stored_tied_head(bundle, directory, mesh):
    def rename(tensors):
        for key in list(tensors):
            new = (f"model.{key}" if key.startswith("visual.")
                   else key.replace("model.", "model.language_model.", 1))
            tensors[new] = tensors.pop(key)
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]

    rewrite(directory, rename)
    assert_same(open_hf(directory, mesh), bundle)
    rewrite(directory, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(InputError, match="ties lm_head.weight .* but they differ"):
        open_hf(directory, mesh)


def newer(directory):
    """Its small files as transformers 5 writes them."""
    value = json.loads((directory / "config.json").read_text())
    rope = {**value.pop("rope_scaling"), "rope_theta": value.pop("rope_theta"),
            "rope_type": "default"}
    decoder = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
               "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "vocab_size",
               "hidden_act", "use_sliding_window", "sliding_window", "max_window_layers")
    value["text_config"] = {"model_type": "qwen2_5_vl_text", "rope_parameters": rope,
                            **{name: value.pop(name) for name in decoder}}
    value["text_config"]["tie_word_embeddings"] = value["tie_word_embeddings"]
    value["tie_word_embeddings"] = False  # The default; older writers set the inner one only.
    value["dtype"] = value.pop("torch_dtype")
    value["vision_config"] |= {"model_type": "qwen2_5_vl_vision", "rope_parameters": {
        "rope_theta": 10_000.0, "rope_type": "axial"}}
    (directory / "config.json").write_text(json.dumps(value))
    images = json.loads((directory / "preprocessor_config.json").read_text())
    del images["min_pixels"], images["max_pixels"]
    (directory / "processor_config.json").write_text(json.dumps(
        {"image_processor": images, "processor_class": "Qwen2_5_VLProcessor"}))
    for name in ("preprocessor_config.json", "chat_template.json", "protocol.json"):
        (directory / name).unlink()
    return value


def test_what_newer_transformers_writes(mesh, tmp_path):
    bundle = bundle_of(dataclasses.replace(
        CONFIG, decoder=dataclasses.replace(CONFIG.decoder, rope_theta=20_000.0),
        vision=dataclasses.replace(CONFIG.vision, tokens_per_second=4.0)))
    directory = tmp_path / "model"
    export_hf(bundle, directory)
    value = newer(directory)
    back = open_hf(directory, mesh)
    assert_same(back, bundle)
    assert back.config == dataclasses.replace(
        bundle.config, dtype="float32", param_dtype="float32", remat=back.config.remat)
    assert back.processor.protocol == bundle.processor.protocol
    del value["vision_config"]["tokens_per_second"]  # Left out where it is their default, 4.
    (directory / "config.json").write_text(json.dumps(value))
    assert open_hf(directory, mesh).processor.protocol == bundle.processor.protocol
    (directory / "processor_config.json").write_text("{}")
    refused(directory, mesh, "processor_config.json", "no image_processor")


def test_read_straight_onto_shards(exported, bundle, devices):
    mesh = make_mesh("fsdp=4,tensor=2", devices)
    back = open_hf(exported, mesh)
    assert_same(back, bundle)
    kernel = back.tree["decoder"]["blocks"]["gate"]["kernel"].get_value()
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size


def test_orbax_and_back(exported, bundle, mesh, tmp_path):
    assert convert.main([str(exported), str(tmp_path / "orbax")]) == 0
    assert_same(open_checkpoint(tmp_path / "orbax", mesh), bundle)
    assert convert.main([str(tmp_path / "orbax"), str(tmp_path / "hf")]) == 0
    assert_same(open_checkpoint(tmp_path / "hf", mesh), bundle)
    assert convert.main([str(exported), str(tmp_path / "hf")]) == 2


def test_adapters_start_as_nothing_and_merge(exported, bundle, mesh, tmp_path):
    lora = open_hf(exported, mesh, lora=LoraConfig(rank=2, alpha=4.0, targets=("q", "up")))
    values = flat(lora)
    assert not values["decoder/blocks/q/lora_b"].any()
    assert values["decoder/blocks/q/lora_a"].std() > 0.05
    rng = np.random.default_rng(0)
    q, up = (lora.tree["decoder"]["blocks"][name] for name in ("q", "up"))
    for part in (q, up):
        part["lora_b"] = part["lora_b"].replace(
            jax.numpy.asarray(rng.standard_normal(part["lora_b"].shape), np.float32))
    export_hf(lora, tmp_path / "merged")
    merged = open_hf(tmp_path / "merged", mesh)
    embeds = rng.standard_normal((1, 6, 32)).astype(np.float32)
    positions, ones = np.tile(np.arange(6), (3, 1, 1)), np.ones((1, 6), np.int32)
    hidden = [b.model.decode(embeds, positions, ones)[0] for b in (lora, merged, bundle)]
    np.testing.assert_allclose(hidden[1], hidden[0], atol=2e-5)
    assert np.abs(np.asarray(hidden[2] - hidden[0])).max() > 0.1


def test_statistics_of_training_stay_behind(exported, mesh, tmp_path):
    kept = open_hf(exported, mesh, imagery=ImageryConfig(centred=4))
    assert kept.model.imagery.mean.shape[0] == 4
    export_hf(kept, tmp_path)
    again = open_hf(tmp_path, mesh)
    assert "imagery" not in again.tree
    for a, b in zip(jax.tree.leaves(again.tree), jax.tree.leaves(open_hf(exported, mesh).tree),
                    strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_imagery_head_travels(exported, mesh, tmp_path):
    head = open_hf(exported, mesh, imagery=ImageryConfig("mlp", 8))
    down = head.tree["imagery"]["down"]["kernel"]
    filled = np.random.default_rng(0).standard_normal(down.shape).astype(np.float32)
    head.tree["imagery"]["down"]["kernel"] = down.replace(jax.numpy.asarray(filled))
    directory = tmp_path / "x"
    files = export_hf(head, directory)
    assert [file.parent.name for file in files] == ["x", "imagery_head"]
    back = open_hf(directory, mesh)
    assert_same(back, head)
    assert back.config.imagery == ImageryConfig("mlp", 8)
    with pytest.raises(InputError, match="imagery.gate.weight: shape .8, 32., wanted .9, 32."):
        open_hf(directory, mesh, imagery={"mlp": 9})
    plain = open_hf(exported, mesh)
    export_hf(plain, directory)  # Over it: the former head goes.
    assert_same(open_hf(directory, mesh), plain)
    assert not (directory / "imagery_head").exists()


@pytest.mark.parametrize("said", [[], {"head": "mlp"}, {"head": "rnn", "head_width": 3},
                                  {"head": "mlp", "head_width": "8"}])
def test_a_head_told_wrongly(directory, mesh, said):
    value = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(value | {"fourd4d": said}))
    refused(directory, mesh, "config.json", "tells of an imagery head")


def test_mean_rows():
    bundle = bundle_of(dataclasses.replace(
        CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tied=False)))
    before = flat(bundle)
    copy = jax.tree.map(lambda x: x.copy(), bundle.tree)
    after = flat(dataclasses.replace(bundle, tree=_mean_rows(copy, (100, 101, 102))))
    for name, axis in (("embedding", 0), ("output", 1)):
        old, new = np.moveaxis(before[name], axis, 0), np.moveaxis(after[name], axis, 0)
        np.testing.assert_allclose(new[100:103], np.tile(old[:100].mean(0), (3, 1)), atol=1e-6)
        np.testing.assert_array_equal(new[:100], old[:100])
        np.testing.assert_array_equal(new[103:], old[103:])


def refused(directory, mesh, *words):
    with pytest.raises(InputError) as caught:
        open_hf(directory, mesh)
    for word in words:
        assert word in str(caught.value), f"{word!r} not in: {caught.value}"


def test_missing_shard(sharded, mesh):
    victim = sorted(sharded.glob("*.safetensors"))[1]
    victim.unlink()
    refused(sharded, mesh, "shards are missing", victim.name)


@pytest.mark.parametrize("keep", [4, 100, -10])
def test_truncated_shard(sharded, mesh, keep):
    victim = sorted(sharded.glob("*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:keep])
    refused(sharded, mesh, victim.name, "Copy the shard again")


@pytest.mark.parametrize("length, size", [(1 << 62, 100), (101 << 20, 102 << 20)])
def test_a_header_too_long_to_be_one(directory, mesh, length, size):
    file = directory / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}")
    os.truncate(file, size)  # Sparse.
    refused(directory, mesh, "model.safetensors", "hold no whole header")


def test_a_header_that_is_none(directory, mesh):
    (directory / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"[" * 40)
    refused(directory, mesh, "is not a safetensors header")


@pytest.mark.parametrize("change", [
    dict(data_offsets=[-64, 64]), dict(data_offsets=[128, 64]), dict(data_offsets=[0]),
    dict(data_offsets=["0", "128"]), dict(data_offsets=[0.0, 128.0]), dict(shape=["x"]),
    dict(shape=[1.5])])
def test_a_header_that_makes_no_sense(directory, mesh, change):
    rewrite_header(directory, lambda header: header["model.norm.weight"].update(change))
    refused(directory, mesh, "model.safetensors", "header", "Copy the shard again")


def rewrite_header(directory, change):
    file = directory / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_tensors_that_share_bytes(directory, mesh):
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(2)]

    def share(header):
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    rewrite_header(directory, share)
    refused(directory, mesh, "model.safetensors", *names, "share bytes", "Copy the shard again")


@pytest.mark.parametrize("dtype", ["F64", None, ["F32"]])
def test_a_dtype_that_is_not_read(directory, mesh, dtype):
    def change(header):
        header["model.norm.weight"]["dtype"] = dtype
    rewrite_header(directory, change)
    refused(directory, mesh, f"model.norm.weight: dtype {dtype} in model.safetensors, wanted one")


def test_a_folder_called_like_the_weights(directory, mesh):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").mkdir()
    refused(directory, mesh, "model.safetensors: it is a folder")


@pytest.mark.parametrize("text, words", [
    ("{", "malformed JSON"), ("[]", "not a JSON object"), (b"\xff", "not UTF-8"),
    ('{"weight_map": {"a": 1}}', "no index of shards"),
    ('{"weight_map": {"a": 1, "b": "c"}}', "no index of shards"),
    ('{"weight_map": ["a"]}', "no index of shards"), ("[" * 100_000, "nested too deeply"),
])
def test_an_index_that_is_none(sharded, mesh, text, words):
    (sharded / safetensors.INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(sharded, mesh, f"{safetensors.INDEX}: ", words)


def test_files_of_two_models(sharded, directory, bundle, mesh):
    shutil.copy(directory / "model.safetensors", sharded)
    refused(sharded, mesh, "model.safetensors, and model.safetensors.index.json of other files")
    (sharded / safetensors.INDEX).unlink()
    assert_same(open_hf(sharded, mesh), bundle)


def test_index_and_shards_of_two_models(sharded, mesh):
    index, shards = sharded / safetensors.INDEX, sorted(sharded.glob("*.safetensors"))
    value = json.loads(index.read_text())
    right = value["weight_map"]["model.norm.weight"]
    value["weight_map"]["model.norm.weight"] = next(
        shard.name for shard in shards if shard.name != right)
    index.write_text(json.dumps(value))
    refused(sharded, mesh, safetensors.INDEX, "not where it says: model.norm.weight")


def test_a_tensor_in_two_shards(sharded, mesh):
    shards = sorted(sharded.glob("*.safetensors"))
    shutil.copy(shards[0], shards[1])
    refused(sharded, mesh, shards[1].name, "is in another shard too", "Remove one")


def test_one_tensor_under_two_names(directory, mesh):
    rewrite(directory, lambda tensors: tensors.update(
        {"model.language_model.norm.weight": tensors["model.norm.weight"]}))
    refused(directory, mesh, "model.norm.weight' and 'model.language_model.norm.weight",
            "Keep the tensors of one naming")


def test_prefixes_of_the_releases_between_and_buffers(mesh, tmp_path):
    untied = bundle_of(dataclasses.replace(
        CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tied=False)))
    export_hf(untied, tmp_path)

    def rename(tensors):
        for key in list(tensors):
            if not key.startswith("visual."):
                tensors[f"language_model.{key}"] = tensors.pop(key)
        tensors["visual.rotary_pos_emb.inv_freq"] = np.ones(4, np.float32)
        tensors["language_model.model.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    rewrite(tmp_path, rename)
    assert_same(open_hf(tmp_path, mesh), untied)


def test_numbers_of_the_config_are_read_and_written(mesh, tmp_path):
    decoder = dataclasses.replace(CONFIG.decoder, eps=3e-5, rope_theta=20_000.0, max_positions=777)
    vision = dataclasses.replace(CONFIG.vision, full_layers=(0,), tokens_per_second=2.5)
    bundle = bundle_of(dataclasses.replace(CONFIG, decoder=decoder, vision=vision))
    export_hf(bundle, tmp_path)
    value = json.loads((tmp_path / "config.json").read_text())
    assert (value["rms_norm_eps"], value["rope_theta"], value["max_position_embeddings"]) == (
        3e-5, 20_000.0, 777)
    assert (value["vision_config"]["fullatt_block_indexes"],
            value["vision_config"]["tokens_per_second"]) == ([0], 2.5)
    back = hf_config(tmp_path)
    assert back.vision == vision and back.decoder == decoder
    value["vision_config"]["rope_parameters"] = {"rope_theta": 500.0}
    del value["torch_dtype"], value["rms_norm_eps"]
    value["text_config"] = {"dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(value))
    assert hf_config(tmp_path).param_dtype == "float16"
    value["text_config"] = {"torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(value))
    back = hf_config(tmp_path)
    assert back.vision.rope_theta == 500.0 and back.param_dtype == "bfloat16"
    assert back.decoder.eps == 1e-5  # transformers' default, which its writers leave out.


def test_all_that_does_not_fit_is_named_at_once(directory, mesh):
    def spoil(tensors):
        tensors["extra.weight"] = np.zeros(3, np.float32)
        del tensors["model.norm.weight"], tensors["visual.blocks.1.attn.qkv.bias"]
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((4, 4), np.float32)
        tensors["model.layers.2.self_attn.q_proj.bias"] = np.zeros(32, np.int8)

    rewrite(directory, spoil)
    refused(directory, mesh, "5 tensors", "extra.weight: unused", "model.norm.weight: missing",
            "visual.blocks.1.attn.qkv.bias: missing", "up_proj.weight: shape [4, 4]",
            "q_proj.bias: dtype I8")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nan(bundle, mesh, tmp_path, value, dtype):
    spoilt = jax.tree.map(lambda x: x, bundle.tree)
    up = spoilt["decoder"]["blocks"]["up"]["kernel"]
    up[...] = up[...].at[1, 3, 5].set(value)
    export_hf(dataclasses.replace(bundle, tree=spoilt), tmp_path / "n", dtype=dtype)
    refused(tmp_path / "n", mesh, "model.layers.1.mlp.up_proj.weight", "NaN")


def test_pickle(directory, mesh):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refused(directory, mesh, "pickle", "safe_serialization=True")


@pytest.mark.parametrize("change, word", [
    (dict(model_type="llava"), "not a known family"),
    (dict(num_attention_heads=5), "does not divide"),
    (dict(hidden_size=64), "out_hidden_size 32"),
    (dict(rope_scaling=None), "mrope_section"),
    (dict(num_hidden_layers="three"), "not a positive integer"),
    (dict(rope_theta="far"), "rope_theta is 'far', not a positive number"),
    (dict(rope_scaling=dict(type="mrope", mrope_section="1,1,2")), "not a list of integers"),
    (dict(rope_scaling=dict(type="yarn", mrope_section=[1, 1, 2])), "'yarn' is not supported"),
    (dict(text_config="large"), "text_config is not an object"),
    (dict(use_sliding_window=True), "use_sliding_window"),
    (dict(model_type=["qwen2_5_vl"]), "not a known family"),
    (dict(torch_dtype=["float32"]), "torch_dtype ['float32']"),
    (dict(torch_dtype=None, text_config="large"), "text_config is not an object"),
    (dict(num_hidden_layers=True), "num_hidden_layers is True"),
    (dict(max_position_embeddings="far"), "max_position_embeddings is 'far'"),
    (dict(rms_norm_eps=float("nan")), "the number NaN is not finite"),
    (dict(rope_theta=float("inf")), "the number Infinity is not finite"),
    (dict(rope_scaling=dict(type="mrope", mrope_section=[-1, 2, 3])), "[-1, 2, 3], not a list"),
    (dict(tie_word_embeddings="no"), "tie_word_embeddings is 'no'"),
    (dict(num_key_value_heads=3), "config.json: ModelConfig.decoder.kv_heads: 3 does not"),
    (dict(num_hidden_layers=4), "model.layers.3.mlp.up_proj.weight: missing"),
    (dict(vocab_size=2000), "embed_tokens.weight: shape [1024, 32], wanted [2000, 32]"),
])
def test_config(directory, mesh, change, word):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(directory, mesh, word)


@pytest.mark.parametrize("part, field", [("", "num_hidden_layers"), ("vision_config", "depth")])
def test_more_layers_than_any_list_holds(directory, mesh, part, field):
    path = directory / "config.json"
    value = json.loads(path.read_text())
    (value[part] if part else value)[field] = 10**12
    path.write_text(json.dumps(value))
    refused(directory, mesh, "config has 1000000000000 layers, the files", "belongs to the weights")


def test_config_absent_or_malformed(directory, mesh):
    for text, what in (("{", "malformed JSON"), ("[" * 100_000, "nested too deeply"),
                       ('{"a": ' + "1" * 400 + "}", "a number of 400 digits")):
        (directory / "config.json").write_text(text)
        refused(directory, mesh, "config.json: ", what)
    (directory / "config.json").unlink()
    refused(directory, mesh, "no such file")


def test_index_that_points_outside(sharded, mesh):
    index = sharded / safetensors.INDEX
    value = json.loads(index.read_text())
    value["weight_map"]["model.norm.weight"] = "../secret.safetensors"
    index.write_text(json.dumps(value))
    refused(sharded, mesh, "outside the directory")


@pytest.mark.parametrize("after", [0, 5])
def test_a_full_disk_leaves_no_half_file(bundle, tmp_path, monkeypatch, after):
    pieces = itertools.count()

    def full(piece):
        if next(pieces) >= after:
            raise OSError(28, "No space left on device")
        return packed(piece)

    packed = safetensors._packed
    monkeypatch.setattr(safetensors, "_packed", full)
    with pytest.raises(InputError, match="no space left on the disk"):
        export_hf(bundle, tmp_path / "f")
    assert not list((tmp_path / "f").iterdir())


@pytest.mark.parametrize("over", [False, True], ids=["new", "over another export"])
@pytest.mark.parametrize("stage", ["shards", "files", "config"])
def test_a_half_written_export_is_no_model(bundle, sharded, mesh, tmp_path, monkeypatch, over,
                                           stage):
    """Wherever it is broken off, what is there is refused, here and by transformers."""
    target = sharded if over else tmp_path / "new"

    def broken(*_):
        raise KeyboardInterrupt

    def second_shard(file, *rest):
        return broken() if "00002" in file.name else write_file(file, *rest)

    def config(path):
        return broken() if path.name == "config.json" else replacing(path)

    write_file, replacing = safetensors._write_file, files.replacing
    if stage == "shards":
        monkeypatch.setattr(safetensors, "_write_file", second_shard)
    elif stage == "files":
        monkeypatch.setattr(Processor, "export", broken)
    else:
        monkeypatch.setattr(huggingface, "replacing", config)
    with pytest.raises(KeyboardInterrupt):
        export_hf(bundle_of(seed=1), target, shard_bytes=40_000)
    monkeypatch.undo()
    assert list(target.glob("*.safetensors"))
    refused(target, mesh, "config.json", "no such file")
    if stage == "shards":  # Nor are old and new shards read as one model.
        bundle.processor.export(target, qwen2_5_vl.CLASSES)
        (target / "config.json").write_text(json.dumps(qwen2_5_vl.to_hf(CONFIG, "float32")))
        refused(target, mesh, "no model.safetensors.index.json")
    else:
        transformers = pytest.importorskip("transformers")
        with pytest.raises((OSError, ValueError)):
            transformers.AutoModelForImageTextToText.from_pretrained(target)


def test_export_over_another_tokenizer_leaves_none_of_it(directory, tmp_path):
    from helpers.tokenizers import small_bpe

    assert (directory / "tokenizer.model").exists()
    Processor(small_bpe(), CONFIG.protocol()).export(directory, qwen2_5_vl.CLASSES)
    assert load_processor(directory).tokenizer.vocab_size == small_bpe().vocab_size


@pytest.mark.parametrize("method, where", [("awq", ""), ("gptq", ""), ("fp8", "text_config"),
                                           ("bitsandbytes", "")])
def test_quantized_weights_are_called_so(directory, mesh, method, where):
    path = directory / "config.json"
    value = json.loads(path.read_text())
    quantized = {"quantization_config": {"quant_method": method, "bits": 4}}
    value |= {where: value.get(where, {}) | quantized} if where else quantized
    path.write_text(json.dumps(value))
    refused(directory, mesh, f"quantized ({method})", "dequantize")


@pytest.mark.parametrize("key, dtype, method", [
    ("model.layers.0.mlp.up_proj.qweight", np.int32, "GPTQ or AWQ"),
    ("model.layers.0.mlp.up_proj.weight_scale_inv", np.float32, "FP8"),
    ("model.layers.0.mlp.up_proj.weight.absmax", np.uint8, "bitsandbytes"),
    ("model.layers.0.mlp.up_proj.weight_packed", np.int32, "compressed-tensors"),
])
def test_quantized_tensors_are_called_so_whatever_the_config(directory, mesh, key, dtype, method):
    rewrite(directory, lambda tensors: tensors.update({key: np.zeros((4, 4), dtype)}))
    refused(directory, mesh, f"quantized ({method})", key, "dequantize")


def test_weights_of_eight_bits_are_quantized(directory, mesh):
    rewrite_header(directory, lambda header: header["model.norm.weight"].update(dtype="F8_E4M3"))
    refused(directory, mesh, "quantized (FP8): 'model.norm.weight', F8_E4M3")


@pytest.mark.parametrize("said, how", [({"load_in_4bit": True}, "bitsandbytes"), ("int8", "int8"),
                                       ({"bits": 4}, "unnamed method")])
def test_a_method_without_a_name_is_told_as_well_as_it_can_be(directory, mesh, said, how):
    path = directory / "config.json"
    value = json.loads(path.read_text()) | {"quantization_config": said}
    path.write_text(json.dumps(value))
    refused(directory, mesh, f"quantized ({how})", "dequantize")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors",
                                  "adapter_model.bin", "adapter_2.safetensors"])
def test_an_adapter_beside_the_weights_is_not_passed_over(directory, mesh, name):
    (directory / name).write_text("{}")
    refused(directory, mesh, name, "would not be used", "merge_and_unload", "or remove it")


def test_an_adapter_alone_and_an_adapters_tensors(directory, mesh, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    refused(tmp_path, mesh, "this is an adapter, without the model", "merge_and_unload and save")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite(directory, lambda tensors: tensors.update({key: np.zeros((2, 2), np.float32)}))
    refused(directory, mesh, key, "is an adapter's", "merge_and_unload")


@pytest.mark.parametrize("name, words", [
    ("model-q4_k_m.gguf", "weights as GGUF"), ("pytorch_model-00001-of-00002.bin", "pickle"),
    ("tf_model.h5", "another framework"), ("flax_model.msgpack", "another framework"),
    ("model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors alone, and no model"),
])
@pytest.mark.parametrize("config", [True, False])
def test_weights_of_another_kind_alone(directory, mesh, name, words, config):
    (directory / "model.safetensors").rename(directory / name)
    if not config:
        (directory / "config.json").unlink()
        words = words if "alone" not in words else "config.json: no such file"
    refused(directory, mesh, words)


def test_bytes_that_belong_to_no_tensor(directory, mesh):
    """As the official library: neither holes nor a tail."""
    file = directory / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(8))
    refused(directory, mesh, "model.safetensors: its last 8 bytes belong to no tensor")
    file.write_bytes(whole)
    rewrite_header(directory, lambda header: header.pop("model.norm.weight"))
    refused(directory, mesh, "128 bytes before", "belong to no tensor", "Copy the shard again")


NUMBER = "1" * 400


@pytest.mark.parametrize("file, text, what", [
    ("model.safetensors", f'{{"a": {{"dtype": "F32", "shape": [{NUMBER}]}}}}',
     "a number of 400 digits"),
    ("model.safetensors.index.json", f'{{"weight_map": {{"a": {NUMBER}}}}}',
     "a number of 400 digits"),
    ("preprocessor_config.json", f'{{"patch_size": {NUMBER}}}', "a number of 400 digits"),
    ("preprocessor_config.json", "[" * 100_000, "nested too deeply"),
    ("protocol.json", "[" * 100_000, "nested too deeply"),
    ("tokenizer.json", f'{{"version": {NUMBER}}}', "no tokenizer.json"),
    ("tokenizer.json", "[" * 100_000, "no tokenizer.json"),
    ("tokenizer.json", "", "no tokenizer.json"), ("preprocessor_config.json", "", "malformed JSON"),
    ("config.json", "", "malformed JSON"), ("model.safetensors", "", "hold no whole header"),
])
def test_numbers_and_brackets_without_end(directory, mesh, file, text, what):
    if file == "model.safetensors" and text:
        (directory / file).write_bytes(len(text).to_bytes(8, "little") + text.encode())
    else:
        (directory / file).write_text(text)
    if file == "preprocessor_config.json":
        (directory / "protocol.json").unlink()
    if file == "tokenizer.json":
        (directory / "tokenizer.model").unlink()
    refused(directory, mesh, file, what)


@pytest.mark.parametrize("file", ["config.json", "protocol.json", "tokenizer.model",
                                  "tokenizer.json", "model.safetensors", safetensors.INDEX])
@pytest.mark.parametrize("how", ["locked", "folder"])
def test_files_that_cannot_be_read_are_named(bundle, sharded, directory, mesh, monkeypatch, file,
                                             how):
    target = sharded if file == safetensors.INDEX else directory
    if file == "tokenizer.json":
        (target / "tokenizer.model").unlink()
    if how == "folder":
        (target / file).unlink()
        (target / file).mkdir()
        fallback = {"tokenizer.model": None, "tokenizer.json": "no tokenizer here"}
        words = fallback.get(file, f"{file}: it is a folder")
        if words is not None:
            return refused(target, mesh, words)
        return assert_same(open_hf(target, mesh), bundle)  # The other tokenizer is there.
    opened = io.open

    def locked(path, *args, **kwargs):
        if os.fspath(path) == os.fspath(target / file):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", locked)
    refused(target, mesh, f"{file}: it cannot be read (Permission denied). Check its permissions.")


def test_files_that_were_not_fetched(directory, sharded, mesh, tmp_path):
    file = directory / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(directory, mesh, "model.safetensors: it is a Git LFS pointer", "git lfs pull")
    file.unlink()
    file.symlink_to(tmp_path / "blobs" / "0")
    refused(directory, mesh, "links to no file: model.safetensors")
    shard = sorted(sharded.glob("*.safetensors"))[0]
    (tmp_path / "blob").write_bytes(shard.read_bytes())
    shard.unlink()
    shard.symlink_to(tmp_path / "blob")
    open_hf(sharded, mesh)  # As a cache of downloads lies on the disk.
    (tmp_path / "blob").unlink()
    refused(sharded, mesh, f"shards are missing: {shard.name}")


def test_a_folder_that_may_not_be_listed(directory, mesh, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(type(directory), "iterdir", locked)
    refused(directory, mesh, "model: it cannot be read (Permission denied). Check its permissions.")


def test_a_bare_generate_goes_on_beyond_twenty_tokens(tmp_path):
    export_hf(bundle_of(), tmp_path / "m")
    value = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert value["max_new_tokens"] == 1024
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    model.generation_config.eos_token_id = None

    def enough(ids, _):
        return torch.full((1,), ids.shape[1] >= 31)

    said = model.generate(torch.tensor([[20, 21, 22]]), stopping_criteria=[enough])
    assert said.shape == (1, 31)


def test_export_leaves_no_file_that_transformers_would_read_instead(directory):
    others = {"processor_config.json", "video_preprocessor_config.json", "chat_template.jinja"}
    for name in others:
        (directory / name).write_text("{}")
    Processor(tiny_tokenizer(), CONFIG.protocol()).export(directory, qwen2_5_vl.CLASSES)
    assert not others & {path.name for path in directory.iterdir()}
