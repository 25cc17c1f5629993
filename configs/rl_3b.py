"""4DRL of the 3B model with the paper's numbers: 64 prompts x 8 responses over 8 or 16 devices.

    python -m fourd4d.rl --config=configs/rl_3b.py --config.init=DIR \\
        --config.data.path=4drl_data_filtered.jsonl --config.data.root=DIR

Every other 4DRL config builds on it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/rl_3b"
    config.seed = 0
    config.mesh = "gpu-node"

    # What to start from (the frozen reference too): a checkpoint directory, or a random preset.
    config.init = "runs/dift_3b/checkpoints"
    config.preset = ""
    config.tokenizer = ""
    config.protocol = ConfigDict()
    config.model = ConfigDict(dict(dtype="bfloat16", remat="full"))

    config.data = ConfigDict()
    config.data.path = "data/4drl_data_filtered.jsonl"
    config.data.root = ""
    config.data.assumed_fps = 1.0  # The published rows carry no timestamps.
    config.data.measure = 256  # Prompts looked at to find the batch shape; 0 is all.
    config.data.round_to = 128
    config.data.pairs = False  # Only rows that are pairs (synthesis: config.pairs), two and two.
    # Rows of an epoch that may be left out because they cannot be used: so many of each process, or
    # this share, whichever is more. One more ends the run.
    config.data.max_failed_rows = 10
    config.data.max_failed_share = 0.01
    config.reading = ConfigDict(dict(workers=8, threads=4, buffer=2))

    config.imagery = True  # False never imagines: the text-only baseline.
    config.trainable = (r"(?!vision/).*",)  # The vision encoder is frozen.
    # Decoding and training round differently in bfloat16; ratios should not see that.
    config.rl = ConfigDict(dict(group=8, epochs=1, minibatches=1, accumulate=4, old="recomputed",
                                train_start=False, latent_sigma=0.0, latent_kappa=0.0, overlong=0,
                                slots=0, pack=False, rounds=1))
    config.variant = "grpo"  # Or dr_grpo, dapo, gspo, cispo.
    # Fields that differ from the variant's: see losses.PolicySpec.
    config.policy = ConfigDict(dict(
        clip_low=placeholder(float), clip_high=placeholder(float), beta=placeholder(float),
        normalisation=placeholder(str), divide_by_std=placeholder(bool),
        drop_equal_groups=placeholder(bool), mask_truncated=placeholder(bool),
        ratio=placeholder(str), surrogate=placeholder(str), sampled_cap=placeholder(float),
        entropy=placeholder(float), latent_clip_low=placeholder(float),
        latent_clip_high=placeholder(float)))
    # Weights by name; functions are your own, module:name or module:name=weight each.
    # pair and swap_gap need data.pairs: both of a pair right; right, but not with the latents of
    # the other (which are sampled with once more).
    config.rewards = ConfigDict(dict(answer=1.0, format=0.2, pair=0.0, swap_gap=0.0, functions=()))
    config.sampling = ConfigDict(dict(max_tokens=1024, temperature=1.0, max_latents=64))
    config.optimizer = ConfigDict(dict(learning_rate=1e-6, warmup_steps=0, schedule="constant",
                                       weight_decay=0.0, clip_norm=1.0))
    config.prompts = 64  # A step, over all hosts.
    config.epochs = 1  # 0 repeats the data until the steps are done.
    config.steps = 573  # 36,710 questions.
    config.log_every = 1
    config.show_every = 10  # Steps between written responses.
    config.save_every = 50
    config.keep = 2
    return config
