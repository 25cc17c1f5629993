"""The rows that arms of the imagery experiment learn from, out of a synthesized data set.

    python -m fourd4d.experiments rows --config=configs/experiments_rows.py \
        --config.data=DIR/dift.jsonl --config.output=OUT
    python -m fourd4d.dift --config=configs/dift_imagery_tiny.py \
        --config.data.path=OUT/imagery.jsonl --config.data.root=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = ""
    config.root = ""
    config.output = ""
    config.arms = ("imagery", "text")
    config.aloud = True  # Words say what each image shows.
    config.together = False  # One file, lesson.jsonl: every row once for each arm.
    config.base = "tiny-base"  # Its tokenizer measures the arm "pause".
    config.latent_size = 9
    return config
