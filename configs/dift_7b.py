"""DIFT of the 7B model; as 3B otherwise.

    python -m fourd4d.convert HF_DIRECTORY runs/base_7b --to orbax --new-tokens mean
    python -m fourd4d.dift --config=configs/dift_7b.py --config.data.path=DIR/dift.jsonl

The training state is 16 bytes a parameter: 133 GB over all chips.
"""

from ml_collections import ConfigDict

from configs import dift_3b


def get_config() -> ConfigDict:
    config = dift_3b.get_config()
    config.workdir = "runs/dift_7b"
    config.init = "runs/base_7b"
    return config
