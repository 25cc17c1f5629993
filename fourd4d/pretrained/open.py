"""Opens checkpoint directories: ours, Hugging Face's, and those in the package, by name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jax
from flax import nnx
from jax.sharding import Mesh

from fourd4d.checkpoint.orbax import PROCESSOR, processor_dir, read_specs, restore_params
from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.files import readable
from fourd4d.core.storage import home, local_copy
from fourd4d.models import ModelConfig, Thinker, preset, preset_protocol
from fourd4d.parallel import DEFAULT_RULES, Rules, abstract_for, born_sharded, make_mesh, start, use
from fourd4d.pretrained import hub
from fourd4d.pretrained.bundle import ModelBundle, fresh_parts, shapes
from fourd4d.pretrained.huggingface import describe_hf, open_hf
from fourd4d.processing import Processor, load_processor, load_tokenizer, tiny_tokenizer
from fourd4d.train import state as train_state

_ASSETS: Final = Path(__file__).parents[1] / "models" / "assets"
SHIPPED: Final = {"tiny-base": _ASSETS / "tiny_base", "tiny-imagery": _ASSETS / "tiny_imagery"}
"""Checkpoints in the package, by the name that stands for their directory."""

Kind = Literal["hf", "trained"]


def located(directory: str | os.PathLike[str]) -> Path:
    """Return where a checkpoint lies: a directory, one in the package by its name, or one that was
    fetched from the hub (``hub.fetched``).

    Raises InputError where there is no such directory.
    """
    if hub.is_address(directory):
        return hub.fetched(os.fspath(directory))
    path = SHIPPED.get(os.fspath(directory)) or home(directory)
    with readable(path):
        if path.is_dir():
            return path
    raise InputError(directory, "no such directory", "Give a checkpoint directory")


def kind_of(directory: str | os.PathLike[str]) -> Kind:
    """Return who wrote a checkpoint directory: ``hf``, with a ``config.json``, or a trainer.

    One that holds neither that file nor a trainer's ``processor`` counts as Hugging Face's, whose
    reader tells what else lies there. Raises InputError as ``located``.
    """
    path = located(directory)
    with readable(path):
        trained = (path / PROCESSOR).is_dir() and not (path / "config.json").is_file()
    return "trained" if trained else "hf"


def fresh(name: str, mesh: Mesh, seed: int, rules: Rules = DEFAULT_RULES, tokenizer: str = "",
          protocol: Mapping[str, Any] | None = None, **model: Any) -> ModelBundle:
    """Random weights of a preset, born sharded.

    Args:
      name: a preset of ``models.presets``.
      tokenizer: file or directory; the shipped SentencePiece model when empty.
      protocol: fields that differ from the preset's protocol.
      model: fields of ``ModelConfig`` that differ from the preset.
    """
    config, processor = _preset(name, tokenizer, protocol or {}, model)
    graphdef, _ = shapes(config)
    tree = born_sharded(lambda key: nnx.split(Thinker(config, nnx.Rngs(key)))[1], mesh, rules)(
        jax.random.key(seed))
    return ModelBundle(config, processor, graphdef, tree)


def _preset(name: str, tokenizer: str, protocol: Mapping[str, Any], model: Mapping[str, Any]
            ) -> tuple[ModelConfig, Processor]:
    words = load_tokenizer(tokenizer) if tokenizer else tiny_tokenizer()
    config = preset(name).changed(**model)
    if words.vocab_size > config.decoder.vocab:
        raise InputError("config.tokenizer", f"{words.vocab_size} tokens, the preset {name!r} "
                         f"embeds {config.decoder.vocab}", "Choose a preset with a larger table")
    config = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, valid_vocab=words.vocab_size))
    spec = dataclasses.replace(preset_protocol(name), **protocol)
    config.check_protocol(spec, "config.protocol")
    config.check_latents(spec, "config.protocol")
    return config, Processor(words, spec)


def open_trained(directory: str | os.PathLike[str], mesh: Mesh, rules: Rules = DEFAULT_RULES,
                 step: int | None = None, **model: Any) -> ModelBundle:
    """The weights of a trainer's checkpoint directory, without its optimizer.

    Adapters and parts of the imagery head asked for in ``model`` that it lacks start fresh.

    Args:
      step: the newest by default.
      model: fields of ``ModelConfig`` set for this use (dtype, attention, remat, …).

    Raises:
      InputError: no checkpoint, or one that does not fit its own specs.
    """
    specs, saved = _saved(directory, step)
    config = saved.changed(**model)
    graphdef, tree = shapes(config)
    known = {path for path, _ in nnx.to_flat_state(shapes(saved)[1])}
    tree, new = nnx.split_state(abstract_for(tree, mesh, rules),
                                lambda path, _: path in known, ...)
    parts = dict(zip(("params", "frozen"), train_state.split(tree, specs["trainable"]),
                     strict=True))
    parts = {name: restore_params(directory, part, name, step) if jax.tree.leaves(part) else part
             for name, part in parts.items()}
    return ModelBundle(config, load_processor(processor_dir(directory)), graphdef,
                  nnx.merge_state(*parts.values(), fresh_parts(config, new, mesh, rules)))


def _saved(directory: str | os.PathLike[str], step: int | None
           ) -> tuple[dict[str, Any], ModelConfig]:
    specs = read_specs(directory, step)
    for key in ("model", "trainable"):
        if key not in specs:
            raise InputError(directory, f"its specs lack {key!r}", "Use a trainer's directory")
    return specs, ModelConfig.from_json(specs["model"], directory)


@contextlib.contextmanager
def training(config: Any) -> Iterator[tuple[Mesh, ModelBundle]]:
    """All hosts joined, ``config.mesh`` in use, and what a trainer starts from."""
    start()
    mesh = make_mesh(config.mesh)
    with use(mesh):
        yield mesh, start_from(config, mesh)


def start_from(config: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> ModelBundle:
    """What a trainer starts from: ``config.init``, or ``config.preset`` at random.

    ``config.protocol`` and ``config.model`` hold the fields to change.
    """
    model, protocol = config.model.to_dict(), config.protocol.to_dict()
    _check_start(config)
    if config.preset:
        return fresh(config.preset, mesh, config.seed, rules, config.tokenizer, protocol, **model)
    bundle = open_checkpoint(config.init, mesh, rules, **model)
    return dataclasses.replace(bundle, processor=_with_protocol(
        bundle.config, bundle.processor, protocol))


def described(config: Any) -> tuple[ModelConfig, Processor]:
    """The model and processor that ``start_from`` would open, without reading a weight.

    Raises InputError as ``start_from``, but for what is wrong with the weights.
    """
    model, protocol = config.model.to_dict(), config.protocol.to_dict()
    _check_start(config)
    if config.preset:
        return _preset(config.preset, config.tokenizer, protocol, model)
    path = located(config.init)
    if kind_of(path) == "trained":
        known, processor = (_saved(path, None)[1].changed(**model),
                            load_processor(processor_dir(path)))
    else:
        known, processor = describe_hf(path, **model)
    return known, _with_protocol(known, processor, protocol)


def _check_start(config: Any) -> None:
    if bool(config.init) == bool(config.preset):
        raise InputError("config.init", f"init {config.init!r} and preset {config.preset!r}",
                         "Give one of them: a checkpoint, or a preset to start at random")
    if config.init and config.tokenizer:
        raise InputError("config.tokenizer", "a checkpoint brings its own tokenizer",
                         "Leave it empty, or start from a preset")


def _with_protocol(model: ModelConfig, processor: Processor, changes: Mapping[str, Any]
                   ) -> Processor:
    changed = dataclasses.replace(processor.protocol, **changes)
    model.check_protocol(changed, "config.protocol")
    model.check_latents(changed, "config.protocol")
    return Processor(processor.tokenizer, changed)


def open_checkpoint(directory: str | os.PathLike[str], mesh: Mesh, rules: Rules = DEFAULT_RULES,
                    step: int | None = None, **model: Any) -> ModelBundle:
    """A trainer's directory (``open_trained``), a Hugging Face one (``huggingface.open_hf``), the
    name of a checkpoint in the package (``SHIPPED``) or on the hub (``hub``); see ``kind_of``.

    Raises InputError: no such directory, or ``step`` of one that no trainer wrote.
    """
    path = located(directory)
    if kind_of(path) == "trained":
        return open_trained(path, mesh, rules, step, **model)
    if step is not None:
        raise InputError(directory, f"step {step} of a directory that no trainer wrote",
                         "Leave the step out, or give a trainer's directory")
    return open_hf(local_copy(path), mesh, rules, **model)


def packed_rows(shape: BatchShape, examples: int) -> BatchShape:
    """Rows with room for ``examples`` examples of the size ``shape`` holds; as many rows fewer.

    0 packs nothing.
    """
    if not examples:
        return shape
    if shape.rows % examples:
        raise InputError("config.data.pack", f"{examples} does not divide {shape.rows} rows",
                         "Choose a divisor of the batch")
    return BatchShape(shape.rows // examples, shape.length * examples, shape.slots * examples,
                      shape.windows, shape.overlays * examples)


def specs(config: Any, model: ModelConfig, processor: Processor,
          trainable: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {"model": model.to_json(), "protocol": processor.protocol.to_json(),
            "tokenizer": _fingerprint(processor), "trainable": list(trainable),
            "config": config.to_dict()}


def _fingerprint(processor: Processor) -> str:
    """A short name of the tokenizer's file."""
    with tempfile.TemporaryDirectory() as folder:
        data = processor.tokenizer.save(Path(folder)).read_bytes()
    return hashlib.sha256(data).hexdigest()[:16]
