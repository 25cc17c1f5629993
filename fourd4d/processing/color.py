"""Decoded video frames to 8-bit sRGB."""

from __future__ import annotations

import av
import numpy as np
from jaxtyping import UInt8


def to_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as 8-bit RGB."""
    return frame.to_ndarray(format="rgb24")
