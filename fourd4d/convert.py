"""Hugging Face directories ⇄ trainers' checkpoints.

    python -m fourd4d.convert SOURCE TARGET [--to hf|orbax] [--dtype bfloat16] [--new-tokens mean]
    python -m fourd4d.convert SOURCE TARGET --push OWNER/NAME[/FOLDER]

SOURCE is either kind, or hf://OWNER/NAME[/FOLDER]. ``--to hf`` writes what transformers opens
(adapters merged), with a card and ``custom_generate/generate.py``, which decodes with mental images
there; ``--to orbax`` writes a checkpoint that every stage of this package starts from.
``--push`` uploads the target to the hub.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fourd4d
from fourd4d.checkpoint.orbax import CheckpointManager, read_specs
from fourd4d.core.errors import InputError
from fourd4d.core.storage import local_copy, local_only
from fourd4d.core.terminal import say
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained import hub
from fourd4d.pretrained.bundle import DTYPES, ModelBundle
from fourd4d.pretrained.huggingface import export_hf, open_hf
from fourd4d.pretrained.open import kind_of, located, open_checkpoint


def export_orbax(bundle: ModelBundle, directory: str | os.PathLike[str]) -> None:
    """Writes the model as step 0 of a checkpoint directory that the stages open."""
    specs = {"model": bundle.config.to_json(), "trainable": [".*"], "config": {},
             "protocol": bundle.processor.protocol.to_json()}
    with CheckpointManager(os.fspath(directory), processor=bundle.processor.save) as manager:
        manager.save(0, {"params": bundle.tree}, specs=specs, force=True)


def origin_of(source: str, step: int | None) -> dict[str, Any]:
    """Where a checkpoint's weights came from, for the card of an export; names, not paths."""
    name = source if hub.is_address(source) else Path(source).resolve().name
    found: dict[str, Any] = {"converted from": name,
                             "written by": f"fourd4d {fourd4d.__version__}"}
    if kind_of(source) == "trained":
        config = read_specs(located(source), step).get("config", {})
        found |= {name: config[name] for name in ("preset", "seed", "steps") if config.get(name)}
        if config.get("init"):
            found["started from"] = Path(config["init"]).name
        if step is not None:
            found["step"] = step
    return found


def check_writable(target: Path) -> None:
    """Raises InputError unless ``target`` can be made and written to; leaves no trace."""
    made = [path for path in (target, *target.parents) if not path.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise InputError(target, f"cannot be written to ({error.strerror})",
                         "Choose a directory that you may write to") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the arguments, the description as it stands."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m fourd4d.convert", description=__doc__,
                                     formatter_class=_Formatter)
    parser.add_argument("source", help="Hugging Face or trainer's directory")
    parser.add_argument("target", help="directory to write; must be empty or absent")
    parser.add_argument("--to", choices=("hf", "orbax"),
                        help="kind of the target; by default the other than the source's")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the exported tensors")
    parser.add_argument("--new-tokens", choices=("refuse", "mean"), default="refuse",
                        help="what to do when the tokenizer lacks the imagery tokens")
    parser.add_argument("--step", type=int, help="of a trainer's directory; the newest by default")
    parser.add_argument("--mesh", default="cpu", help="mesh to load onto")
    parser.add_argument("--push", metavar="OWNER/NAME[/FOLDER]", default="",
                        help="upload the target there afterwards, as one commit")
    parser.add_argument("--public", action="store_true",
                        help="of --push: a repository that is made is not private")
    args = parser.parse_args(argv)
    try:
        if args.public and not args.push:
            raise InputError("--public", "applies to --push", "Leave it out")
        where = hub.check_push(args.push) if args.push else None  # Before the work, not after.
        target = local_only(args.target, "an export")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(target, "exists and is not empty", "Choose another directory")
        source = kind_of(args.source)
        kind = args.to or ("orbax" if source == "hf" else "hf")
        if args.step is not None and source == "hf":
            raise InputError("--step", "applies to trainers' directories", "Leave it out")
        if args.dtype and kind != "hf":
            raise InputError("--dtype", "applies to Hugging Face targets", "Leave it out")
        check_writable(target)
        mesh = make_mesh(args.mesh)
        with use(mesh):
            if source == "hf":
                bundle = open_hf(local_copy(located(args.source)), mesh, new_tokens=args.new_tokens)
            else:
                bundle = open_checkpoint(args.source, mesh, step=args.step)
            if kind == "hf":
                export_hf(bundle, target, dtype=args.dtype,
                          origin=origin_of(args.source, args.step))
            else:
                export_orbax(bundle, target)
        say(f"wrote {target}")
        if where is not None:
            commit = hub.push(target, where, private=not args.public)
            say(f"pushed to {hub.PREFIX}{where.repo} as {commit}")
    except InputError as error:
        say(error, stderr=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
