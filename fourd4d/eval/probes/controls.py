"""Does the probe see what is there, and nothing where nothing is? Two planted tasks tell.

A tiny thinker is fitted to both at once, in a minute or so, and then probed by the same code as
any checkpoint. In the *positive* task the answer is the colour of the frames, spoken by a reader
that sees no frames: only what is fed holds it. In the *negative* task the question states the
answer, and what is fed is another colour.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from PIL import Image

from fourd4d.core import jsonl
from fourd4d.core.batch import Batch
from fourd4d.core.sample import IMAGE_MARK, LETTERS, Sample
from fourd4d.data.collate import collate, shape_for
from fourd4d.data.pipeline import PrepareExample
from fourd4d.data.source import JsonlSource
from fourd4d.eval.items import read_items
from fourd4d.eval.probes.run import ProbeSpec, Progress, probe, silent
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.losses import text_loss
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.open import fresh
from fourd4d.processing import Processor

SHOWN: Final = 0.9
"""Least share of the positive task's answers that must follow what is fed."""
UNMOVED: Final = 0.01
"""Change of the negative task's accuracy, as a share, from which on the probe is broken."""

_COLOURS: Final = {"Red": (220, 40, 40), "Green": (40, 180, 60), "Blue": (40, 70, 220),
                   "Yellow": (230, 210, 50)}
_TASKS: Final = ("positive", "negative")
_SPEC: Final = EvalSpec(max_tokens=48, max_latents=2, rows=32, length_step=16)
_ARMS: Final = ("zero", "swap_other", "oracle", "donor_oracle")
_RATE, _ROWS, _ENOUGH = 4e-3, 16, 0.02
_SMALL: Final = dict(width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=128,
                     mrope_sections=(1, 2, 5))


@dataclasses.dataclass(frozen=True)
class ControlSpec:
    """How the planted tasks are made.

    Attributes:
      items: questions probed of each task.
      rows: questions fitted of each task.
      steps: most steps of the fit; it ends when the answers are learnt.
      seed: of the weights and the tasks.
    """

    items: int = 24
    rows: int = 64
    steps: int = 600
    seed: int = 0


def write_task(root: Path, task: str, count: int, seed: int) -> JsonlSource:
    """``count`` questions of a planted task as DIFT rows below ``root``."""
    rng = np.random.default_rng((seed, _TASKS.index(task)))
    names, rows = list(_COLOURS), []
    for number in range(count):
        right = int(rng.integers(4))
        seen = right if task == "positive" else int(right + rng.integers(1, 4)) % 4
        clip = f"{task}{number}"
        paths = [f"{clip}/{name}.png" for name in ("0", "1", "overlay")]
        (root / clip).mkdir(parents=True, exist_ok=True)
        for path in paths:
            noise = rng.normal(0, 12, (32, 32, 3))
            pixels = np.clip(np.array(_COLOURS[names[seen]]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / path)
        asked = "What colour is it?" if task == "positive" else f"Say {names[right]}."
        letter = LETTERS[right]
        rows.append(jsonl.dift_row(Sample(
            id=clip, question=asked, options=tuple(names), answer=letter, kind=task, video_id=clip,
            frames=tuple(paths[:2]), timestamps=(0.0, 0.5), overlays=(paths[2],),
            overlay_timestamps=(0.0,),
            response=f"<think>I see {IMAGE_MARK}.</think>\n"
                     f"<answer>{letter}. {names[right]}</answer>")))
    jsonl.write(root / f"{task}.jsonl", rows)
    return JsonlSource(root / f"{task}.jsonl")


def _loss(params: Any, frozen: Any, batch: Batch, features: Any, given: Any, own: Any,
          graphdef: Any) -> Float[Array, ""]:
    """Text alone: what is fed is the model's own latent (``own``), or what is given."""
    model = nnx.merge(graphdef, params, frozen)
    latent = jnp.argmax(jnp.asarray(batch.latent_index) >= 0, axis=1)
    embeds = model.embed(batch.tokens, batch.vision_index, features, batch.latent_index, given)
    hidden = model.decode(embeds, batch.positions, batch.segment_ids)[0]
    imagined = model.imagine(jnp.take_along_axis(hidden, latent[:, None, None] - 1, axis=1))
    fed = jnp.where(own[:, None, None], imagined, given)
    assert batch.reader is not None
    embeds = model.embed(batch.tokens, None, None, batch.latent_index, fed)
    read = model.decode(embeds, batch.positions, batch.reader.segment_ids)[0]
    speaks = jnp.roll(jnp.asarray(batch.reader.speaks), -1, axis=1)
    spoken = jnp.where(speaks[..., None], read, hidden)
    return text_loss(spoken, model.head(), batch.tokens, batch.text_weights).value()


@functools.partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnums=(0, 1))
def _update(params: Any, state: Any, frozen: Any, batch: Batch, features: Any, given: Any,
            own: Any, graphdef: Any, tx: optax.GradientTransformation) -> tuple[Any, Any, Any]:
    loss, grads = jax.value_and_grad(_loss)(params, frozen, batch, features, given, own, graphdef)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def fit(root: Path, control: ControlSpec = ControlSpec(), progress: Progress = silent) -> Subject:
    """A thinker that has learnt both planted tasks, whose rows are written below ``root``."""
    mesh = make_mesh("single", jax.local_devices()[:1])
    with use(mesh):
        bundle = fresh("tiny", mesh, control.seed, protocol=dict(
            latent_size=1, reader="blind", suffix="none"), decoder=_SMALL)
        batches = _batches(root, bundle.processor, control)
        graphdef, tree = bundle.graphdef, bundle.tree
        frozen, params = nnx.split_state(tree, lambda path, _: path[0] == "vision", ...)
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(_RATE))
        state, rng = tx.init(params), np.random.default_rng(control.seed)
        model: Any = nnx.merge(graphdef, params, frozen)
        fixed = []
        for batch, _ in batches:  # The vision encoder stays, so its features do.
            features = model.encode(batch.vision)
            fixed.append((features, np.asarray(model.pool(features, batch.overlays))))
        recent = [np.inf] * 8
        for step in progress("fitting the controls", control.steps, range(control.steps)):
            which = step % len(batches)
            (batch, told), (features, targets) = batches[which], fixed[which]
            given, own = _fed(targets, told, rng)
            params, state, loss = _update(params, state, frozen, batch, features, given, own,
                                          graphdef=graphdef, tx=tx)
            recent = [*recent[1:], float(loss)]
            if max(recent) < _ENOUGH:
                break
        tree = nnx.merge_state(params, frozen)
    return Subject(graphdef, (tree,), bundle.processor, "controls", mesh)


