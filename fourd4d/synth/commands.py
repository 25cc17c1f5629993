"""What is done with datasets once they are made: look, choose, thin out, compare, convert.

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
import collections
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.files import full_disk_told
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.processing.media import decode_image
from fourd4d.processing.video import read_video
from fourd4d.synth import filters, pipeline, report
from fourd4d.synth.filters import Answer
from fourd4d.synth.works import SUFFIXES, find_videos
from fourd4d.synth.write import ROOT, write_files

NAMES: Final = ("report", "difficulty", "dedup", "overlap", "import", "export", "tfds")
BUILDERS: Final = {"scenes": "dataset.py", "videos": "video_dataset.py"}
MOMENTS: Final = 4  # Frames of a video that its hash looks at.


def main(argv: Sequence[str], answerer: Callable[[argparse.Namespace], Answer]) -> int:
    """Runs one command. ``answerer`` loads the model that ``difficulty`` needs."""
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
            build(argv[1:])
            return 0
        args = parser.parse_args(argv)
        if args.name == "difficulty":
            print(difficulty(args, answerer))
        else:
            print(_RUN[args.name](args))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def root_of(args: argparse.Namespace) -> Path:
    """Where the paths of ``args.data`` start."""
    return Path(args.root) if args.root else Path(args.data).parent


# ---- difficulty: pass@k by a given checkpoint ----


def difficulty(args: argparse.Namespace, answerer: Callable[[argparse.Namespace], Answer]) -> str:
    """Keeps the questions that a model gets right sometimes: from a DIFT set, an RL set.

    Tries are logged beside the output as they are made; a run that broke off goes on from there.
    """
    log = Path(f"{args.out}.tries.jsonl")
    head = {"data": os.fspath(args.data), "checkpoint": args.checkpoint, "tries": args.tries,
            "temperature": args.temperature, "max_tokens": args.max_tokens, "seed": args.seed}
    shares = _read_tries(log, head)
    _needs_jsonl(args.data)
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
            for sample, share in filters.difficulties(todo, answer, args.tries, args.batch):
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
            value = json.loads(line)
            if number == 1 and value["run"] != head:
                changed = [k for k in head if head[k] != value["run"].get(k)]
                raise InputError(log, f"these tries are of another run ({', '.join(changed)})",
                                 "Choose another output, or delete this file")
            if number > 1:
                shares[str(value["id"])] = float(value["share"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{log}:{number}", f"no line of a log ({error})",
                             "Delete the file") from error
        sound += len(line)
    os.truncate(log, sound)
    return shares


# ---- near-duplicates and overlap ----


def _video(sample: Sample) -> str:
    """What tells one clip from another: its name, else its first file."""
    return sample.video_id or (sample.frames[0] if sample.frames else sample.video)


def hash_of(sample: Sample, root: Path) -> tuple[int, ...]:
    """Perceptual hashes of a few frames of the sample's clip."""
    where = f"sample {sample.id!r}"
    if sample.frames:
        picked = np.linspace(0, len(sample.frames) - 1, MOMENTS).round().astype(int)
        paths = [jsonl.inside(root, sample.frames[i], where) for i in picked]
        try:
            images = [decode_image(path.read_bytes(), path).pixels for path in paths]
        except OSError as error:
            raise InputError(where, f"a frame cannot be read ({error})", "Give --root") from error
        return filters.clip_hash(images, MOMENTS)
    return _hash_file(jsonl.inside(root, sample.video, where))


def _hash_file(path: Path) -> tuple[int, ...]:
    frames = read_video(path, 1e6, MOMENTS).frames
    return filters.clip_hash(frames, MOMENTS)


def hashes_at(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
              ) -> dict[str, tuple[int, ...]]:
    """Hashes by clip, of a JSONL file or of the video files below a folder."""
    path = Path(path)
    if path.is_dir() and any(p.suffix.lower() in SUFFIXES for p in path.rglob("*")):
        return {name: _hash_file(file) for name, file in find_videos(path).items()}
    if path.is_dir():
        return {_video(r.sample): _hash_record(r)
                for r in records.read_shards(records.find_shards(path))}
    out: dict[str, tuple[int, ...]] = {}
    for sample in jsonl.read(path):
        if _video(sample) not in out:
            out[_video(sample)] = hash_of(sample, Path(root) if root else path.parent)
    return out


def _hash_record(record: Record) -> tuple[int, ...]:
    picked = np.linspace(0, len(record.frames) - 1, MOMENTS).round().astype(int)
    return filters.clip_hash([decode_image(record.frames[i]).pixels for i in picked], MOMENTS)


