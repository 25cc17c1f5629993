"""Helpers of the dataset commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample


def root_of(args: argparse.Namespace) -> Path:
    """Return the folder that the paths in ``args.data`` are relative to."""
    return Path(args.root) if args.root else Path(args.data).parent


def require_jsonl(path: str) -> None:
    """Raise InputError where a path is a folder."""
    if Path(path).is_dir():
        raise InputError(path, "it is a folder", "Give a .jsonl file; 'export' makes one")


def row_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as a DIFT row, or as a 4DRL row where it has no response."""
    return jsonl.dift_row(sample) if sample.response else jsonl.rl_row(sample)
