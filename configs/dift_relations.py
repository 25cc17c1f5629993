"""DIFT of tiny-imagery on questions that take a relation to understand, and its arms.

    python -m fourd4d.dift --config=configs/dift_relations.py --config.data.path=DIR/imagery.jsonl

The word after the colon is the arm, as in ``dift_imagery_tiny.py``. ``experiments_relations.py``
makes the rows of every arm and runs them all.
"""

from ml_collections import ConfigDict

from configs import dift_imagery_tune


def get_config(arm: str = "imagery") -> ConfigDict:
    config = dift_imagery_tune.get_config(arm)
    config.workdir = f"runs/dift_relations_{arm}"
    config.optimizer.learning_rate = 1e-3  # New questions: there is much to learn.
    config.steps = 800
    if arm == "imagery":
        # What is to be imagined is not in the question: true latents would give it away.
        config.dift.self_feed_from = "mean"
        config.dift.self_feed_passes = 2
        config.dift.read_targets = 0.4
        config.dift.read_targets_end = 0.1
        config.dift.read_targets_steps = config.steps
    return config
