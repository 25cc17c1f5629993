"""The tiny base's second lesson: to find the option that says a given word.

    python -m fourd4d.synth --config=configs/synth_choice.py --config.output=runs/choice_data
    python -m fourd4d.dift --config=configs/base_tiny_choice.py

Among everything else to be learnt it does not come up in thousands of steps; by itself it does in
hundreds.
"""

from ml_collections import ConfigDict

from configs import base_tiny


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.workdir = "runs/base_tiny_choice"
    config.init = "runs/base_tiny/checkpoints"
    config.preset = ""
    config.data.path = "runs/choice_data"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20
    config.steps = 1000
    config.save_every = 200
    return config
