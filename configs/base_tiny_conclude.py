"""The tiny base's last lesson: to choose by what it has just concluded.

    python -m fourd4d.synth --config=configs/synth_conclude.py --config.output=runs/conclude_data
    python -m fourd4d.dift --config=configs/base_tiny_conclude.py

To find a word of the prompt among the options is not yet to find one of its own.
"""

from ml_collections import ConfigDict

from configs import base_tiny_choice


def get_config() -> ConfigDict:
    config = base_tiny_choice.get_config()
    config.workdir = "runs/base_tiny_conclude"
    config.init = "runs/base_tiny_choice/checkpoints"
    config.data.path = "runs/conclude_data"
    config.steps = 800
    return config
