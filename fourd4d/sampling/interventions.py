"""What probes feed in place of an imagined latent. Each is ``(Imagined, data) -> latent``."""

from __future__ import annotations

from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fourd4d.core.struct import AnyArray, pytree
from fourd4d.sampling.loop import Imagined


def zero(imagined: Imagined, data: Any = None) -> Float[Array, "B D"]:
    """Nothing."""
    del data
    return jnp.zeros_like(imagined.latent)


def noise(imagined: Imagined, data: Any = None) -> Float[Array, "B D"]:
    """Gaussian noise of the latent's own norm."""
    del data
    width = imagined.latent.shape[-1]
    random = jax.vmap(lambda key: jax.random.normal(key, (width,)))(imagined.keys)
    norm = jnp.linalg.norm(imagined.latent.astype(jnp.float32), axis=-1, keepdims=True)
    return random / jnp.linalg.norm(random, axis=-1, keepdims=True) * norm


def swap(imagined: Imagined, data: Float[Array, "B Q D"]) -> Float[Array, "B D"]:
    """The latent of the same number in ``data``, such as another sample's recorded latents.

    Numbers that ``data`` lacks wrap around.
    """
    number = imagined.number % data.shape[1]
    return jnp.take_along_axis(data, number[:, None, None], axis=1)[:, 0]


def freeze(imagined: Imagined, data: Any = None) -> Float[Array, "B D"]:
    """The row's first latent, over and over."""
    del data
    first = imagined.fed[:, 0].astype(imagined.latent.dtype)
    return jnp.where(imagined.number[:, None] == 0, imagined.latent, first)


def replace(imagined: Imagined, data: tuple[Float[Array, "B Q D"], Bool[Array, "B"]]
            ) -> Float[Array, "B D"]:
    """``swap`` with the table ``data[0]`` in the rows where ``data[1]``; the others stay.

    Every probe that knows beforehand what it feeds is this one program, and so is the plain run.
    """
    table, changed = data
    return jnp.where(changed[:, None], swap(imagined, table).astype(imagined.latent.dtype),
                     imagined.latent)


NATURAL: Final = 0
TABLE: Final = 1
FROZEN: Final = 2
"""What ``RowProbe.kind`` says of a row: it stays, it is fed its table, its first latent goes on."""


@pytree
class RowProbe:
    """What each row is fed, where rows are probed each in their own way.

    Attributes:
      kind: ``NATURAL``, ``TABLE`` or ``FROZEN``.
      table: what ``TABLE`` feeds, by the latent's number, as in ``swap``; zeros for ``zero``.
    """

    kind: Int[AnyArray, "*rows"]
    table: Float[AnyArray, "*rows Q D"]


def by_row(imagined: Imagined, data: RowProbe) -> Float[Array, "B D"]:
    """``swap``, ``freeze`` or nothing, as each row asks."""
    latent = imagined.latent
    fed = replace(imagined, (data.table, data.kind == TABLE))
    return jnp.where((data.kind == FROZEN)[:, None], freeze(imagined), fed).astype(latent.dtype)
