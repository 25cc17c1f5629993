"""Commands on finished datasets: inspect, select, deduplicate, compare, convert.

python -m fourd4d.synth report DIR
python -m fourd4d.synth difficulty DATA OUT.jsonl --checkpoint DIR
python -m fourd4d.synth dedup DATA OUT.jsonl
python -m fourd4d.synth overlap TRAIN BENCHMARK [--out OUT.jsonl]
python -m fourd4d.synth import DATA.jsonl DIR
python -m fourd4d.synth export DATASET DIR
python -m fourd4d.synth tfds scenes|videos …

Paths in a JSONL file are below ``--root``, by default the file's own folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.synth.tools import report
from fourd4d.synth.tools.convert_jsonl import (
    add_arguments_export,
    add_arguments_import,
    run_export,
    run_import,
)
from fourd4d.synth.tools.difficulty import Answer, add_arguments_difficulty, run_difficulty
from fourd4d.synth.tools.duplicates import add_arguments_dedup, run_dedup
from fourd4d.synth.tools.overlap import add_arguments_overlap, run_overlap
from fourd4d.synth.tools.tfds import build_tfds

NAMES: Final = ("report", "difficulty", "dedup", "overlap", "import", "export", "tfds")


def main(argv: Sequence[str], answerer: Callable[[argparse.Namespace], Answer]) -> int:
    """Run one command; return its exit status. ``answerer`` loads the model of ``difficulty``."""
    parser = argparse.ArgumentParser("python -m fourd4d.synth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for name in NAMES:
        if name == "tfds":
            choices.add_parser(name, help="what 'tfds build' does, without TensorFlow")
            continue
        one = choices.add_parser(name, help=_HELP[name],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        _ARGUMENTS[name](one)
    try:
        if argv[:1] == ["tfds"]:
            build_tfds(argv[1:])
            return 0
        args = parser.parse_args(argv)
        if args.name == "difficulty":
            say(run_difficulty(args, answerer))
        else:
            say(_RUN[args.name](args))
    except InputError as error:
        say(error, stderr=True)
        return 2
    return 0


# ---- the command line ----


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder that synthesis wrote")
    parser.add_argument("--cards", type=int, default=40, help="samples shown")


_HELP: Final = {
    "report": "a page about a dataset", "difficulty": "questions a model sometimes gets right",
    "dedup": "leave out near-duplicate clips", "overlap": "clips that a benchmark holds too",
    "import": "JSONL to ArrayRecord shards", "export": "shards or TFDS to JSONL and images",
}
_ARGUMENTS: Final[Mapping[str, Callable[[argparse.ArgumentParser], None]]] = {
    "report": _report, "difficulty": add_arguments_difficulty, "dedup": add_arguments_dedup,
    "overlap": add_arguments_overlap,
    "import": add_arguments_import, "export": add_arguments_export,
}
_RUN: Final[Mapping[str, Callable[[argparse.Namespace], object]]] = {
    "report": lambda args: report.write(args.data, args.cards), "dedup": run_dedup,
    "overlap": run_overlap, "import": run_import, "export": run_export,
}
