"""DIFT of the 32B model over 16 chips or more; as 3B otherwise.

    python -m fourd4d.convert HF_DIRECTORY runs/base_32b --to orbax --new-tokens mean
    python -m fourd4d.dift --config=configs/dift_32b.py --config.data.path=DIR/dift.jsonl

The training state is 16 bytes a parameter: 535 GB over all chips. Eight parts of them hold a row
of the batch each; the chips of a part share its matrices.
"""

from ml_collections import ConfigDict

from configs import dift_3b


def get_config() -> ConfigDict:
    config = dift_3b.get_config()
    config.workdir = "runs/dift_32b"
    config.init = "runs/base_32b"
    config.mesh = "fsdp=8,tensor=-1"
    return config
