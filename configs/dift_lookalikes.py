"""DIFT of tiny-imagery on things that look alike, and its arms.

    python -m fourd4d.dift --config=configs/dift_lookalikes.py --config.data.path=DIR/imagery.jsonl

The word after the colon is the arm, as in ``dift_imagery_tiny.py``. ``experiments_lookalikes.py``
makes the rows of every arm and runs them all.
"""

from ml_collections import ConfigDict

from configs import dift_relations


def get_config(arm: str = "imagery") -> ConfigDict:
    config = dift_relations.get_config(arm)
    config.workdir = f"runs/dift_lookalikes_{arm}"
    config.steps = 450
    if arm == "imagery":
        # Each image is found by the place that was said before it: one pass from the mean will do.
        config.dift.self_feed_passes = 1
        config.dift.read_targets_steps = config.steps
    return config
