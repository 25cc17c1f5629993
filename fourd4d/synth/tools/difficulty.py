"""The ``difficulty`` command: questions that a model sometimes gets right."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.journal import Journal, Layout
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.synth.tools.common import require_jsonl

# ---- difficulty: pass@k by a given checkpoint ----


def run_difficulty(args: argparse.Namespace,
                   answerer: Callable[[argparse.Namespace], Answer]) -> str:
    """Write the questions that a model sometimes gets right as 4DRL rows; return a summary.

    Tries are logged beside the output as they are made; the same command resumes a broken run.
    """
    log = Path(f"{args.out}.tries.jsonl")
    head = {"data": os.fspath(args.data), "checkpoint": args.checkpoint, "tries": args.tries,
            "temperature": args.temperature, "max_tokens": args.max_tokens, "seed": args.seed}
    require_jsonl(args.data)
    asked = [s for s in jsonl.read(args.data) if s.answer]
    if not asked:
        raise InputError(args.data, "no question with a key", "Give a DIFT or 4DRL file")
    # Loaded before the log is created, so that a mistyped checkpoint leaves none behind.
    answer = None if log.exists() else answerer(args)
    with Journal(log, _LAYOUT, {"run": head}) as tries:
        shares = dict(tries.rows)
        todo = [s for s in asked if s.id not in shares]
        if todo:
            answer = answer or answerer(args)
            for sample, share in difficulties(todo, answer, args.tries, args.batch):
                shares[sample.id] = share
                tries.append({"id": sample.id, "share": share})
    kept = [dataclasses.replace(s, response="", overlays=(), overlay_timestamps=(), masks=(),
                                provenance={**s.provenance, "right_share": shares[s.id]})
            for s in asked if 0 < shares[s.id] < 1]
    jsonl.write(args.out, (jsonl.rl_row(s) for s in kept))
    never = sum(shares[s.id] == 0 for s in asked)
    return (f"{len(asked)} questions, {args.tries} tries each: {never} never right, "
            f"{len(asked) - never - len(kept)} always, {len(kept)} sometimes; these are in "
            f"{args.out}")


_LAYOUT: Final = Layout(
    "a log of tries", row=lambda value: (str(value["id"]), float(value["share"])), header="run",
    place="output", remedy="Delete the file", ascii=True)


def add_arguments_difficulty(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="JSONL file")
    parser.add_argument("out", metavar="OUT", help="4DRL rows of middling difficulty")
    parser.add_argument("--checkpoint", required=True, help="whose tries count")
    parser.add_argument("--root", default="", help="where the paths in DATA start")
    parser.add_argument("--tries", type=int, default=8, help="responses a question")
    parser.add_argument("--batch", type=int, default=16, help="questions asked together")
    parser.add_argument("--temperature", type=float, default=1.0, help="of sampling")
    parser.add_argument("--max-tokens", type=int, default=512, help="of a response")
    parser.add_argument("--assumed-fps", type=float, default=0.0,
                        help="of frame lists without timestamps")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")


Answer = Callable[[Sequence[Sample], int], Sequence[Sequence[str | None]]]
"""Maps samples and a number of tries k to k letters each (None where an answer has none)."""

def difficulties(samples: Iterable[Sample], answer: Answer, tries: int = 8, batch: int = 16
                 ) -> Iterator[tuple[Sample, float]]:
    """Yield each question with the share of tries that are right; free text is left out.

    Raises:
      InputError: ``answer`` gives another number of tries.
    """
    if tries < 2:
        raise InputError("tries", f"{tries} cannot tell sometimes from always", "Give 2 or more")
    for group in _groups(samples, batch):
        given = answer(group, tries)
        for sample, letters in zip(group, given, strict=True):
            if len(letters) != tries:
                raise InputError(f"sample {sample.id!r}", f"{len(letters)} tries of {tries}",
                                 "The answerer must give one letter or None per try")
            yield sample, sum(letter == sample.answer for letter in letters) / tries


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        if sample.answer not in tuple(LETTERS) or not sample.answer:
            continue
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
