"""The interventions: what each feeds in place of imagined latents, as a table made beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from fourd4d.eval.items import item_seed
from fourd4d.eval.probes.donors import Donor
from fourd4d.eval.probes.recordings import ArrayStore, Recordings
from fourd4d.eval.spec import Subject

Latents = Float[np.ndarray, "Q D"]


@dataclasses.dataclass(frozen=True)
class Material:
    """What tables are made of.

    Attributes:
      recordings, targets: of all items; targets may lack some.
      same, other: donors of the same and of another answer.
      real: N mental images as the model imagined them, for their mean and covariance.
      marker: what the model would be fed at ``<|latent_pad|>`` were it a word.
      latent_size: latents of a mental image.
      seed: of the random ones.
    """

    recordings: Recordings
    targets: ArrayStore
    same: Mapping[str, Donor]
    other: Mapping[str, Donor]
    real: Float[np.ndarray, "N R D"]
    marker: Float[np.ndarray, "D"]
    latent_size: int
    seed: int = 0

    def own(self, key: str) -> Latents:
        return self.recordings.load(key).latents

    def true(self, key: str, name: str = "targets") -> Latents | None:
        """True targets of an item; None where they are not known."""
        return self.targets.load(key).get(name) if key in self.targets else None

    def rng(self, key: str) -> np.random.Generator:
        return np.random.default_rng(item_seed(key, self.seed))


def zero(of: Material, key: str) -> Latents | None:
    return np.zeros_like(of.own(key))


def noise(of: Material, key: str) -> Latents | None:
    own = of.own(key)
    random = of.rng(key).standard_normal(own.shape).astype(np.float32)
    norms = np.linalg.norm(own, axis=-1, keepdims=True)
    return random / np.linalg.norm(random, axis=-1, keepdims=True) * norms


def matched(of: Material, key: str) -> Latents | None:
    """Gaussian with the mean and the covariance that real latents have at each place of a block."""
    if len(of.real) < 2:
        return None
    images, rng = len(of.own(key)) // of.latent_size, of.rng(key)
    mean = of.real.mean(0)
    # A random combination of deviations has their covariance; no square matrix is needed.
    parts = rng.standard_normal((images, len(of.real))) / np.sqrt(len(of.real) - 1)
    drawn = mean + np.einsum("in,nrd->ird", parts, of.real - mean)
    return drawn.reshape(-1, mean.shape[-1]).astype(np.float32)


def swap_same(of: Material, key: str) -> Latents | None:
    return of.own(of.same[key].key) if key in of.same else None


def swap_other(of: Material, key: str) -> Latents | None:
    return of.own(of.other[key].key) if key in of.other else None


def freeze(of: Material, key: str) -> Latents | None:
    own = of.own(key)
    return np.broadcast_to(own[:1], own.shape)


def markers(of: Material, key: str) -> Latents | None:
    return np.broadcast_to(of.marker, of.own(key).shape)


def oracle(of: Material, key: str) -> Latents | None:
    return of.true(key)


def oracle_wrong(of: Material, key: str) -> Latents | None:
    return of.true(key, "wrong")


def oracle_time(of: Material, key: str) -> Latents | None:
    """Each mental image is the true one of the next time, the last that of the first."""
    found = of.true(key)
    if found is None or len(found) <= of.latent_size:
        return None
    return np.roll(found, -of.latent_size, axis=0)


def donor_oracle(of: Material, key: str) -> Latents | None:
    return of.true(of.other[key].key) if key in of.other else None


@dataclasses.dataclass(frozen=True)
class Arm:
    """An intervention.

    Attributes:
      title, about: for tables and pages.
      table: gives what is fed to an item, or None where that cannot be made; None: nothing is
        replaced.
      imagery: False forbids mental images.
      donor: the answer of the donor of another answer is what is fed.
    """

    title: str
    about: str
    table: Callable[[Material, str], Latents | None] | None = None
    imagery: bool = True
    donor: bool = False


ARMS: Final[Mapping[str, Arm]] = {
    "repeat": Arm("plain again", "the plain run once more, in the reverse order: the floor"),
    "zero": Arm("zero", "zeros", zero),
    "noise": Arm("noise", "Gaussian noise of each latent's own norm", noise),
    "matched": Arm("matched random", "Gaussian with the mean and covariance of real latents",
                   matched),
    "swap_same": Arm("swap, same answer", "latents of another clip with the same answer",
                     swap_same),
    "swap_other": Arm("swap, another answer",
                      "latents of another clip whose answer is another of the options", swap_other,
                      donor=True),
    "freeze": Arm("freeze", "the first latent again and again", freeze),
    "markers": Arm("markers only", "the block's tokens, their own embedding in place of latents",
                   markers),
    "skip": Arm("no mental images", "blocks forbidden: what is said without them", imagery=False),
    "oracle": Arm("true targets", "the features of the true overlays", oracle),
    "oracle_wrong": Arm("targets, wrong thing", "another thing painted in the true frames",
                        oracle_wrong),
    "oracle_time": Arm("targets, wrong time", "the true overlays, each of another time",
                       oracle_time),
    "donor_oracle": Arm("donor's true targets",
                        "the true overlays of the clip with another answer", donor_oracle,
                        donor=True),
}
"""All interventions by name, in the order in which they run."""


def tiled(latents: Latents, count: int) -> Float[np.ndarray, "N D"]:
    """``count`` latents: the given ones over and over; zeros for none."""
    if not len(latents):
        return np.zeros((count, latents.shape[-1]), np.float32)
    return latents[np.arange(count) % len(latents)]


def marker_of(subject: Subject) -> Float[np.ndarray, "D"]:
    """The embedding of ``<|latent_pad|>``, float32."""
    model: Any = nnx.merge(subject.graphdef, *subject.states)
    pad = jnp.full((1, 1), subject.processor.tokenizer.id("<|latent_pad|>"), jnp.int32)
    return np.asarray(model.embed(pad, None, None, None, None), np.float32)[0, 0]
