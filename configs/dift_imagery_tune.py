"""A short DIFT of tiny-imagery on other clips: what the quickstart runs, and arms to compare with.

    python -m fourd4d.dift --config=configs/dift_imagery_tune.py \
        --config.data.path=DIR/imagery.jsonl

The word after the colon is the arm, as in ``dift_imagery_tiny.py``.
"""

from ml_collections import ConfigDict

from configs import dift_imagery_tiny


def get_config(arm: str = "imagery") -> ConfigDict:
    config = dift_imagery_tiny.get_config(arm)
    config.workdir = f"runs/dift_imagery_tune_{arm}"
    config.init = "tiny-imagery"
    config.optimizer.learning_rate = 1e-4  # It has learnt all this: more moves it off.
    config.steps = 60
    if arm == "imagery":
        config.dift.read_targets = 0.2  # It reads already.
        config.dift.read_targets_end = 0.2
        config.dift.read_targets_steps = 0
    return config
