"""Orbax checkpoints: state, position in the data, step, and the specs that describe them.

Layout of a directory::

    <step>/state/         arrays, under the paths of the state's tree
    <step>/data/          position of the data iterator, one JSON file per process
    <step>/specs/         JSON: model config, protocol, trainer config, …
    <step>/checksums.json size and CRC-32 of each file, checked when it is read
    processor/            tokenizer and protocol files, written once

A step's directory appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from fourd4d.checkpoint import trees
from fourd4d.checkpoint.buckets import check_bucket
from fourd4d.checkpoint.integrity import NAME as CHECKSUMS
from fourd4d.checkpoint.integrity import absolute, damage, plain_path, write_checksums
from fourd4d.core.errors import InputError
from fourd4d.core.files import is_disk_full, parse_json
from fourd4d.core.storage import as_path, files_below, is_remote, local_copy, send

PROCESSOR = "processor"
_ITEMS = ("state", "data", "specs")
_WHOLE = "commit_success.txt"  # In a bucket, Orbax's word for a folder that is complete.
_SLACK = 16 << 20  # Bytes beside the arrays.
_MOST = 24  # Paths that a message lists; optimizers have each three times.


@runtime_checkable
class Iterator(Protocol):
    """What is needed of a data iterator; Grain's have it."""

    def get_state(self) -> Any: ...

    def set_state(self, state: Any, /) -> None: ...


@dataclasses.dataclass(frozen=True)
class Restored:
    """What ``restore`` found.

    Attributes:
      state: the stored values in the tree that was asked for, on its shardings.
      step: the step they were saved at.
      specs: the JSON saved with them.
    """

    state: Any
    step: int
    specs: dict[str, Any]


