"""What sampling hands to training, scoring and pictures."""

from __future__ import annotations

from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.core.html import table
from fourd4d.core.struct import AnyArray, pytree

_SHOWN: Final = 32  # Rows that a notebook shows.


@pytree
class Rollout:
    """Responses of B rows, right-padded to T tokens.

    Attributes:
      tokens: ids as recorded; ``<|latent_pad|>`` where a latent was fed, 0 after the end.
      mask: True on recorded tokens (the end-of-turn token included).
      sampled: True on tokens that the policy chose: neither pads nor the forced
        ``<|latent_end|>``. Only these have a log-probability.
      log_probs: log-probability of each sampled token under the distribution it was drawn from,
        0 elsewhere.
      latents: the vectors fed, in order; rows past a row's count are zero.
      latent_index: number of the latent fed at each token, else -1.
      truncated: True where the budget ended the row before its end-of-turn token.
    """

    tokens: Int[AnyArray, "B T"]
    mask: Bool[AnyArray, "B T"]
    sampled: Bool[AnyArray, "B T"]
    log_probs: Float[AnyArray, "B T"]
    latents: Float[AnyArray, "B Q D"]
    latent_index: Int[AnyArray, "B T"]
    truncated: Bool[AnyArray, "B"]

    def _repr_html_(self) -> str:
        shape = "{} rows of {} tokens, {} latents of width {}".format(
            *self.tokens.shape, *self.latents.shape[1:])
        if not all(isinstance(leaf, np.ndarray | jax.Array) and not isinstance(
                leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return table([], title=f"Rollout of shapes: {shape}")
        mask, sampled, cut = (np.asarray(x) for x in (self.mask, self.sampled, self.truncated))
        fed = np.asarray(self.latent_index).max(1, initial=-1) + 1
        means = np.asarray(self.log_probs).sum(1) / np.maximum(sampled.sum(1), 1)
        rows = [[i, mask[i].sum(), fed[i], f"{means[i]:.3f}", "yes" if cut[i] else ""]
                for i in range(min(len(mask), _SHOWN))]
        more = f"; the first {_SHOWN}" if len(mask) > _SHOWN else ""
        return table(rows, ["row", "tokens", "latents", "mean log-prob", "cut off"],
                     f"Rollout: {shape}{more}")

    @staticmethod
    def spec(rows: int, tokens: int, latents: int, width: int, dtype: Any = jnp.float32) -> Rollout:
        """The same tree with ``jax.ShapeDtypeStruct`` leaves."""
        value = object.__new__(Rollout)
        s = jax.ShapeDtypeStruct
        fields = dict(
            tokens=s((rows, tokens), jnp.int32), mask=s((rows, tokens), jnp.bool_),
            sampled=s((rows, tokens), jnp.bool_), log_probs=s((rows, tokens), jnp.float32),
            latents=s((rows, latents, width), dtype), latent_index=s((rows, tokens), jnp.int32),
            truncated=s((rows,), jnp.bool_),
        )
        for name, leaf in fields.items():
            object.__setattr__(value, name, leaf)
        return value

    @staticmethod
    def fake(rows: int, tokens: int, latents: int, width: int, block: int = 4, vocab: int = 64,
             seed: int = 0) -> Rollout:
        """Rows of odd number hold one block of ``block`` latents at token 2; the others none."""
        rng = np.random.default_rng(seed)
        ends = tokens - np.arange(rows) % 3
        mask = np.arange(tokens)[None] < ends[:, None]
        index = np.full((rows, tokens), -1, np.int32)
        index[1::2, 2 : 2 + block] = np.arange(block)
        sampled = mask & (index < 0)
        sampled[1::2, 2 + block] = False
        vectors = np.zeros((rows, latents, width), np.float32)
        vectors[1::2, :block] = rng.standard_normal((len(vectors[1::2]), block, width))
        return Rollout(
            tokens=np.where(mask, rng.integers(0, vocab, (rows, tokens)), 0).astype(np.int32),
            mask=mask,
            sampled=sampled,
            log_probs=np.where(sampled, -rng.random((rows, tokens)), 0).astype(np.float32),
            latents=vectors,
            latent_index=index,
            truncated=np.arange(rows) % 3 == 0,
        )
