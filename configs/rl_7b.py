"""4DRL of the 7B model; as 3B otherwise.

    python -m fourd4d.rl --config=configs/rl_7b.py --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import rl_3b


def get_config() -> ConfigDict:
    config = rl_3b.get_config()
    config.workdir = "runs/rl_7b"
    config.init = "runs/dift_7b/checkpoints"
    return config