class CheckpointManager:
    """Saves and restores training; a context manager.

    Args:
      directory: created when absent.
      keep: checkpoints to keep, the newest; None keeps all.
      every: ``save`` without ``force`` acts on multiples of this step.
      asynchronous: writing goes on behind training; ``wait`` and ``close`` wait for it.
      processor: writes the tokenizer's files into a directory (``Processor.save``), so that
        evaluation needs only this directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        every: int = 1,
        asynchronous: bool = False,
        processor: Callable[[str], None] | None = None,
    ):
        if every < 1 or (keep is not None and keep < 1):
            raise InputError("CheckpointManager", f"keep={keep}, every={every}",
                             "Both are at least 1")
        self.directory = absolute(directory)
        if is_remote(self.directory):
            check_bucket(self.directory)
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(self.directory, "a file, not a directory", "Choose another directory")
        self.every = every
        self._processor = processor
        self._asynchronous = asynchronous
        self._unchecked: list[int] = []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._plain = plain_path(self.directory)
            self._manager = ocp.CheckpointManager(
                self._plain, item_names=_ITEMS, item_handlers=_handlers(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, enable_async_checkpointing=asynchronous,
                    cleanup_tmp_directories=True, step_format_fixed_length=None))
        except OSError as error:
            raise InputError(self.directory, f"cannot be opened ({error.strerror or error})",
                             "Choose a directory that you may write to") from error

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest(self) -> int | None:
        """The newest complete step."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete steps, oldest first."""
        return sorted(self._manager.all_steps())

    def should_save(self, step: int) -> bool:
        return step % self.every == 0 and step not in self.steps()

    def save(self, step: int, state: Any, iterator: Iterator | None = None,
             specs: Mapping[str, Any] | None = None, *, force: bool = False) -> bool:
        """Saves if it is time (or ``force``); whether it did.

        Save before the next batch is drawn: the iterator's position is taken now. Every process
        must call this.

        Raises:
          InputError: the disk is full; the last complete checkpoint is untouched and the
            incomplete one is removed.
        """
        if step in self.steps() or not (force or self.should_save(step)):
            return False
        plain = {path: trees.to_plain(leaf) for path, leaf in trees.flatten(state).items()}
        self._check_space(plain)
        items: dict[str, Any] = dict(
            state=ocp.args.StandardSave(trees.nest(plain)),
            specs=ocp.args.JsonSave(_json(specs or {})))
        if iterator is not None:
            items["data"] = SaveIterator(iterator)
        try:
            self._write_processor()
            plain_path(self.directory)  # Made again where it is gone.
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._unchecked.append(step)
            if not self._asynchronous:
                self._confirm()
        except Exception as error:
            raise self._failed(step, error) from error
        return True

    def _confirm(self) -> None:
        """Checks that what was saved is there, and writes its checksums."""
        for step in self._unchecked:
            where = self._plain / str(step)
            if not where.exists():
                continue  # Already among those not kept.
            if not _holds_arrays(where, _stored(where)):
                raise InputError(self.directory / str(step), "the checkpoint holds no arrays",
                                 "Choose another config.workdir")
            write_checksums(where)
        self._unchecked = []

    def restore(self, abstract_state: Any, iterator: Iterator | None = None,
                step: int | None = None) -> Restored:
        """The checkpoint of ``step`` (the newest by default), on the shardings asked for.

        Args:
          abstract_state: arrays or ``jax.ShapeDtypeStruct`` with shardings; dtypes are converted
            to these.
          iterator: put back where it was.

        Raises:
          InputError: no such checkpoint; another size (the paths that differ are listed, nothing
            is restored); damaged files; saved by another number of processes.
        """
        self.wait()
        where = _step_dir(self.directory, step)
        step = int(where.name)
        _check_files(where)
        wanted = trees.flatten(abstract_state)
        plain = {path: trees.to_abstract(leaf) for path, leaf in wanted.items()}
        _check_same(where, trees.differences(plain, _arrays(where)))
        position = _read_position(where) if iterator is not None else None
        state = _read(where, plain)
        values = [trees.from_plain(state[path], leaf) for path, leaf in wanted.items()]
        specs = read_specs(self.directory, step)
        if not (where / CHECKSUMS).exists():  # Ended between saving and checking, or an early one.
            logging.warning("%s: saved, but not checked; it is whole, and checked from now on",
                            self.directory / str(step))
            write_checksums(where)
        if iterator is not None:
            try:
                iterator.set_state(position)
            except InputError as error:
                raise InputError(where / "data", f"{error.where}: {error.what}", error.remedy
                                 ) from error
            except Exception as error:
                raise InputError(where / "data", f"does not fit this iterator ({error})",
                                 "Use the data, batch size and workers that it was saved with"
                                 ) from error
        treedef = jax.tree_util.tree_structure(abstract_state)
        return Restored(jax.tree_util.tree_unflatten(treedef, values), step, specs)

    def wait(self) -> None:
        """Until everything is written. Raises InputError when an earlier write failed."""
        try:
            self._manager.wait_until_finished()
            self._confirm()
        except Exception as error:
            raise self._failed(None, error) from error

    def close(self) -> None:
        """Waits and closes."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _write_processor(self) -> None:
        target = self.directory / PROCESSOR
        if self._processor is None or jax.process_index():
            return
        if is_remote(target):
            self._send_processor(as_path(target))
            return
        if target.exists():
            return
        temporary = self.directory / f".{PROCESSOR}.{os.getpid()}.tmp"
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            self._processor(os.fspath(temporary))
            temporary.rename(target)
        finally:
            if temporary.exists():
                temporary.rmtree()

    def _send_processor(self, target: Path) -> None:
        """What says that it is whole comes last; Orbax too removes folders without it."""
        assert self._processor is not None
        if (target / _WHOLE).exists():
            return
        with tempfile.TemporaryDirectory(prefix="fourd4d-") as folder:
            self._processor(folder)
            for name in files_below(Path(folder)):
                send(Path(folder) / name, target / name)
        (target / _WHOLE).write_bytes(b"")

    def _check_space(self, plain: Mapping[Any, Any]) -> None:
        """Before anything is written: an error here leaves nothing to clean up."""
        if is_remote(self.directory):
            return
        need = _SLACK + sum(_local_bytes(leaf) for leaf in plain.values())
        free = shutil.disk_usage(self.directory).free
        if free < need:
            raise InputError(
                self.directory, f"the disk is full: a checkpoint takes {need / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB are free", self._remedy())

    def _failed(self, step: int | None, error: Exception) -> InputError:
        if isinstance(error, InputError):
            return error
        self._remove_incomplete()
        name = f"checkpoint of step {step}" if step is not None else "checkpoint"
        what = ("the disk is full" if is_disk_full(error)
                else f"{type(error).__name__}: {_first_line(error)}")
        return InputError(self.directory, f"{name} was not written ({what})", self._remedy())

    def _remedy(self) -> str:
        last = self.latest()
        safe = f"step {last} is intact" if last is not None else "there is no earlier checkpoint"
        return f"Free space or lower the number of checkpoints kept; {safe}"

    def _remove_incomplete(self) -> None:
        # In a bucket a step lies under its own name, and Orbax removes it at the next start.
        if jax.process_index() == 0 and not is_remote(self.directory):
            for path in self.directory.iterdir():
                if ".orbax-checkpoint-tmp" in path.name:
                    path.rmtree(missing_ok=True)


def read_specs(directory: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """The specs saved at ``step``, by default the newest. Raises InputError."""
    path = _step_dir(directory, step) / "specs" / "metadata"
    try:
        return parse_json(path.read_text(), path, "Use another step")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error})", "Use another step") from error


def restore_params(directory: str | os.PathLike[str], abstract_params: Any,
                   prefix: str = "params", step: int | None = None) -> Any:
    """Only the part of the state below ``prefix`` (a ``/``-path), without the optimizer's.

    Args:
      abstract_params: arrays or ``jax.ShapeDtypeStruct`` with shardings; dtypes are converted.

    Raises:
      InputError: as ``CheckpointManager.restore``.
    """
    where = _step_dir(directory, step)
    _check_files(where)
    head = tuple(prefix.split("/")) if prefix else ()
    wanted = {head + path: leaf for path, leaf in trees.flatten(abstract_params).items()}
    stored = _arrays(where)
    below = {path: leaf for path, leaf in stored.items() if path[: len(head)] == head}
    if not below:
        raise InputError(where, f"no {prefix!r} in the checkpoint",
                         f"It holds {sorted({path[0] for path in stored})}")
    plain = {path: trees.to_abstract(leaf) for path, leaf in wanted.items()}
    _check_same(where, trees.differences(plain, below))
    state = _read(where, plain)
    values = [trees.from_plain(state[path], leaf) for path, leaf in wanted.items()]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(abstract_params), values)


def processor_dir(directory: str | os.PathLike[str]) -> Path:
    """Where the tokenizer's files of a checkpoint directory are. Raises InputError."""
    path = as_path(absolute(directory)) / PROCESSOR
    if not path.is_dir():
        raise InputError(directory, f"no {PROCESSOR}/ with tokenizer files",
                         "Give a checkpoint directory written by a trainer")
    return local_copy(path)


