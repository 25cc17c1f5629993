"""Questions by relation: is what they are about found better by imagining, or straight away?

    python -m fourd4d.experiments imagery --config=configs/experiments_relations.py

What a question is about has to be found by a relation and followed. Arms × seeds start from
``tiny-imagery``, which answers either way. For a last comparison that nothing was chosen on, give
--config.start=100000 and another workdir.
"""

from ml_collections import ConfigDict

from configs import experiments_imagery


def get_config() -> ConfigDict:
    config = experiments_imagery.get_config()
    config.workdir = "runs/relations"
    config.base = "tiny-imagery"
    config.recipe = "dift_relations"
    config.arms = ("imagery", "text", "pause", "described")
    config.synth = "synth_relations"
    config.train_clips = 9000
    config.test_clips = 300
    config.phases = ("silent:800",)
    config.probe = "probe_tiny"
    return config
