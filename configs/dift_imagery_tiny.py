"""DIFT of the tiny model whose answers depend on what it imagined, and arms to compare with.

    python -m fourd4d.dift --config=configs/dift_imagery_tiny.py --config.data.path=DIR/dift.jsonl
    python -m fourd4d.dift --config=configs/dift_imagery_tiny.py:markers …

The word after the colon is the arm: what takes the place of the mental images, everything else the
same. ``python -m fourd4d.experiments imagery`` writes the rows of every arm and runs them all; what
each is for, and how this recipe was found, is in ``docs/imagery.md``.
"""

from ml_collections import ConfigDict

from configs import dift_tiny

ARMS = ("imagery", "published", "markers", "text", "described", "pause", "blind")


def get_config(arm: str = "imagery") -> ConfigDict:
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose among {', '.join(ARMS)}")
    config = dift_tiny.get_config()
    config.workdir = f"runs/dift_imagery_tiny_{arm}"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.b2 = 0.98
    config.batch = 16  # Twice the updates for the same number of examples.
    config.steps = 660
    config.imagery = arm in ("imagery", "published", "markers")
    if arm == "markers":  # Blocks of one trained vector; no target, no loss of its own.
        config.model.imagery = ConfigDict(dict(head="constant", mlp=0))
        config.dift.imagery_weight = 0.0
        config.dift.norm_weight = 0.0
        config.dift.self_feed_gradient = True
    if arm != "published":  # It keeps strips of four, which throw the column away.
        config.protocol.pooling = "grid"
        config.protocol.latent_size = 9
        config.dift.self_feed_passes = 1
    if arm == "imagery":
        config.protocol.region = "mask"  # The latents that hold the object tell its place.
        config.protocol.reader = "blind"
        config.model.imagery = ConfigDict(dict(head="mlp", mlp=256))
        config.dift.nce_weight = 0.5  # Told apart from all images of the step, centred, whole.
        config.dift.nce_temperature = 0.1
        config.dift.read_targets = 0.5  # Reading is taught before anything worth reading is fed.
        config.dift.read_targets_end = 0.3
        config.dift.read_targets_steps = 660
    return config
