"""4DRL of the 72B model over 32 chips or more; as 32B otherwise.

    python -m fourd4d.rl --config=configs/rl_72b.py --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import rl_32b


def get_config() -> ConfigDict:
    config = rl_32b.get_config()
    config.workdir = "runs/rl_72b"
    config.init = "runs/dift_72b/checkpoints"
    return config
