"""DIFT of the 72B model over 32 chips or more; as 32B otherwise.

    python -m fourd4d.convert HF_DIRECTORY runs/base_72b --to orbax --new-tokens mean
    python -m fourd4d.dift --config=configs/dift_72b.py --config.data.path=DIR/dift.jsonl

The training state is 16 bytes a parameter: 1.17 TB over all chips.
"""

from ml_collections import ConfigDict

from configs import dift_32b


def get_config() -> ConfigDict:
    config = dift_32b.get_config()
    config.workdir = "runs/dift_72b"
    config.init = "runs/base_72b"
    return config
