"""Reading options until one fits, again and again: what the tiny base practises second.

python -m fourd4d.synth --config=configs/synth_choice.py --config.output=runs/choice_data
"""

import ml_collections

from configs import synth_base


def get_config() -> ml_collections.ConfigDict:
    config = synth_base.get_config()
    config.seed = 12
    config.start = 60_000
    config.clips = 1500
    config.practice.reasoned = 1
    config.practice.choices = 12
    return config
