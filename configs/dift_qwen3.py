"""DIFT of Qwen3-VL, 2B to 32B; as 3B otherwise.

    python -m fourd4d.convert HF_DIRECTORY runs/base_qwen3_8b --to orbax --new-tokens mean
    python -m fourd4d.dift --config=configs/dift_qwen3.py:8b --config.data.path=DIR/dift.jsonl

A video has at most 50 frames, of 512 x 512 pixels where it has all of them: 256 tokens for every
two, as with 3B. The training state is 16 bytes a parameter: 131 GB of the 8B model over all chips.
"""

from ml_collections import ConfigDict

from configs import dift_3b, dift_32b

SIZES = ("2b", "4b", "8b", "32b")
FRAMES = 50


def get_config(size: str = "8b") -> ConfigDict:
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose among {', '.join(SIZES)}")
    config = (dift_32b if size == "32b" else dift_3b).get_config()
    config.workdir = f"runs/dift_qwen3_{size}"
    config.init = f"runs/base_qwen3_{size}"
    config.protocol.max_frames = FRAMES
    config.protocol.max_pixels = FRAMES * 512 * 512  # Of a video: all its frames together.
    return config
