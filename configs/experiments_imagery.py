"""Does it matter what is imagined? Arms × seeds of the tiny model, on simulated clips.

    python -m fourd4d.experiments imagery --config=configs/experiments_imagery.py

The clips that are asked about are a validation range of their own: recipes are chosen on them. For
a last comparison that nothing was chosen on, give --config.start=100000 and another workdir.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.workdir = "runs/imagery"
    config.base = "tiny-base"
    config.recipe = "dift_imagery_tiny"  # In configs/, or a path; takes the arm after a colon.
    config.latent_size = 9  # Of the recipe; the arm "pause" waits for as long.
    config.arms = ("imagery", "published", "markers", "text", "described", "pause", "blind")
    config.seeds = (0, 1, 2)

    config.synth = "synth_quickstart"
    config.train_clips = 2400
    config.test_clips = 480
    config.start = 200_000  # Number of the first clip that is asked about.

    # Trained one after the other: "aloud" says what each image shows, "silent" does not.
    config.phases = ("aloud:660",)
    config.training = ConfigDict(dict(mesh="cpu", batch=16))  # Of every arm alike.
    config.evaluation = "eval_tiny"
    # Four images of nine latents, and the words.
    config.budget = ConfigDict(dict(max_tokens=224, max_latents=36))
    config.probe = ""  # Config of `python -m fourd4d.eval probe` for the arms that imagine.
    return config
