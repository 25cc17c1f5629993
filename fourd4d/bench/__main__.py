"""Runs a benchmark: ``python -m fourd4d.bench NAME [--json FILE] [its own flags]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from fourd4d.bench.common.result import show, write
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say

BENCHES: Final = ("data", "dift", "eval", "fit", "gpu", "growth", "parity", "replay", "rollout",
                  "serve", "synthesis", "train", "update")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m fourd4d.bench", description=__doc__)
    choices = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    argv = list(sys.argv[1:] if argv is None else argv)
    wanted = [word for word in argv if word in BENCHES][:1] or BENCHES
    modules = {}
    for name in wanted:  # Only the asked-for benchmark's libraries are imported.
        modules[name] = importlib.import_module(f"fourd4d.bench.{name}")
        one = choices.add_parser(name, help=(modules[name].__doc__ or "").splitlines()[0],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        one.add_argument("--json", default="", help="file to write the result to")
        modules[name].arguments(one)
    # Fields of a config, for the benchmark that takes one.
    fields = [word for word in argv if word.startswith("--config.")]
    args = parser.parse_args([word for word in argv if word not in fields])
    if fields and not getattr(args, "config", ""):
        parser.error(f"{fields[0]} without --config")
    if fields:
        args.fields = fields
    try:
        result = modules[args.name].main(args)
        show(result)
        if args.json:
            write(result, args.json)
    except InputError as error:
        say(error, stderr=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
