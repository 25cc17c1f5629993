"""Small datasets on disk, for tests."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image

from fourd4d.core import jsonl, records
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import IMAGE_MARK, Sample
from fourd4d.processing.processor import Processor
from fourd4d.processing.tokenizer import tiny_tokenizer

PROTOCOL = ProtocolSpec(patch_size=8, window=32, merge=2, min_pixels=256, latent_size=2,
                        max_frames=6, suffix="none", system="")


def processor(**changes) -> Processor:
    return Processor(tiny_tokenizer(), dataclasses.replace(PROTOCOL, **changes))


def png(seed: int, side: int = 32) -> bytes:
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(tiles.repeat(side // 4, 0).repeat(side // 4, 1)).save(out, "png")
    return out.getvalue()


def sample(number: int, frames: int = 4, marks: int = 2) -> Sample:
    """Text, frames and overlays that tell the sample's number."""
    base = Sample.fake(number)
    letter, clip = base.answer, f"clip{number}"
    response = (f"<think>Number {number}:" + f" {IMAGE_MARK} so." * marks + "</think>\n"
                f"<answer>{letter}. {base.answer_text}</answer>")
    return dataclasses.replace(
        base, question=f"Which way, {number}?", response=response,
        frames=tuple(f"{clip}/{i}.png" for i in range(frames)),
        timestamps=tuple(0.5 * i for i in range(frames)),
        overlays=tuple(f"{clip}/o{i}.png" for i in range(marks)), overlay_timestamps=())


def images(value: Sample) -> tuple[list[bytes], list[bytes]]:
    seed = int(value.video_id.removeprefix("clip")) * 100
    return ([png(seed + i) for i in range(len(value.frames))],
            [png(seed + 50 + i) for i in range(len(value.overlays))])


def write_files(root: Path, value: Sample) -> None:
    for paths, blobs in zip((value.frames, value.overlays), images(value), strict=True):
        for path, blob in zip(paths, blobs, strict=True):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(blob)


def write_dataset(root: Path, samples: list[Sample], name: str = "dift.jsonl") -> Path:
    """JSONL and images below ``root``."""
    for value in samples:
        write_files(root, value)
    jsonl.write(root / name, [jsonl.dift_row(value) for value in samples])
    return root / name


def write_records(root: Path, samples: list[Sample], shards: int = 2) -> list[Path]:
    return records.write_shards(root, "dift", (
        records.encode_sample(value, *images(value)) for value in samples), shards)
