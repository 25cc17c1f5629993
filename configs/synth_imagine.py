"""Questions with mental images on clips of their own: the tiny base's lesson in imagining.

python -m fourd4d.synth --config=configs/synth_imagine.py --config.output=runs/imagine_data
"""

import ml_collections

from configs import synth_quickstart


def get_config() -> ml_collections.ConfigDict:
    config = synth_quickstart.get_config()
    config.seed = 14
    config.start = 80_000
    config.clips = 6000
    config.records = False
    with config.unlocked():
        config.scene.weights = {"direction": 0.34, "camera": 0.26, "distance": 0.16, "speed": 0.14,
                                "box_direction": 0.10}
    return config