def _fed(targets: np.ndarray, told: np.ndarray, rng: np.random.Generator
         ) -> tuple[np.ndarray, np.ndarray]:
    """What is given to each row, and whose own latent is fed.

    Rows that are told the answer learn to do without: zeros, another row's target, their own.
    """
    own = rng.random(len(targets)) < 0.5
    fate = rng.integers(0, 3, len(targets))
    other = targets[rng.permutation(len(targets))]
    given = np.where((told & (fate == 0))[:, None, None], 0.0, targets)
    return np.where((told & (fate == 1))[:, None, None], other, given).astype(np.float32), own


def _batches(root: Path, processor: Processor, control: ControlSpec
             ) -> list[tuple[Batch, np.ndarray]]:
    """Batches of both tasks, and which of their rows are told the answer."""
    prepare = PrepareExample(processor)
    sources = [write_task(root / "fit", task, control.rows, control.seed + 1) for task in _TASKS]
    rows = [(prepare(source[i]), told) for i in range(control.rows)
            for told, source in enumerate(sources)]
    size = min(_ROWS, len(rows))
    shape = shape_for([example for example, _ in rows], size, round_to=8)
    return [(collate([example for example, _ in part], shape, processor.protocol),
             np.array([bool(told) for _, told in part]))
            for part in (rows[i : i + size] for i in range(0, len(rows) - size + 1, size))]


def run_controls(root: Path, control: ControlSpec = ControlSpec(), progress: Progress = silent,
                 subject: Subject | None = None) -> dict[str, Any]:
    """Fits the planted thinker, probes it on both tasks, and judges the probe.

    Args:
      root: a folder for what is written.
      subject: a fitted one, see ``fit``.

    Returns:
      ``positive``: the least of the accuracy (plain, and with true targets fed) and of the shares
      that follow a donor's latents and a donor's true targets, on the positive task; ``negative``:
      the largest change of accuracy by any intervention on the other; ``sound``: whether they are
      at least ``SHOWN`` and below ``UNMOVED``; ``tasks``: the arms' effects.
    """
    subject = subject or fit(root, control, progress)
    probing = ProbeSpec(arms=_ARMS, seed=control.seed, linear=False)
    tasks: dict[str, Any] = {}
    for task in _TASKS:
        source = write_task(root / "asked", task, control.items, control.seed)
        outcome = probe(subject, source, read_items(source), _SPEC, probing, root / task,
                        progress=lambda what, total, things, task=task: progress(
                            f"{task} control: {what}", total, things))
        told = summarise(outcome, probing)
        tasks[task] = {"accuracy": told["metrics"]["plain_accuracy"],
                       "imagining_share": told["imagining_share"], "arms": told["arms"]}
    return judge(tasks)


def judge(tasks: dict[str, Any]) -> dict[str, Any]:
    """What ``run_controls`` returns, from the tasks' effects."""
    positive, negative = (tasks[task]["arms"] for task in _TASKS)
    accuracy = tasks["positive"]["accuracy"]
    shown = min(accuracy, accuracy + positive["oracle"].get("accuracy_delta", -1.0),
                positive["swap_other"].get("follow_after", 0.0),
                positive["donor_oracle"].get("follow_after", 0.0))
    moved = max(abs(negative[name].get("accuracy_delta", 1.0)) for name in _ARMS)
    learnt = tasks["negative"]["accuracy"] >= SHOWN
    return {"positive": shown, "negative": moved,
            "sound": shown >= SHOWN and moved < UNMOVED and learnt, "tasks": tasks}
