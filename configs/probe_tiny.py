"""The probe of mental images for the tiny model on CPU.

    python -m fourd4d.eval probe --config=configs/probe_tiny.py \
        --config.checkpoint=DIR --config.data=FILE.jsonl
"""

from ml_collections import ConfigDict

from configs import eval_tiny, probe_heldout


def get_config() -> ConfigDict:
    config = probe_heldout.get_config()
    config.eval = eval_tiny.get_config().eval
    return config
