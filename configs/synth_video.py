"""Questions about video files: one file, or all below a folder.

python -m fourd4d.synth --config=configs/synth_video.py --config.input=DIR --config.output=OUT
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "questions"
    config.source = "videos"
    config.input = ""
    config.output = ""
    config.seed = 0
    config.style = "full"
    config.kinds = ("camera", "direction", "distance", "speed", "box_direction")
    config.overlays = ml_collections.ConfigDict(
        {"camera": 2, "direction": 4, "distance": 4, "speed": 5, "box_direction": 3})
    config.varying = True
    config.parts = 3  # where a whole clip is ambiguous, its halves and thirds are tried
    config.quality = 95
    config.records = True
    config.digest = ml_collections.ConfigDict(
        {"fps": 2.0, "side": 448, "seconds": 10.0, "max_clips": 12})
    return config
