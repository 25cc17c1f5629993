"""DIFT of the tiny model on CPU.

    python -m fourd4d.dift --config=configs/dift_tiny.py --config.data.path=DIR/dift.jsonl
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/dift_tiny"
    config.seed = 0
    config.mesh = "cpu"

    # What to start from: a checkpoint directory (ours or Hugging Face's), or a preset at random.
    config.init = "tiny-base"
    config.preset = ""
    config.tokenizer = ""
    config.protocol = ConfigDict(dict(suffix="fourd4d"))  # The base was made without it.
    config.model = ConfigDict(dict(unroll=3))

    config.data = ConfigDict()
    config.data.path = "runs/data/dift.jsonl"
    config.data.root = ""
    config.data.held_out = ""
    config.data.held_out_root = ""
    config.data.assumed_fps = 0.0
    config.data.pack = 0  # Longest examples a packed row has room for; 0 packs nothing.
    config.data.measure = 0  # Examples looked at to find the batch shape; 0 is all.
    config.data.round_to = 8
    # Rows of an epoch that may be left out because they cannot be used: so many of each process, or
    # this share, whichever is more. One more ends the run.
    config.data.max_failed_rows = 10
    config.data.max_failed_share = 0.01
    config.reading = ConfigDict(dict(workers=0, threads=1, buffer=2))

    config.imagery = True  # False trains on text alone, from the same data.
    config.trainable = (r"(?!vision/).*",)  # The vision encoder is frozen.
    # The paper weighs text 0.1 and feeds targets: enough for a model that reads already. This one
    # has to learn to, and from latents such as it will feed itself.
    config.dift = ConfigDict(dict(text_weight=1.0, imagery_weight=1.0, norm_weight=0.1,
                                  self_feed_passes=2))
    config.optimizer = ConfigDict(dict(name="adamw", learning_rate=7e-4, warmup_steps=10,
                                       schedule="cosine", weight_decay=0.01, clip_norm=1.0))
    config.batch = 32
    config.accumulate = 1
    config.epochs = 0  # 0 repeats the data until the steps are done.
    config.steps = 300
    config.log_every = 10
    config.eval_every = 150
    config.save_every = 150
    config.keep = 1
    return config