def dedup(args: argparse.Namespace) -> str:
    """Leaves out the samples of clips that nearly equal an earlier one."""
    _needs_jsonl(args.data)
    twins = filters.near_duplicates(hashes_at(args.data, args.root), args.bits)
    lost: collections.Counter[str] = collections.Counter()

    def kept() -> Iterator[Mapping[str, Any]]:
        for sample in jsonl.read(args.data):
            if _video(sample) in twins:
                lost[_video(sample)] += 1
            else:
                yield _row(sample)

    count = jsonl.write(args.out, kept())
    lines = [f"  {name} is {twins[name]}: {number} samples" for name, number in lost.items()]
    return "\n".join([*lines, f"{len(twins)} near-duplicate clips; {sum(lost.values())} samples "
                      f"left out, {count} in {args.out}"])


def _needs_jsonl(path: str) -> None:
    if Path(path).is_dir():
        raise InputError(path, "a folder", "Give a .jsonl file; 'export' makes one")


def _row(sample: Sample) -> dict[str, Any]:
    return jsonl.dift_row(sample) if sample.response else jsonl.rl_row(sample)


def overlap(args: argparse.Namespace) -> str:
    """Clips of a training set that a benchmark holds too: by name, and by looks."""
    _needs_jsonl(args.data)
    benchmark = Path(args.benchmark)
    looks: dict[str, tuple[int, ...]] = {}
    if benchmark.suffix == ".txt":
        names = {line.strip() for line in benchmark.read_text(encoding="utf-8").splitlines()}
    else:
        looks = hashes_at(benchmark, args.benchmark_root)
        names = set(looks)
    train = [_video(sample) for sample in jsonl.read(args.data)]
    by_name = filters.overlap(train, names - {""})
    by_looks = filters.alike(hashes_at(args.data, args.root), looks, args.bits) if looks else {}
    counts = collections.Counter(train)
    found = {**{name: name for name in by_name}, **by_looks}
    lines = [f"  {name} is {found[name]} of the benchmark ({_how(name, by_name, by_looks)}): "
             f"{counts[name]} samples" for name in sorted(found)]
    lost = sum(counts[name] for name in found)
    lines.append(f"{len(found)} of {len(counts)} clips overlap ({len(by_name)} by name, "
                 f"{len(by_looks)} by looks); {lost} of {len(train)} samples")
    if args.out:
        count = jsonl.write(args.out, (_row(s) for s in jsonl.read(args.data)
                                       if _video(s) not in found))
        lines.append(f"{count} samples without overlap in {args.out}")
    return "\n".join(lines)


def _how(name: str, by_name: Mapping[str, Any], by_looks: Mapping[str, Any]) -> str:
    return " and ".join(how for how, table in (("name", by_name), ("looks", by_looks))
                        if name in table)


# ---- JSONL in and out ----


def import_rows(args: argparse.Namespace) -> str:
    """Rows of a JSONL file, with their images, as ArrayRecord shards."""
    _needs_jsonl(args.data)
    count = 0

    def packed() -> Iterator[bytes]:
        nonlocal count
        for sample in jsonl.read(args.data):
            count += 1
            yield pipeline.packed(root_of(args), sample)

    shards = records.write_shards(args.out, "data", packed(), args.shards)
    return f"{count} samples in {len(shards)} shards in {args.out}"


def export_rows(args: argparse.Namespace) -> str:
    """Records or a TFDS dataset as ``dift.jsonl``, ``rl.jsonl`` and the images they name."""
    out = Path(args.out)
    samples: list[Sample] = []
    for record in _records(Path(args.data), args.split):
        sample = record.sample
        paths = (*sample.frames, *sample.overlays)
        for path in paths:
            jsonl.inside(out, path, f"sample {sample.id!r}")
        write_files(out, dict(zip(paths, (*record.frames, *record.overlays), strict=True)))
        samples.append(dataclasses.replace(sample, masks=()))  # Records hold no masks.
    if not samples:
        raise InputError(args.data, "it holds no sample", "Give a dataset's directory")
    told = [s for s in samples if s.response]
    jsonl.write(out / "dift.jsonl", (jsonl.dift_row(s) for s in told))
    asked = [s for s in samples if s.answer]
    jsonl.write(out / "rl.jsonl", (jsonl.rl_row(s) for s in asked))
    return f"{len(told)} DIFT and {len(asked)} RL rows in {out}"


