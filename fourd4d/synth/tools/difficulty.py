"""The ``difficulty`` command: questions that a model sometimes gets right."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told, parse_json
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.synth.tools.common import require_jsonl

# ---- difficulty: pass@k by a given checkpoint ----


def run_difficulty(args: argparse.Namespace,
                   answerer: Callable[[argparse.Namespace], Answer]) -> str:
    """Keeps the questions that a model gets right sometimes: from a DIFT set, an RL set.

    Tries are logged beside the output as they are made; a run that broke off goes on from there.
    """
    log = Path(f"{args.out}.tries.jsonl")
    head = {"data": os.fspath(args.data), "checkpoint": args.checkpoint, "tries": args.tries,
            "temperature": args.temperature, "max_tokens": args.max_tokens, "seed": args.seed}
    shares = _read_tries(log, head)
    require_jsonl(args.data)
    asked = [s for s in jsonl.read(args.data) if s.answer]
    if not asked:
        raise InputError(args.data, "no question with a key", "Give a DIFT or 4DRL file")
    todo = [s for s in asked if s.id not in shares]
    if todo:
        answer = answerer(args)
        log.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_told(log), log.open("a", encoding="utf-8") as out:
            if not shares:
                out.write(json.dumps({"run": head}) + "\n")
            for sample, share in difficulties(todo, answer, args.tries, args.batch):
                shares[sample.id] = share
                out.write(json.dumps({"id": sample.id, "share": share}) + "\n")
                out.flush()
    kept = [dataclasses.replace(s, response="", overlays=(), overlay_timestamps=(), masks=(),
                                provenance={**s.provenance, "right_share": shares[s.id]})
            for s in asked if 0 < shares[s.id] < 1]
    jsonl.write(args.out, (jsonl.rl_row(s) for s in kept))
    never = sum(shares[s.id] == 0 for s in asked)
    return (f"{len(asked)} questions, {args.tries} tries each: {never} never right, "
            f"{len(asked) - never - len(kept)} always, {len(kept)} sometimes; these are in "
            f"{args.out}")


def _read_tries(log: Path, head: Mapping[str, Any]) -> dict[str, float]:
    if not log.is_file():
        return {}
    shares, sound = {}, 0
    for number, line in enumerate(log.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # Cut short by a crash: asked again.
        try:
            value = parse_json(line, f"{log}:{number}", "Delete the file")
            if number == 1 and value["run"] != head:
                changed = [k for k in head if head[k] != value["run"].get(k)]
                raise InputError(log, f"these tries are of another run ({', '.join(changed)})",
                                 "Choose another output, or delete this file")
            if number > 1:
                shares[str(value["id"])] = float(value["share"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{log}:{number}", f"no line of a log ({error})",
                             "Delete the file") from error
        sound += len(line)
    os.truncate(log, sound)
    return shares


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
    """Every question with the share of tries that a model gets right; free text is left out.

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


def by_difficulty(samples: Iterable[Sample], answer: Answer, tries: int = 8, batch: int = 16
                  ) -> Iterator[tuple[Sample, float]]:
    """Those of ``difficulties`` that the model gets right sometimes but not always.

    Reinforcement learning learns nothing from the rest: all its tries get the same reward.
    """
    return ((sample, share) for sample, share in difficulties(samples, answer, tries, batch)
            if 0 < share < 1)


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
