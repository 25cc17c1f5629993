"""Free-text tasks on simulated clips: the data behind the shipped tiny base.

python -m fourd4d.synth --config=configs/synth_base.py --config.output=runs/base_data
"""

import ml_collections

from configs import synth_quickstart


def get_config() -> ml_collections.ConfigDict:
    config = synth_quickstart.get_config()
    config.task = "base"
    config.seed = 11
    config.start = 50_000
    config.clips = 3000
    config.quality = 92
    # Questions a clip: to be watched and to be worked out; of which only the option is asked; to be
    # concluded from findings that are given.
    config.practice = ml_collections.ConfigDict(dict(reasoned=2, choices=0, conclusions=0))
    with config.unlocked():
        del config["pairs"]  # Tasks of perception have no counterpart.
        config.scene.weights = {"direction": 0.34, "camera": 0.26, "distance": 0.16, "speed": 0.14,
                                "box_direction": 0.10}
    return config
