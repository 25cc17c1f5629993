"""Hugging Face directories in and out: a model, its processor, and both together.

Older and newer layouts of a family are read; what is written, transformers opens.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from fourd4d.checkpoint.safetensors import (
    DEQUANTIZE,
    check_kind,
    open_directory,
    read_hf,
    write_hf,
)
from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object, replacing
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.weight_map import KeyTable, kernel
from fourd4d.models import ModelConfig
from fourd4d.models.config import ImageryConfig
from fourd4d.models.families import family
from fourd4d.models.imagery_head import Statistic
from fourd4d.models.lora import merge_lora
from fourd4d.parallel import DEFAULT_RULES, Rules, abstract_for
from fourd4d.pretrained.bundle import DTYPES, ModelBundle, fresh_parts, shapes
from fourd4d.pretrained.card import model_card
from fourd4d.processing import Processor, Tokenizer, load_processor
from fourd4d.sampling.spec import SamplingSpec

MAX_NEW_TOKENS: Final = 1024
"""Budget of a response that an export tells transformers, whose own is 20 tokens."""


GENERATE: Final = Path(__file__).parent / "assets" / "custom_generate" / "generate.py"
"""Decodes an export with mental images, by torch and transformers alone."""
OURS: Final = "fourd4d"
"""Field of ``config.json`` for what decoding with mental images needs; transformers keeps it."""
HEAD: Final = "imagery_head"
"""Folder of an export for the weights that a family's own files have no names for."""
_HEAD_TABLE: Final = KeyTable(tuple(kernel(("imagery", name), f"imagery.{name}")
                                    for name in ("gate", "up", "down")))


def hf_config(directory: str | os.PathLike[str], **model: Any) -> ModelConfig:
    """The model that a Hugging Face directory holds.

    Parameters keep the file's dtype; products are made in bfloat16 unless that is float32.

    Args:
      model: fields of ``ModelConfig`` set for this use.

    Raises:
      InputError: no config, an unknown family, or a contradiction.
    """
    path = Path(directory) / "config.json"
    value = read_object(path, "Give a Hugging Face model directory")
    text = value.get("text_config")
    text = text if isinstance(text, dict) else {}
    for part in (value, text, value.get("vision_config")):
        method = _quantized(part) if isinstance(part, dict) else ""
        if method:
            raise InputError(path, f"the weights are quantized ({method})", DEQUANTIZE)
    said = [part.get(name) for part in (value, text) for name in ("torch_dtype", "dtype")]
    stored = next((dtype for dtype in said if dtype), "float32")
    if not isinstance(stored, str) or stored not in DTYPES:
        raise InputError(path, f"torch_dtype {stored!r}", f"Use one of {sorted(DTYPES)}")
    own: dict[str, Any] = dict(
        param_dtype=stored, dtype="float32" if stored == "float32" else "bfloat16",
        imagery=_imagery(value, path))
    return family(value.get("model_type"), path).from_hf(value, path, **own).changed(**model)


def _imagery(value: dict[str, Any], path: Path) -> ImageryConfig:
    """The imagery head that an export's config tells of; the identity elsewhere."""
    said = value.get(OURS, {})
    head, mlp = (said.get("head", "identity"), said.get("head_width", 0)) if isinstance(
        said, dict) else (None, None)
    if head not in ("identity", "mlp") or type(mlp) is not int or (head == "mlp") != (mlp > 0):
        raise InputError(path, f"{OURS!r} tells of an imagery head {head!r} of width {mlp!r}",
                         "Export the model again")
    return ImageryConfig(head, mlp)


def _quantized(part: dict[str, Any]) -> str:
    """How a config says that weights are quantized; empty if it does not."""
    said = part.get("quantization_config") or part.get("compression_config")
    if not isinstance(said, dict):
        return str(said) if said else ""
    known = said.get("quant_method") or said.get("quant_algo")
    bits = "bitsandbytes" if said.get("load_in_4bit") or said.get("load_in_8bit") else ""
    return str(known or bits or "unnamed method") if said else ""


