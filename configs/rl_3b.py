"""4DRL of Qwen2.5-VL 3B with the paper's numbers: 64 prompts x 8 responses over 8 devices.

    python -m fourd4d.rl --config=configs/rl_3b.py --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import rl_tiny


def get_config() -> ConfigDict:
    config = rl_tiny.get_config()
    config.workdir = "runs/rl_3b"
    config.mesh = "gpu-node"
    config.init = "runs/dift_3b/checkpoints"
    config.data.path = "data/4drl_data_filtered.jsonl"
    config.data.assumed_fps = 1.0  # The published rows carry no timestamps.
    config.data.measure = 256
    config.data.round_to = 128
    config.reading = ConfigDict(dict(workers=8, threads=4, buffer=2))
    config.model = ConfigDict(dict(dtype="bfloat16", remat="full"))
    config.rl.accumulate = 2
    # Decoding and training round differently in bfloat16; ratios should not see that.
    config.rl.old = "recomputed"
    config.sampling.max_tokens = 1024
    config.sampling.max_latents = 64
    config.optimizer.learning_rate = 1e-6
    config.optimizer.warmup_steps = 0
    config.prompts = 64
    config.epochs = 1
    config.steps = 573  # 36,710 questions.
    config.show_every = 10
    config.save_every = 50
    config.keep = 2
    return config
