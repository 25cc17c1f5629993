"""Choosing by a conclusion that has just been said: what the tiny base practises last.

python -m fourd4d.synth --config=configs/synth_conclude.py --config.output=runs/conclude_data
"""

import ml_collections

from configs import synth_base


def get_config() -> ml_collections.ConfigDict:
    config = synth_base.get_config()
    config.seed = 13
    config.start = 70_000
    config.clips = 1500
    config.practice.reasoned = 1
    config.practice.choices = 2
    config.practice.conclusions = 8
    return config
