"""How fast are batches made, and how much of them is padding, with and without packing?

    python -m fourd4d.bench data --data runs/data/dift.jsonl --preset tiny --json data.json

Without ``--data``, clips of noise with texts of uneven lengths are written for the occasion.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

from fourd4d.bench.common.result import Result
from fourd4d.core.batch import BatchShape
from fourd4d.core.records import encode_sample, write_shards
from fourd4d.core.sample import IMAGE_MARK, LETTERS, Sample, reasoned
from fourd4d.data import Reading, dift_pipeline, measure, open_source
from fourd4d.data.source import Source
from fourd4d.models import preset_protocol
from fourd4d.processing import Processor, load_tokenizer, tiny_tokenizer


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="", help="JSONL file or dataset directory; else noise")
    parser.add_argument("--root", default="", help="where the image paths of a JSONL file start")
    parser.add_argument("--preset", default="tiny", help="whose token protocol to use")
    parser.add_argument("--tokenizer", default="", help="file or directory; else the shipped one")
    parser.add_argument("--batch", type=int, default=32, help="examples a batch, unpacked")
    parser.add_argument("--pack", type=int, default=4, help="longest examples a packed row holds")
    parser.add_argument("--steps", type=int, default=20, help="batches timed")
    parser.add_argument("--workers", type=int, default=0, help="reading processes")
    parser.add_argument("--threads", type=int, default=2, help="reading threads of each")
    parser.add_argument("--clips", type=int, default=200, help="clips of noise to write")


def main(args: argparse.Namespace) -> Result:
    words = load_tokenizer(args.tokenizer) if args.tokenizer else tiny_tokenizer()
    processor = Processor(words, preset_protocol(args.preset))
    with tempfile.TemporaryDirectory() as folder:
        path = args.data or write_noise(Path(folder), args.clips)
        source = open_source(path, args.root or None)
        start = time.perf_counter()
        shape = measure(source, processor, args.batch)
        seconds = time.perf_counter() - start
        packed = BatchShape(
            max(1, args.batch // args.pack), shape.length * args.pack, shape.slots * args.pack,
            shape.windows, shape.overlays * args.pack)
        reading = Reading(workers=args.workers, threads=args.threads, cache_mb=0)
        metrics: dict[str, float] = {
            "examples": len(source), "measured_per_second": len(source) / max(seconds, 1e-9)}
        for name, one, pack in (("", shape, False), ("_packed", packed, True)):
            metrics |= {key + name: value for key, value in timed(
                source, processor, one, pack, args.steps, reading).items()}
    return Result("data", metrics, {**vars(args), "shape": dataclasses.asdict(shape)})


def timed(source: Source, processor: Processor, shape: BatchShape, pack: bool, steps: int,
          reading: Reading) -> dict[str, float]:
    """Examples a second, megabytes a batch, and the shares of padded tokens and frame slots.

    The first batch, in whose time readers start, is not counted.
    """
    batches = iter(dift_pipeline(source, processor, shape, epochs=None, pack=pack,
                                 reading=reading))
    next(batches)
    examples = tokens = slots = nbytes = 0
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        batch = next(batches)
        examples += int(batch.segment_ids.max(axis=1).sum())
        tokens += int((batch.segment_ids > 0).sum())
        slots += int(batch.vision.mask.any(axis=(2, 3)).sum())
        nbytes = batch.vision.patches.nbytes + batch.vision.coords.nbytes
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    batches.close()
    rows = steps * shape.rows
    return {
        "examples_per_second": examples / seconds,
        "cpu_ms_per_example": 1e3 * cpu / max(examples, 1),
        "padding_share": 1 - tokens / (rows * shape.length),
        "slot_padding_share": 1 - slots / (rows * max(shape.slots, 1)),
        "megabytes_per_batch": nbytes / 1e6,
    }


def write_noise(folder: Path, count: int, side: int = 64, seed: int = 0) -> Path:
    """Record shards of clips with 4 to 16 frames, 1 to 4 overlays and texts of uneven length."""
    rng = np.random.default_rng(seed)

    def image() -> bytes:
        out = io.BytesIO()
        tiles = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        PIL.Image.fromarray(tiles.repeat(side // 8, 0).repeat(side // 8, 1)).save(out, "jpeg")
        return out.getvalue()

    def records():
        for number in range(count):
            frames, marks = int(rng.integers(4, 17)), int(rng.integers(1, 5))
            text = " It goes on." * int(rng.integers(1, 12)) + f" {IMAGE_MARK}" * marks
            sample = dataclasses.replace(
                Sample.fake(number), frames=tuple(f"{number}/{i}.jpg" for i in range(frames)),
                timestamps=tuple(0.5 * i for i in range(frames)), overlay_timestamps=(),
                overlays=tuple(f"{number}/o{i}.jpg" for i in range(marks)))
            answer = f"{sample.answer}. {sample.options[LETTERS.index(sample.answer)]}"
            sample = dataclasses.replace(sample, response=reasoned(text, answer))
            yield encode_sample(sample, [image() for _ in range(frames)],
                                [image() for _ in range(marks)])

    write_shards(folder, "noise", records())
    return folder
