"""DIFT of the tiny model on CPU.

    python -m fourd4d.dift --config=configs/dift_tiny.py --config.data.path=DIR/dift.jsonl
"""

from ml_collections import ConfigDict

from configs import dift_3b


def get_config() -> ConfigDict:
    config = dift_3b.get_config()
    config.workdir = "runs/dift_tiny"
    config.mesh = "cpu"
    config.init = "tiny-base"
    config.protocol = ConfigDict(dict(suffix="fourd4d"))  # The base was made without it.
    config.model = ConfigDict(dict(unroll=3))
    config.data.path = "runs/data/dift.jsonl"
    config.data.assumed_fps = 0.0
    config.data.measure = 0
    config.data.round_to = 8
    config.reading = ConfigDict(dict(workers=0, threads=1, buffer=2))
    # The paper weighs text 0.1 and feeds targets: enough for a model that reads already. This one
    # has to learn to, and from latents such as it will feed itself.
    config.dift.text_weight = 1.0
    config.dift.norm_weight = 0.1
    config.dift.self_feed_passes = 2
    config.optimizer.learning_rate = 7e-4
    config.optimizer.schedule = "cosine"
    config.batch = 32
    config.epochs = 0
    config.steps = 300
    config.eval_every = 150
    config.save_every = 150
    config.keep = 1
    return config