def describe_hf(directory: str | os.PathLike[str], new_tokens: str = "refuse", **model: Any
                ) -> tuple[ModelConfig, Processor]:
    """The model and processor of a Hugging Face directory, without reading a weight.

    Arguments and errors are those of ``open_hf``.
    """
    directory = Path(directory)
    check_kind(directory)
    config = hf_config(directory, **model)
    processor = _processor(directory, config.protocol(), new_tokens)
    size = processor.tokenizer.vocab_size
    if size > config.decoder.vocab:
        raise InputError(directory, f"{size} tokens, the embedding table has "
                         f"{config.decoder.vocab} rows", "Enlarge the table with transformers' "
                         "resize_token_embeddings, then convert again")
    config = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, valid_vocab=size))
    config.check_protocol(processor.protocol, directory)
    return config, processor


def open_hf(directory: str | os.PathLike[str], mesh: Mesh, rules: Rules = DEFAULT_RULES, *,
            new_tokens: str = "refuse", check_finite: bool = True, **model: Any) -> ModelBundle:
    """A Hugging Face directory's model and processor, each parameter read onto its sharding.

    Adapters asked for in ``model`` start fresh, and so does an imagery head where the directory
    has none.

    Args:
      new_tokens: what to do when the tokenizer lacks the imagery tokens: ``refuse``, or ``mean``:
        add them, their rows being the mean of the rows before them.
      check_finite: refuse NaN and infinities.
      model: fields of ``ModelConfig`` set for this use (dtype, param_dtype, lora, …).

    Raises:
      InputError: see ``checkpoint.safetensors.check_kind`` and ``read_hf``, ``hf_config`` and
        ``load_processor``; or a vocabulary larger than the embedding table.
    """
    directory = Path(directory)
    config, processor = describe_hf(directory, new_tokens, **model)
    layers, found = max(config.decoder.layers, config.vision.layers), len(open_directory(directory))
    if layers > found:  # Each has tensors; their shapes alone might not fit the memory.
        raise InputError(directory, f"the config has {layers} layers, the files {found} tensors",
                         "Check that config.json belongs to the weights")
    graphdef, abstract = shapes(config)
    trees, tables = [], {directory: family(config.family, directory).key_table(config)}
    if config.imagery.head == "mlp" and hf_config(directory).imagery.head == "mlp":
        tables[directory / HEAD] = _HEAD_TABLE
    for folder, table in tables.items():
        own, paths = abstract, table.paths()
        stored, abstract = nnx.split_state(own, lambda path, _, paths=paths: path in paths, ...)
        trees.append(read_hf(folder, table, abstract_for(stored, mesh, rules),
                             check_finite=check_finite))
    tree = nnx.merge_state(*trees, fresh_parts(config, abstract, mesh, rules))
    if processor.tokenizer.added:
        tree = _mean_rows(tree, processor.tokenizer.added)
    return ModelBundle(config, processor, graphdef, tree)


def _processor(directory: Path, unsaid: ProtocolSpec, new_tokens: str) -> Processor:
    if new_tokens not in ("refuse", "mean"):
        raise InputError("new_tokens", f"unknown value {new_tokens!r}", "Use 'refuse' or 'mean'")
    try:
        return load_processor(directory, unsaid, add_imagery=new_tokens == "mean")
    except InputError as error:
        if "lacks <|latent" not in error.what:
            raise
        raise InputError(error.where, error.what, "Pass new_tokens='mean' (--new-tokens mean) "
                         "to add them as means of the trained rows") from error


def _mean_rows(tree: Any, ids: Sequence[int]) -> Any:
    """Rows ``ids`` of table and head set to the mean of the rows before the first of them."""

    def filled(value: jax.Array, axis: int) -> jax.Array:
        def fill(value: jax.Array) -> jax.Array:
            before = jax.lax.slice_in_dim(value, 0, min(ids), axis=axis).astype(jnp.float32)
            mean = before.mean(axis, keepdims=True).astype(value.dtype)
            at = (*(slice(None),) * axis, jnp.asarray(ids))
            return value.at[at].set(mean)

        return jax.jit(fill, out_shardings=value.sharding, donate_argnums=0)(value)

    flat = dict(nnx.to_flat_state(tree))
    for name, axis in (("embedding", 0), ("output", 1)):
        if (name,) in flat:
            leaf = flat[name,]
            flat[name,] = leaf.replace(filled(leaf.get_value(), axis))
    return nnx.from_flat_state(flat)


