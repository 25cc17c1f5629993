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
    config.reasoned = 2  # Whole questions a clip, each to be watched and to be worked out.
    config.choices = 0  # Questions of which only the option is asked.
    with config.unlocked():
        config.scene.weights = {"direction": 0.34, "camera": 0.26, "distance": 0.16, "speed": 0.14,
                                "box_direction": 0.10}
    return config
