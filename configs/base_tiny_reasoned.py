"""The tiny base's second part: seeing and choosing inside whole questions. The result ships.

    python -m fourd4d.synth --config=configs/synth_base_reasoned.py
    python -m fourd4d.dift --config=configs/base_tiny_reasoned.py
"""

from ml_collections import ConfigDict

from configs import base_tiny


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.workdir = "runs/base_tiny_reasoned"
    config.preset = ""
    config.init = "runs/base_tiny/checkpoints"
    config.data.path = "runs/base_reasoned_data"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20
    config.steps = 800
    return config