def export_hf(bundle: ModelBundle, directory: str | os.PathLike[str], *,
              dtype: str | None = None, shard_bytes: int = 5 << 30,
              origin: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes a directory that transformers' AutoModelForImageTextToText and AutoProcessor open.

    Adapters are merged. Weights, config, generation config, tokenizer, preprocessor and chat
    template are in it; beside them the weights of an imagery head in a folder of their own, and,
    for the families that it knows, ``custom_generate/generate.py``, which decodes with mental
    images by transformers alone, and a model card. ``config.json`` goes first and comes last:
    without it neither we nor transformers take a directory for a model, so that one half written,
    or half overwritten, is refused. Of several processes, all of which must call this, the first
    one writes.

    Args:
      dtype: of the tensors; the parameters' own by default.
      origin: where the weights came from, for the card.

    Returns:
      The files of tensors.

    Raises:
      InputError: an unknown dtype; a number that these files cannot hold; or
        a directory that cannot be written to.
    """
    directory = Path(directory)
    dtype = dtype or bundle.config.param_dtype
    if dtype not in DTYPES:
        raise InputError("dtype", f"unknown value {dtype!r}", f"Use one of {sorted(DTYPES)}")
    if bundle.config.imagery.head == "constant":
        raise InputError(directory, "transformers has no place for a constant imagery head",
                         "Keep the trainer's checkpoint")
    config, tree = merge_lora(bundle.config, bundle.tree)
    kin, words = family(config.family, directory), bundle.processor.tokenizer
    written = {
        "generation_config.json": {
            "bos_token_id": words.pad, "eos_token_id": [words.eos, words.pad],
            "pad_token_id": words.pad, "do_sample": False,
            "max_new_tokens": MAX_NEW_TOKENS},
        "config.json": kin.to_hf(config, dtype, **token_ids(words),
                                 **{OURS: decoding(bundle.processor, config.imagery)}),
    }
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "config.json").unlink(missing_ok=True)
        except OSError as error:
            raise InputError(directory, f"cannot be written to ({error.strerror})",
                             "Choose a directory that you may write to") from error
    _, tree = nnx.split_state(tree, Statistic, ...)  # Training's own; decoding needs none.
    head, tree = nnx.split_state(tree, lambda path, _: path in _HEAD_TABLE.paths(), ...)
    files = write_hf(directory, kin.key_table(config), tree, dtype=DTYPES[dtype],
                     shard_bytes=shard_bytes)
    if config.imagery.head == "mlp":
        files += write_hf(directory / HEAD, _HEAD_TABLE, head, dtype=DTYPES[dtype])
    elif jax.process_index() == 0:
        shutil.rmtree(directory / HEAD, ignore_errors=True)  # A former model's.
    if jax.process_index() == 0:
        bundle.processor.export(directory, kin.CLASSES)
        ours: dict[str, str] = {}
        if kin.CUSTOM_GENERATE:
            ours[f"custom_generate/{GENERATE.name}"] = GENERATE.read_text(encoding="utf-8")
            ours["README.md"] = model_card(
                dataclasses.replace(bundle, config=config, tree=(head, tree)), dtype,
                directory.resolve().name, origin or {})
        else:  # A former model's would run on this one.
            shutil.rmtree(directory / "custom_generate", ignore_errors=True)
        for name, text in ours.items():
            with replacing(directory / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for name, value in written.items():
            with replacing(directory / name) as temporary:
                temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    multihost_utils.sync_global_devices("export_hf")
    return files


def decoding(processor: Processor, imagery: ImageryConfig) -> dict[str, Any]:
    """The field of ``config.json`` from which ``custom_generate`` decodes."""
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=1).to_json()
    names = ("vocab", "latent_start", "latent_pad", "latent_end", "ends", "forbidden",
             "latent_size", "max_latents")
    return {**{name: spec[name] for name in names}, "reader": processor.protocol.reader,
            "head": imagery.head, "head_width": imagery.mlp if imagery.head == "mlp" else 0}


def token_ids(words: Tokenizer) -> dict[str, int]:
    """The fields of ``config.json`` that name tokens."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision": "<|vision_pad|>",
             "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>",
             "bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return {f"{name}_token_id": words.id(token) for name, token in names.items()}
