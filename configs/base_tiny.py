"""The tiny base from scratch: perception and reading, before any imagery.

    python -m fourd4d.synth --config=configs/synth_base.py
    python -m fourd4d.dift --config=configs/base_tiny.py
"""

from ml_collections import ConfigDict

from configs import dift_tiny


def get_config() -> ConfigDict:
    config = dift_tiny.get_config()
    config.workdir = "runs/base_tiny"
    config.init = ""
    config.preset = "tiny"
    config.protocol.suffix = "none"  # No word of imagery or answers yet.
    config.data.path = "runs/base_data"
    config.data.measure = 1500
    config.data.round_to = 4
    config.data.pack = 2
    config.imagery = False
    config.trainable = (".*",)
    config.dift.text_weight = 1.0
    config.dift.imagery_weight = 0.0
    config.dift.norm_weight = 0.0
    config.dift.self_feed_passes = 0
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.98
    config.batch = 32
    config.steps = 2000
    config.log_every = 20
    config.save_every = 400
    return config
