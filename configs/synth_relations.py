"""Simulated clips of several moving things, asked about by what they start next to.

    python -m fourd4d.synth --config=configs/synth_relations.py --config.output=runs/relations

Which thing a question is about has to be found in the picture, and then followed.
"""

import ml_collections

from configs import synth_quickstart


def get_config() -> ml_collections.ConfigDict:
    config = synth_quickstart.get_config()
    config.output = ""
    config.seed = 15
    config.clips = 2400
    with config.unlocked():
        config.overlays = ml_collections.ConfigDict({"destination": 3})
        config.scene.things = 5
        config.scene.movers = 4
        config.scene.moving_camera = 0.0
        config.scene.weights = ml_collections.ConfigDict({"destination": 1.0})
    return config
