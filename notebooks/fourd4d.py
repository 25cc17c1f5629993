# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Thinking with 4D imagery, small
#
# A video language model that stops while it reasons and *imagines*: it emits a short block of
# continuous vectors, a mental image, before it goes on in words. Here every stage runs once, small,
# on a CPU, in about ten minutes: scenes with questions are synthesized, a tiny model is fine-tuned
# for 40 updates, asked, and probed. Forty updates show how things work, not what they can do.
#
# The notebook lies in `notebooks/` of the repository. In Colab, upload or clone the repository
# first and set `REPOSITORY` to its folder.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(os.environ.get("FOURD4D_REPOSITORY", "..")).resolve()
if importlib.util.find_spec("fourd4d") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", f"{REPOSITORY}[notebook]"],
                   check=True)
    sys.path.insert(0, str(REPOSITORY))
WORK = Path(os.environ.get("FOURD4D_WORK", "runs/notebook")).resolve()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(WORK / "compiled"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def command(package, config, *fields, verb=()):
    """`python -m fourd4d.PACKAGE`, with a config of the repository."""
    return [sys.executable, "-m", f"fourd4d.{package}", *verb,
            f"--config={REPOSITORY / 'configs' / config}.py",
            *(f"--config.{field}" for field in fields)]


# %% [markdown]
# ## A clip
#
# Simulated scenes come with every label known. A thing moves, a landmark rests, the camera may move
# too; the line on the right is where the boxes went.

# %%
from fourd4d import plot
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec

SCENE = SceneSpec(height=64, width=64, frames=8, fps=2.0, focal=0.866, fine=2, things=3,
                  moving_camera=0.15, combos=0.0)
(clip,) = simulate_clips(SCENE, seed=7, start=100_000, count=1)
plot.frames(clip.frames, clip.timestamps)

# %%
plot.tracks(clip)

# %% [markdown]
# ## Synthesis
#
# The same scenes become questions, a chain of thought with places for mental images, and the
# *overlay* behind each place: the frame with the thing in question tinted red. No human labels.
# Videos take the same way (`configs/synth_video.py`).

# %%
for name, clips, start in (("train", 96, 0), ("test", 12, 100_000)):
    subprocess.run(command("synth", "synth_quickstart", f"output={WORK / name}", f"clips={clips}",
                           f"start={start}"), check=True, capture_output=True)

# %%
from fourd4d.data.source import open_source

train = open_source(WORK / "train" / "dift.jsonl")
plot.sample(train[0].sample, train[0].root)

# %%
train[0].sample

# %% [markdown]
# ## Fine-tuning
#
# DIFT teaches text by cross-entropy, and latents to point where the vision features of their
# overlays point. Look at the cosine only beside what a constant reaches: as long as the two are
# equal, the mental images say nothing about the video. The centred cosine is what is left without
# that common part.

# %%
STEPS = 40
with open(WORK / "dift.log", "w") as log:
    training = subprocess.Popen(command(
        "dift", "dift_tiny", f"data.path={WORK / 'train' / 'dift.jsonl'}",
        f"workdir={WORK / 'dift'}", f"steps={STEPS}", "batch=16", "log_every=2",
        "dift.self_feed_passes=0", "optimizer.learning_rate=2e-3", f"save_every={STEPS}"),
        stdout=log, stderr=log)
    plot.watch(training, WORK / "dift", "text_loss", "cosine", "centred_cosine")

# %% [markdown]
# ## An answer
#
# `answer` gives the text, the letter and the latents. With `maps=True` it also tells where in the
# video each mental image looks: the cosine of its latents with the features of every place, once
# the video's mean feature is taken away.

# %%
import fourd4d

thinker = fourd4d.load(WORK / "dift" / "checkpoints")
test = open_source(WORK / "test" / "dift.jsonl")
from fourd4d.data.media import row_media

protocol = thinker.bundle.processor.protocol
answers = []
for number in range(6):
    asked = test[number].sample
    (video,), _ = row_media(test[number], protocol, with_overlays=False)
    answers.append(thinker.answer(video, asked.question, asked.options, max_tokens=160, maps=True))
    print(f"{asked.answer}: {answers[-1].letter}, {len(answers[-1].maps)} mental images")

# %%
imagined = next((a for a in answers if a.maps), answers[0])
imagined

# %%
plot.heat_maps(imagined) if imagined.maps else "No mental image yet: train for more updates."

# %% [markdown]
# ## A probe
#
# Does the answer depend on what was imagined? The same questions are answered again with something
# else in place of every latent: nothing at all (`zero`), or what was imagined for a question with
# another answer (`swap_other`). After 40 updates expect no effect. `docs/imagery.md` tells what it
# takes.

# %%
subprocess.run(command(
    "eval", "probe_tiny", f"checkpoint={WORK / 'dift' / 'checkpoints'}",
    f"data={WORK / 'test' / 'dift.jsonl'}", f"out={WORK / 'probe'}", "controls=False",
    "probe.arms=('zero','swap_other')", "probe.linear=False", "probe.draws=200", "page_items=0",
    verb=("probe",)), check=True, capture_output=True)

# %%
import json

result = json.loads((WORK / "probe" / "probe.json").read_text())
for name, arm in result["arms"].items():
    points = 100 * arm.get("accuracy_delta", 0)
    print(f"{name}: {arm['items']} items, accuracy {points:+.1f} points")

# %% [markdown]
# From here: `python -m fourd4d` lists the commands, and `docs/` describes every stage.
