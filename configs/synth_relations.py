"""Simulated clips of several moving things, asked about by a relation.

    python -m fourd4d.synth --config=configs/synth_relations.py --config.output=runs/relations

What a question is about starts nearest to a named thing, or where a named thing ends: it has to be
found in the picture, and then followed. A response has three mental images: what it is found by,
the thing at the start, and the thing at the end.
"""

import ml_collections

from configs import synth_quickstart


def get_config() -> ml_collections.ConfigDict:
    config = synth_quickstart.get_config()
    config.output = ""
    config.seed = 15
    config.clips = 9000
    with config.unlocked():
        config.overlays = ml_collections.ConfigDict({"destination": 2, "vacated": 2})
        config.scene.things = 5
        config.scene.movers = 4
        config.scene.moving_camera = 0.0
        config.scene.weights = {"destination": 0.5, "vacated": 0.5}
    return config
