"""What the dataset commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample


def root_of(args: argparse.Namespace) -> Path:
    """Where the paths of ``args.data`` start."""
    return Path(args.root) if args.root else Path(args.data).parent


def require_jsonl(path: str) -> None:
    if Path(path).is_dir():
        raise InputError(path, "a folder", "Give a .jsonl file; 'export' makes one")


def row_of(sample: Sample) -> dict[str, Any]:
    return jsonl.dift_row(sample) if sample.response else jsonl.rl_row(sample)
