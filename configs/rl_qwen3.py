"""4DRL of Qwen3-VL, 2B to 32B; as 3B and 32B otherwise.

    python -m fourd4d.rl --config=configs/rl_qwen3.py:8b --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import dift_qwen3, rl_3b, rl_32b


def get_config(size: str = "8b") -> ConfigDict:
    before = dift_qwen3.get_config(size)
    config = (rl_32b if size == "32b" else rl_3b).get_config()
    config.workdir = f"runs/rl_qwen3_{size}"
    config.init = f"{before.workdir}/checkpoints"
    config.protocol.max_frames = before.protocol.max_frames
    config.protocol.max_pixels = before.protocol.max_pixels
    return config
