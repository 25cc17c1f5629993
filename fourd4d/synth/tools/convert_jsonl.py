"""The ``import`` and ``export`` commands: JSONL to record shards and back."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.files import parse_json
from fourd4d.core.records import Record
from fourd4d.core.sample import Sample
from fourd4d.synth.dataset.encode import ROOT, write_files
from fourd4d.synth.dataset.pack import pack_sample
from fourd4d.synth.tools.common import require_jsonl, root_of

# ---- JSONL in and out ----


def run_import(args: argparse.Namespace) -> str:
    """Write the rows of a JSONL file, with their images, as ArrayRecord shards."""
    require_jsonl(args.data)
    count = 0

    def packed() -> Iterator[bytes]:
        nonlocal count
        for sample in jsonl.read(args.data):
            count += 1
            yield pack_sample(root_of(args), sample)

    shards = records.write_shards(args.out, "data", packed(), args.shards)
    return f"{count} samples in {len(shards)} shards in {args.out}"


def run_export(args: argparse.Namespace) -> str:
    """Write records or a TFDS dataset as ``dift.jsonl``, ``rl.jsonl`` and the images they name."""
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
    with_response = [s for s in samples if s.response]
    jsonl.write(out / "dift.jsonl", (jsonl.dift_row(s) for s in with_response))
    asked = [s for s in samples if s.answer]
    jsonl.write(out / "rl.jsonl", (jsonl.rl_row(s) for s in asked))
    return f"{len(with_response)} DIFT and {len(asked)} RL rows in {out}"


def _records(path: Path, split: str) -> Iterable[Record]:
    if (path / "dataset_info.json").is_file():
        return _tfds(path, split)
    return records.read_shards(records.find_shards(path, "" if split == "all" else split))


def _tfds(path: Path, split: str) -> Iterator[Record]:
    """Yield records of a prepared TFDS dataset; images keep their bytes, under published names."""
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
                provenance=parse_json(one["provenance"][0], f"provenance of {text['id']!r}")
                if "provenance" in one else {})
            yield Record(sample, tuple(one["frames"]), tuple(one["overlays"]))


def add_arguments_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="JSONL file of either published layout")
    parser.add_argument("out", metavar="DIR", help="folder of the shards")
    parser.add_argument("--root", default="", help="where the paths in DATA start")
    parser.add_argument("--shards", type=int, default=1, help="number of files")


def add_arguments_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATASET", help="folder of shards, or of a TFDS dataset")
    parser.add_argument("out", metavar="DIR", help="folder of the JSONL files and images")
    parser.add_argument("--split", default="all", help="one split of the dataset")
