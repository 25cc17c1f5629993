"""The ``tfds`` command: builds this package's TFDS datasets without TensorFlow."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fourd4d.synth import dataset

BUILDERS: Final = {"scenes": "tfds_scenes.py", "videos": "tfds_videos.py"}


def build_tfds(argv: Sequence[str]) -> None:
    """``tfds build`` with the arguments given, without the TensorFlow that its command imports.

    ``scenes`` and ``videos`` stand for the builders of this package.
    """
    from tensorflow_datasets.scripts.cli import build as tfds_build
    from tensorflow_datasets.scripts.cli import cli_utils

    here = Path(dataset.__file__).parent
    words = [str(here / BUILDERS[a]) if a in BUILDERS else a for a in argv]
    parse = cli_utils.make_flags_parser(tfds_build.Args, "Builds a TFDS dataset.")
    with _command_line(["tfds build"]):  # Beam reads the command line too.
        parse(["tfds build", *words]).execute()


@contextlib.contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """Another command line for the time of a block."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before
