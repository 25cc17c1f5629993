"""Samples with their images as records."""

from __future__ import annotations

import os

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample


def pack_sample(root: str | os.PathLike[str], sample: Sample) -> bytes:
    """Return the sample as one record, with the images it names below ``root``."""
    return records.encode_sample(sample, [read_image_bytes(root, p, sample) for p in sample.frames],
                                 [read_image_bytes(root, p, sample) for p in sample.overlays])


def read_image_bytes(root: str | os.PathLike[str], relative: str, sample: Sample) -> bytes:
    """Return the bytes of an image of a sample. Raises InputError where it cannot be read."""
    path = jsonl.inside(root, relative, f"sample {sample.id!r}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"sample {sample.id!r}", f"{path} cannot be read ({error.strerror})",
                         "Give the root that the paths are below") from error
