"""The second part of the tiny base's data: whole questions beside the first part's tasks.

python -m fourd4d.synth --config=configs/synth_base_reasoned.py
"""

import ml_collections

from configs import synth_base


def get_config() -> ml_collections.ConfigDict:
    config = synth_base.get_config()
    config.output = "runs/base_reasoned_data"
    config.start = 50_000
    config.clips = 3000
    config.reasoned = 2
    return config
