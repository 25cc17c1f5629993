"""Encodes and decodes H.264 in memory, as a camera does."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8


def encode_video(frames: UInt8[np.ndarray, "T H W 3"], fps: float, crf: int = 23) -> bytes:
    """Encode frames as an MP4 file (H.264, 4:2:0). Height and width must be even."""
    rate = Fraction(fps).limit_denominator(1000)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: the same bytes whatever the machine.
        stream.options = {"crf": str(crf), "preset": "fast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def decode_frames(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode all frames of a video file in memory."""
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
