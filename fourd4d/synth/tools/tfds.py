"""The ``tfds`` command: builds the TFDS datasets of this package without TensorFlow."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.synth import dataset

BUILDERS: Final = {"scenes": "tfds_scenes.py", "videos": "tfds_videos.py"}


def build_tfds(argv: Sequence[str]) -> None:
    """Run ``tfds build`` with the given arguments, without TensorFlow, which ``tfds`` imports.

    ``scenes`` and ``videos`` stand for the builders of this package. Files are ArrayRecord unless
    ``--file_format`` names another. Raises InputError, before anything is made, where that format
    needs TensorFlow and it is not installed.
    """
    from tensorflow_datasets.scripts.cli import build as tfds_build
    from tensorflow_datasets.scripts.cli import cli_utils

    here = Path(dataset.__file__).parent
    words = [str(here / BUILDERS[a]) if a in BUILDERS else a for a in with_format(argv)]
    parse = cli_utils.make_flags_parser(tfds_build.Args, "Builds a TFDS dataset.")
    with _command_line(["tfds build"]):  # Beam reads the command line too.
        parse(["tfds build", *words]).execute()


def with_format(argv: Sequence[str]) -> list[str]:
    """Return the arguments with a file format that can be written here; see ``build_tfds``."""
    words = list(argv)
    for number, word in enumerate(words):
        if re.match(r"--?file_format(=|$)", word):
            chosen = word.partition("=")[2] or "".join(words[number + 1 : number + 2])
            if chosen != "array_record" and importlib.util.find_spec("tensorflow") is None:
                raise InputError("--file_format", f"{chosen!r} is written by TensorFlow, which is "
                                 "not installed", "Give --file_format=array_record, or install "
                                 "tensorflow")
            return words
    asks = any(re.match(r"--?(help|helpfull|h)$", word) for word in words)
    return words if asks else [*words, "--file_format=array_record"]


@contextlib.contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """Set another command line for a block."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before
