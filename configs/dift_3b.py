"""DIFT of the 3B model with the paper's sizes and rates; every other DIFT config builds on it.

    python -m fourd4d.convert HF_DIRECTORY runs/base_3b --to orbax --new-tokens mean
    python -m fourd4d.dift --config=configs/dift_3b.py --config.data.path=DIR/dift.jsonl

It differs from what was published (``dift_paper.py``) in the prompt's last words, and in pooling
targets by a grid, since strips throw the column away. The training state is 16 bytes a parameter:
60 GB over all chips.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/dift_3b"
    config.seed = 0
    config.mesh = "gpu-node"

    # What to start from: a checkpoint directory (ours or Hugging Face's), or a preset at random.
    config.init = "runs/base_3b"
    config.preset = ""
    config.tokenizer = ""
    config.protocol = ConfigDict(dict(suffix="fourd4d", pooling="grid"))
    config.model = ConfigDict(dict(dtype="bfloat16", remat="full"))

    config.data = ConfigDict()
    config.data.path = "data/dift_data.jsonl"
    config.data.root = ""
    config.data.held_out = ""
    config.data.held_out_root = ""
    config.data.assumed_fps = 1.0  # The published rows carry no timestamps.
    config.data.pack = 0  # Longest examples a packed row has room for; 0 packs nothing.
    config.data.measure = 256  # Examples looked at to find the batch shape; 0 is all.
    config.data.round_to = 128
    # Folder that keeps a frozen encoder's features, so that later epochs skip it; "" is none.
    config.data.feature_cache = ""
    config.data.feature_cache_bytes = 200_000_000_000  # Most it may take.
    # Rows of an epoch that may be left out because they cannot be used: so many of each process, or
    # this share, whichever is more. One more ends the run.
    config.data.max_failed_rows = 10
    config.data.max_failed_share = 0.01
    config.reading = ConfigDict(dict(workers=8, threads=4, buffer=2))

    config.imagery = True  # False trains on text alone, from the same data.
    config.trainable = (r"(?!vision/).*",)  # The vision encoder is frozen.
    config.dift = ConfigDict(dict(text_weight=0.1, imagery_weight=1.0, norm_weight=0.0,
                                  self_feed_passes=0))
    config.optimizer = ConfigDict(dict(name="adamw", learning_rate=1e-5, warmup_steps=10,
                                       schedule="constant", weight_decay=0.01, clip_norm=1.0))
    config.batch = 8  # A step, over all hosts.
    config.accumulate = 1
    config.epochs = 1  # 0 repeats the data until the steps are done.
    config.steps = 4754  # 38,033 samples.
    config.log_every = 10
    config.eval_every = 500
    config.save_every = 500
    config.keep = 2
    return config
