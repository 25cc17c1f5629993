"""4DRL of the 32B model over 16 chips or more; as 3B otherwise.

    python -m fourd4d.rl --config=configs/rl_32b.py --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import rl_3b


def get_config() -> ConfigDict:
    config = rl_3b.get_config()
    config.workdir = "runs/rl_32b"
    config.init = "runs/dift_32b/checkpoints"
    config.mesh = "fsdp=8,tensor=-1"
    config.rl.accumulate = 8
    return config