def _records(path: Path, split: str) -> Iterable[Record]:
    if (path / "dataset_info.json").is_file():
        return _tfds(path, split)
    return records.read_shards(records.find_shards(path, "" if split == "all" else split))


def _tfds(path: Path, split: str) -> Iterator[Record]:
    """Records of a prepared TFDS dataset; images keep their bytes and get the published names."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.example_parser import ExampleParserNp

    builder: Any = tfds.builder_from_directory(path)
    make_parser: Any = ExampleParserNp  # A dataclass by inheritance, which checkers miss.
    parser = make_parser(builder.info.features.get_serialized_info())
    for part in builder.info.splits if split == "all" else [split]:
        for data in builder.as_data_source(
                part, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES):
            one = {k: np.atleast_1d(v).tolist() for k, v in parser.parse_example(data).items()}
            text = {k: one[k][0].decode() for k in (
                "id", "video_id", "type", "question", "answer", "response")}
            folder = f"{ROOT}/{text['video_id'] or text['id']}"
            sample = Sample(
                id=text["id"], video_id=text["video_id"], kind=text["type"],
                question=text["question"], answer=text["answer"], response=text["response"],
                options=tuple(o.decode() for o in one["options"]),
                timestamps=tuple(one["timestamps"]),
                overlay_timestamps=tuple(one["overlay_timestamps"]),
                frames=tuple(f"{folder}/frames/frame_{i:04d}.jpg"
                             for i in range(len(one["frames"]))),
                overlays=tuple(f"{folder}/overlays/{text['id']}_{i:02d}.jpg"
                               for i in range(len(one["overlays"]))),
                provenance=json.loads(one["provenance"][0]) if "provenance" in one else {})
            yield Record(sample, tuple(one["frames"]), tuple(one["overlays"]))


def build(argv: Sequence[str]) -> None:
    """``tfds build`` with the arguments given, without the TensorFlow that its command imports.

    ``scenes`` and ``videos`` stand for the builders of this package.
    """
    from tensorflow_datasets.scripts.cli import build as tfds_build
    from tensorflow_datasets.scripts.cli import cli_utils

    here = Path(__file__).parent
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


# ---- the command line ----


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder that synthesis wrote")
    parser.add_argument("--cards", type=int, default=40, help="samples shown")


def _difficulty(parser: argparse.ArgumentParser) -> None:
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


def _dedup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="JSONL file")
    parser.add_argument("out", metavar="OUT", help="JSONL file without near-duplicates")
    parser.add_argument("--root", default="", help="where the paths in DATA start")
    parser.add_argument("--bits", type=float, default=8.0,
                        help="of 128: most that differ in near-duplicates")


def _overlap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="TRAIN", help="JSONL file")
    parser.add_argument("benchmark", metavar="BENCHMARK",
                        help="JSONL file, folder of videos, or .txt of video ids")
    parser.add_argument("--root", default="", help="where the paths in TRAIN start")
    parser.add_argument("--benchmark-root", default="", help="where those in BENCHMARK start")
    parser.add_argument("--bits", type=float, default=8.0, help="as for dedup")
    parser.add_argument("--out", default="", help="JSONL file of what does not overlap")


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="JSONL file of either published layout")
    parser.add_argument("out", metavar="DIR", help="folder of the shards")
    parser.add_argument("--root", default="", help="where the paths in DATA start")
    parser.add_argument("--shards", type=int, default=1, help="number of files")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATASET", help="folder of shards, or of a TFDS dataset")
    parser.add_argument("out", metavar="DIR", help="folder of the JSONL files and images")
    parser.add_argument("--split", default="all", help="one split of the dataset")


_HELP: Final = {
    "report": "a page about a dataset", "difficulty": "questions a model sometimes gets right",
    "dedup": "leave out near-duplicate clips", "overlap": "clips that a benchmark holds too",
    "import": "JSONL to ArrayRecord shards", "export": "shards or TFDS to JSONL and images",
}  # fmt: skip
_ARGUMENTS: Final[Mapping[str, Callable[[argparse.ArgumentParser], None]]] = {
    "report": _report, "difficulty": _difficulty, "dedup": _dedup, "overlap": _overlap,
    "import": _import, "export": _export,
}  # fmt: skip
_RUN: Final[Mapping[str, Callable[[argparse.Namespace], object]]] = {
    "report": lambda args: report.write(args.data, args.cards), "dedup": dedup,
    "overlap": overlap, "import": import_rows, "export": export_rows,
}  # fmt: skip