class IteratorHandler(ocp.CheckpointHandler):
    """The position of a data iterator, JSON, one file per process."""

    def save(self, directory: epath.Path, args: SaveIterator) -> None:
        text = json.dumps(args.item.get_state(), default=_plain_json)
        (directory / _position_name()).write_text(text)

    def restore(self, directory: epath.Path, args: Any = None) -> Any:
        path = directory / _position_name()
        return parse_json(path.read_bytes(), path, "Give a checkpoint that is whole")


@ocp.args.register_with_handler(IteratorHandler, for_save=True)
@dataclasses.dataclass
class SaveIterator(ocp.args.CheckpointArgs):
    item: Iterator


@ocp.args.register_with_handler(IteratorHandler, for_restore=True)
@dataclasses.dataclass
class RestoreIterator(ocp.args.CheckpointArgs):
    item: Any = None


def _handlers() -> dict[str, Any]:
    return dict(state=ocp.StandardCheckpointHandler(), data=IteratorHandler(),
                specs=ocp.JsonCheckpointHandler())


def _position_name() -> str:
    return f"process_{jax.process_index()}-of-{jax.process_count()}.json"


def _read_position(where: epath.Path) -> Any:
    folder = where / "data"
    path = folder / _position_name()
    if not folder.exists():
        raise InputError(where, "holds no position in the data", "Restore without an iterator")
    if not path.exists():
        found = sorted(p.name for p in folder.iterdir() if p.name.startswith("process_"))
        raise InputError(folder, f"no {path.name}; there are {found}",
                         "Resume with as many processes as saved it")
    return parse_json(path.read_text(), path, "Use an earlier step")


