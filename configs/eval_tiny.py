"""Held-out questions for the tiny model on CPU.

    python -m fourd4d.eval --config=configs/eval_tiny.py \
        --config.checkpoint=DIR --config.data=FILE.jsonl
"""

from ml_collections import ConfigDict

from configs import eval_heldout


def get_config() -> ConfigDict:
    config = eval_heldout.get_config()
    config.eval.max_tokens = 160
    config.eval.max_latents = 32
    config.eval.rows = 64
    config.eval.batch_tokens = 32_768
    config.eval.length_step = 32
    return config
