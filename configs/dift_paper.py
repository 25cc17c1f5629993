"""DIFT of the 3B model as published (arXiv 2605.05997), to compare with.

    python -m fourd4d.dift --config=configs/dift_paper.py --config.data.path=DIR/dift.jsonl

On the simulator the mean target meets this loss as well as what a model learns to imagine, and
other clips' latents change no answer: read what it gives with that in mind.
"""

from ml_collections import ConfigDict

from configs import dift_3b


def get_config() -> ConfigDict:
    config = dift_3b.get_config()
    config.workdir = "runs/dift_paper"
    config.protocol.suffix = "released"
    config.protocol.pooling = "strips"
    return config
