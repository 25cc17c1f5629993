"""Tiny videos, frames and tables for copies of official layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

RATE = 8


def pictures(seed: int, count: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8: a square that goes right over a ground of its own."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 200, (height // 8, width // 8, 3), np.uint8)
    frames = np.repeat(np.kron(ground, np.ones((8, 8, 1), np.uint8))[None], count, 0)
    for number, frame in enumerate(frames):
        left = number * (width - 12) // max(count - 1, 1)
        frame[16:28, left : left + 12] = (250, 30, 30)
    return frames


def video(path: Path, seed: int = 0, count: int = 24, rate: int = RATE, *, height: int = 48,
          width: int = 64) -> Path:
    """An MP4 of ``pictures``."""
    return encode(path, pictures(seed, count, height, width), rate)


def encode(path: Path, frames: np.ndarray, rate: int = RATE) -> Path:
    """An MP4 of (frames, height, width, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast"}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def frames(folder: Path, seed: int = 0, count: int = 6, name: str = "frame_{:04d}.jpg"
           ) -> list[str]:
    """JPEG files of ``pictures``; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(number) for number in range(count)]
    for each, picture in zip(names, pictures(seed, count), strict=True):
        Image.fromarray(picture).save(folder / each, quality=90)
    return names


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A parquet file of rows."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def separated(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A TSV or CSV file of rows, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]),
                                delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def json_file(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    return path
