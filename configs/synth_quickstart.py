"""Small simulated clips with one question each, for the quickstart.

python -m fourd4d.synth --config=configs/synth_quickstart.py --config.output=runs/data
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "questions"
    config.source = "scenes"
    config.output = ""
    config.seed = 7
    config.start = 0  # number of the first clip; held-out clips start at 100000
    config.clips = 1500
    # Beside each clip the same with one fact changed, asked the same question: names among mirror,
    # reverse (all backwards) and path (the main thing backwards). For rewards of pairs.
    config.pairs = ()
    config.style = "short"
    config.overlays = ml_collections.ConfigDict(
        {"camera": 2, "direction": 3, "distance": 3, "speed": 4, "box_direction": 3})
    config.quality = 95
    config.records = True
    config.scene = ml_collections.ConfigDict({
        "height": 64, "width": 64, "frames": 8, "fps": 2.0, "focal": 0.866, "fine": 2, "things": 3,
        "moving_camera": 0.15, "combos": 0.0,
        "weights": {"direction": 0.40, "camera": 0.25, "distance": 0.15, "speed": 0.10,
                    "box_direction": 0.10},
    })
    return config
