"""4DRL of the tiny model on CPU.

    python -m fourd4d.rl --config=configs/rl_tiny.py --config.init=DIR \\
        --config.data.path=DIR/rl.jsonl
"""

from ml_collections import ConfigDict

from configs import rl_3b


def get_config() -> ConfigDict:
    config = rl_3b.get_config()
    config.workdir = "runs/rl_tiny"
    config.mesh = "cpu"
    config.init = "runs/dift_tiny/checkpoints"
    config.model = ConfigDict()
    config.data.path = "runs/data/rl.jsonl"
    config.data.assumed_fps = 0.0
    config.data.measure = 0
    config.data.round_to = 8
    config.reading = ConfigDict(dict(workers=0, threads=1, buffer=2))
    config.rl.accumulate = 1
    config.rl.old = "sampled"
    config.rl.slots = 64
    config.sampling.max_tokens = 176
    config.sampling.max_latents = 32
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_steps = 2
    config.prompts = 24
    config.epochs = 0
    config.steps = 30
    config.save_every = 10
    config.keep = 1
    return config
