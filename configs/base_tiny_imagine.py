"""The tiny base's fourth lesson: to imagine, to read what it imagined, and to answer by it.

    python -m fourd4d.synth --config=configs/synth_imagine.py --config.output=runs/imagine_data
    python -m fourd4d.experiments rows --config.data=runs/imagine_data/dift.jsonl \
        --config.output=runs/imagine_data --config.together
    python -m fourd4d.dift --config=configs/base_tiny_imagine.py

Every question twice: with mental images under the recipe of ``dift_imagery_tiny``, and in words
alone, so that neither way of answering starts with an advantage.
"""

from ml_collections import ConfigDict

from configs import dift_imagery_tiny


def get_config() -> ConfigDict:
    config = dift_imagery_tiny.get_config()
    config.workdir = "runs/base_tiny_imagine"
    config.init = "tiny-base"
    config.data.path = "runs/imagine_data/lesson.jsonl"
    config.data.measure = 1500
    config.dift.read_targets_end = 0.2
    config.dift.read_targets_steps = 720
    config.optimizer.warmup_steps = 50
    config.batch = 24
    config.steps = 720
    config.log_every = 20
    config.eval_every = 0
    config.save_every = 200
    return config
