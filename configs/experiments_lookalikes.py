"""Things that look alike: is one followed better with mental images than in words alone?

    python -m fourd4d.experiments imagery --config=configs/experiments_lookalikes.py

Every arm says where the thing is at four moments, then where it ends. Arms × seeds start from
``tiny-imagery``, which answers either way. For a last comparison that nothing was chosen on, give
--config.start=100000 and another workdir.
"""

from ml_collections import ConfigDict

from configs import experiments_relations


def get_config() -> ConfigDict:
    config = experiments_relations.get_config()
    config.workdir = "runs/lookalikes"
    config.recipe = "dift_lookalikes"
    config.arms = ("imagery", "text", "pause")
    config.synth = "synth_lookalikes"
    config.train_clips = 4000
    config.test_clips = 160
    config.phases = ("aloud:450",)
    config.budget.max_tokens = 264
    return config
