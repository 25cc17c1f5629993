"""4DRL of the tiny model on CPU.

    python -m fourd4d.rl --config=configs/rl_tiny.py --config.init=DIR \\
        --config.data.path=DIR/rl.jsonl
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/rl_tiny"
    config.seed = 0
    config.mesh = "cpu"

    # What to start from (the frozen reference too): a checkpoint directory, or a random preset.
    config.init = "runs/dift_tiny/checkpoints"
    config.preset = ""
    config.tokenizer = ""
    config.protocol = ConfigDict()
    config.model = ConfigDict()

    config.data = ConfigDict()
    config.data.path = "runs/data/rl.jsonl"
    config.data.root = ""
    config.data.assumed_fps = 0.0
    config.data.measure = 0  # Prompts looked at to find the batch shape; 0 is all.
    config.data.round_to = 8
    config.reading = ConfigDict(dict(workers=0, threads=1, buffer=2))

    config.imagery = True  # False never imagines: the text-only baseline.
    config.trainable = (r"(?!vision/).*",)  # The vision encoder is frozen.
    config.rl = ConfigDict(dict(group=8, epochs=1, minibatches=1, accumulate=1, old="sampled",
                                train_start=False, latent_sigma=0.0,
                                latent_kappa=0.0, overlong=0, slots=0, pack=False))
    config.variant = "grpo"  # Or dr_grpo, dapo, gspo, cispo.
    # Fields that differ from the variant's: see losses.PolicySpec.
    config.policy = ConfigDict(dict(
        clip_low=placeholder(float), clip_high=placeholder(float), beta=placeholder(float),
        normalisation=placeholder(str), divide_by_std=placeholder(bool),
        drop_equal_groups=placeholder(bool), mask_truncated=placeholder(bool),
        ratio=placeholder(str), surrogate=placeholder(str), sampled_cap=placeholder(float),
        entropy=placeholder(float)))
    # Weights by name; functions are your own, module:name or module:name=weight each.
    config.rewards = ConfigDict(dict(answer=1.0, format=0.2, functions=()))
    config.sampling = ConfigDict(dict(max_tokens=176, temperature=1.0, max_latents=32))
    config.optimizer = ConfigDict(dict(learning_rate=3e-5, warmup_steps=2, schedule="constant",
                                       weight_decay=0.0, clip_norm=1.0))
    config.prompts = 24  # A step, over all hosts.
    config.epochs = 0  # 0 repeats the data until the steps are done.
    config.steps = 30
    config.log_every = 1
    config.show_every = 10  # Steps between written responses.
    config.save_every = 10
    config.keep = 1
    return config
