"""The command that writes the rows of several arms into one file to train on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.data.source import JsonlSource
from fourd4d.experiments.arms import ARMS, chosen, write_lesson
from fourd4d.experiments.rows import pause_text
from fourd4d.processing.tokenizer import tiny_tokenizer


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", help="dift.jsonl of synthesis in the style short")
    parser.add_argument("out", help="JSONL file to write, in the same folder as data")
    parser.add_argument("--arms", default="imagery,text",
                        help=f"names with commas between, among {', '.join(ARMS)}: each row once "
                        "for each of them")
    parser.add_argument("--aloud", action="store_true",
                        help="say after each image what it shows")
    parser.add_argument("--latent_size", type=int, default=9,
                        help="latents of a mental image: the arm pause waits for as long, with the "
                        "tiny model's tokenizer")


def run(args: argparse.Namespace) -> int:
    """Write the rows; returns their number.

    Raises:
      InputError: unknown arms, rows of another style, files in different folders.
    """
    data, out = Path(args.data), Path(args.out)
    if data.resolve().parent != out.resolve().parent or data.resolve() == out.resolve():
        raise InputError("OUT", f"{out} is not another file in the folder of {data}",
                         "Write it there: the rows' paths start in that folder")
    arms = chosen(tuple(args.arms.split(",")), "--arms")
    pause = pause_text(tiny_tokenizer(), args.latent_size) if any(a.paused for a in arms) else ""
    return write_lesson(arms, JsonlSource(data), out, args.aloud, pause)


def main(argv: Sequence[str]) -> None:
    """``python -m fourd4d.experiments rows DATA OUT --arms imagery,text --aloud``."""
    parser = argparse.ArgumentParser(
        prog="python -m fourd4d.experiments rows", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments(parser)
    args = parser.parse_args(argv)
    try:
        say(f"{run(args)} rows in {args.out}")
    except InputError as error:
        sys.exit(str(error))
