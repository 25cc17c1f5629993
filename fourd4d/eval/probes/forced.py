"""Teacher-forced log-probabilities: the plain answer's own words, with other latents fed."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core.batch import Batch
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import LETTERS
from fourd4d.eval.probes.recordings import Recording
from fourd4d.processing.tokenizer import Tokenizer
from fourd4d.sampling import SamplingSpec
from fourd4d.sampling.distribution import full_at, restrict
from fourd4d.sampling.replay import response_hidden, score_hidden

_LETTER = re.compile(rf"<answer>\s*[(\[]?([{LETTERS}])(?![A-Za-z])")


@functools.partial(jax.jit, static_argnames=("graphdef", "spec"))
def forced(
    graphdef: Any, states: tuple[Any, ...], batch: Batch, rollout: Rollout, spec: SamplingSpec,
    features: Float[Array, "B F U E"], at: Int[Array, "B"], letters: Int[Array, "B N"],
    places: Int[Array, "B P"],
) -> tuple[Float[Array, "B T"], Float[Array, "B N"], Float[Array, "B P D"]]:
    """Log-probs of the rollout's own tokens and of N others at one place, with its latents fed.

    Args:
      at: the token in whose place ``letters`` are tried.
      places: tokens; the hidden states that they were chosen from come back.
    """
    model = nnx.merge(graphdef, *states)
    hidden = response_hidden(model, batch, rollout, features=features)
    spoken, _ = score_hidden(model, hidden, rollout, spec)
    here = jnp.take_along_axis(hidden, at[:, None, None], axis=1)[:, 0]
    full = jnp.take_along_axis(full_at(jnp.asarray(rollout.tokens), spec), at[:, None], axis=1)
    logits = restrict(model.logits(here) / (spec.temperature or 1.0), full[:, 0], spec)
    tried = jnp.take_along_axis(jax.nn.log_softmax(logits), letters, axis=-1)
    return spoken, tried, jnp.take_along_axis(hidden, places[:, :, None], axis=1)


def letter_place(tokens: Sequence[int], tokenizer: Tokenizer, letter: str
                 ) -> tuple[int, int] | None:
    """Which token gives the answer's letter, and the token that gives ``letter`` in its place.

    None where the response answers with no letter, or a letter is not one token there.
    """
    ids = [int(t) for t in tokens]
    found = list(_LETTER.finditer(tokenizer.decode(ids)))
    if not found:
        return None
    place = found[-1].start(1)
    end = bisect.bisect_right(range(len(ids)), place,
                              key=lambda count: len(tokenizer.decode(ids[:count])))
    text = tokenizer.decode(ids[:end])
    said = text[:place] + letter + text[place + 1 :]
    last = tokenizer.encode(said)[-1]
    if tokenizer.decode([*ids[: end - 1], last]) != said:
        return None
    return end - 1, last


def block_starts(recording: Recording, latent_size: int) -> Int[np.ndarray, "O"]:
    """The token of each ``<|latent_start|>`` whose block is whole and followed by a token."""
    first = np.flatnonzero((recording.latent_index >= 0)
                           & (recording.latent_index % latent_size == 0))
    return first[first + latent_size + 1 < len(recording.tokens)] - 1


def text_after_images(recording: Recording, spec: SamplingSpec) -> np.ndarray:
    """Chosen tokens after the first latent, block starts left out: text that may depend on it."""
    after = np.cumsum(recording.latent_index >= 0) > 0
    return after & recording.sampled & (recording.tokens != spec.latent_start)