def _step_dir(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
    path = plain_path(directory)
    if not path.is_dir():
        raise InputError(path, "no such directory", "Give a checkpoint directory")
    steps = sorted(ocp.utils.checkpoint_steps(path))
    if not steps:
        raise InputError(path, "holds no complete checkpoint",
                         "Give a directory that a trainer has saved to")
    if step is not None and step not in steps:
        raise InputError(path, f"no checkpoint of step {step}", f"There are {steps}")
    return path / str(steps[-1] if step is None else step)


def _stored(where: epath.Path) -> dict[tuple[str, ...], Any]:
    """Shape and dtype of every stored array."""
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(where / "state")
        tree = getattr(metadata, "tree", metadata)
        if not isinstance(tree, Mapping):
            raise ValueError("no description of its arrays")
    except Exception as error:
        raise _damaged(where, error) from error
    return trees.flatten(dict(tree))


def _holds_arrays(where: epath.Path, stored: Mapping[tuple[str, ...], Any]) -> bool:
    return bool(stored) and (where / "state" / "manifest.ocdbt").exists()


def _arrays(where: epath.Path) -> dict[tuple[str, ...], Any]:
    """As ``_stored``. Raises InputError where the arrays themselves are not there."""
    stored = _stored(where)
    if not _holds_arrays(where, stored):
        raise _damaged(where, ValueError("it holds no arrays"))
    return stored


def _read(where: epath.Path,
          plain: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """The arrays at these paths; others are left unread."""
    abstract = trees.nest(plain)
    try:
        tree = ocp.PyTreeCheckpointHandler().restore(where / "state", args=ocp.args.PyTreeRestore(
            abstract, partial_restore=True,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)))
    except Exception as error:
        raise _damaged(where, error) from error
    return trees.flatten(tree)


def _damaged(where: epath.Path, error: Exception) -> InputError:
    others = [s for s in sorted(ocp.utils.checkpoint_steps(where.parent)) if str(s) != where.name]
    shown = where if is_remote(where) else (
        epath.Path(os.path.realpath(where.parent)) / where.name)
    return InputError(shown, f"the checkpoint is damaged ({_first_line(error)})",
                      f"Restore another step: {others}; a trainer goes on from the newest that it "
                      "finds, so delete this one first" if others else "There is no other step")


def _check_files(where: epath.Path) -> None:
    if what := damage(where):
        raise _damaged(where, ValueError(what))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_same(where: Any, lines: list[str]) -> None:
    if lines:
        shown = lines[:_MOST] + ([f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else [])
        raise InputError(where, f"a checkpoint of another size, {len(lines)} paths differ:\n  "
                         + "\n  ".join(shown),
                         "Use the config that is saved in its specs, or another directory")


def _local_bytes(leaf: Any) -> int:
    if isinstance(leaf, jax.Array):
        return sum(s.data.nbytes for s in leaf.addressable_shards if s.replica_id == 0)
    return leaf.nbytes


def _json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON, checked now rather than inside Orbax."""
    try:
        return json.loads(json.dumps(value, default=_plain_json))
    except (TypeError, ValueError) as error:
        raise InputError("specs", f"no JSON ({error})",
                         "Give dicts, lists, numbers, text") from error


def _plain_json(value: Any) -> Any:
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
