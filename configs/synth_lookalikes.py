"""Simulated clips of four moving things that look alike: which is which only the way tells.

    python -m fourd4d.synth --config=configs/synth_lookalikes.py --config.output=runs/lookalikes

As in a shell game. A question names one by the quarter of the frame in which it starts. A response
follows it in four mental images, one every second; no frame by itself shows which of them it is.
"""

import ml_collections

from configs import synth_relations


def get_config() -> ml_collections.ConfigDict:
    config = synth_relations.get_config()  # As many things and movers, a camera that stands still.
    config.seed = 16
    with config.unlocked():
        config.overlays = ml_collections.ConfigDict({"lookalike": 4})
        config.scene.weights = {"lookalike": 1.0}
    return config
