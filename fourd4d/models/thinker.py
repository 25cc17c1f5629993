"""The assembled model: vision encoder, decoder, vocabulary head and imagery head."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fourd4d.core.batch import Batch, OverlayInput, VisionFeatures, VisionInput
from fourd4d.core.kv_cache import KVCache, SlotCache
from fourd4d.models.config import ModelConfig
from fourd4d.models.decoder import Decoder
from fourd4d.models.imagery_head import ImageryHead, pool_overlays
from fourd4d.models.layers import normal, param
from fourd4d.models.table_encoder import TableVisionEncoder
from fourd4d.models.vision_encoder import VisionEncoder
from fourd4d.parallel import constrain

AnyArray = Array | np.ndarray


class Thinker(nnx.Module):
    """A video language model that thinks with imagery. Axes as in ``core.axes``.

    Every parameter's logical axes are in its ``out_sharding`` metadata; block parameters are
    stacked with a leading ``layers`` axis.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, dtype = config.decoder, jnp.dtype(config.param_dtype)
        self.config = config
        encoder = VisionEncoder if config.vision.position_table is None else TableVisionEncoder
        self.vision = encoder(config, rngs=rngs)
        self.embedding = param(rngs, (d.vocab, d.width), ("vocab", "embed"),
                               normal(1 / math.sqrt(d.width)), dtype)
        self.decoder = Decoder(config, rngs=rngs)
        self.imagery = ImageryHead(config, rngs=rngs)
        if not d.tied:
            self.output = param(rngs, (d.width, d.vocab), ("embed", "vocab"),
                                normal(1 / math.sqrt(d.width)), dtype)

    def encode(self, vision: VisionInput | VisionFeatures) -> Float[Array, "B F U E"]:
        """Merged features of every frame slot, in decoder width.

        Behind them come those that ``decode`` adds after its first layers (DeepStack), if any.
        What is encoded already comes back as it is.
        """
        if isinstance(vision, VisionFeatures):
            return jnp.asarray(vision.features)
        return self.vision(vision)

    def pool(self, features: Float[AnyArray, "B F U E"], overlays: OverlayInput, *,
             raw: bool = False) -> Float[Array, "B Q D"]:
        """Target latents (float32) of the rows' overlays; zero where there is none.

        They are pooled from the merger's output alone.

        Args:
          raw: before they are centred.
        """
        merged = jnp.asarray(features)[..., : self.config.decoder.width]
        pooled = pool_overlays(merged, overlays)
        return pooled if raw else self.imagery.centre(pooled, overlays.present())

    def embed(self, tokens: Int[AnyArray, "B L"], vision_index: Int[AnyArray, "B L"] | None = None,
              features: Float[AnyArray, "B F U E"] | None = None,
              latent_index: Int[AnyArray, "B L"] | None = None,
              latents: Float[AnyArray, "B Q D"] | None = None) -> Float[Array, "B L _"]:
        """Input embeddings: token rows, replaced by features and latents where an index is >= 0.

        Their width is that of the features: what DeepStack adds later is zero at other tokens.
        """
        dtype = jnp.dtype(self.config.dtype)
        x = jnp.take(self.embedding[...], tokens, axis=0).astype(dtype)
        if vision_index is not None and features is not None:
            x = widened(x, features.shape[-1])
            flat = features.reshape(features.shape[0], -1, features.shape[-1])
            x = _replace(x, jnp.asarray(vision_index), jnp.asarray(flat))
        if latent_index is not None and latents is not None:
            x = _replace(x, jnp.asarray(latent_index), widened(jnp.asarray(latents), x.shape[-1]))
        return constrain(x, "batch", "length", "embed")

    def decode(self, embeds: Float[AnyArray, "B L E"], positions: Int[AnyArray, "3 B L"],
               segment_ids: Int[AnyArray, "B L"], cache: KVCache | SlotCache | None = None,
               prefix: KVCache | SlotCache | None = None, fill: bool = False
               ) -> tuple[Float[Array, "B L D"], Any]:
        """Hidden states after the final norm.

        A token sees its own segment's tokens up to itself. With a cache, the L tokens are written
        at slots ``cache.used`` … and see what was written before; the grown cache comes back.
        A ``SlotCache`` takes one token at a time.

        Args:
          prefix: earlier tokens of P rows, each shared by B / P consecutive rows, only read.
          fill: without a cache, give back one that holds exactly these L tokens.
        """
        return self.decoder(jnp.asarray(embeds), jnp.asarray(positions),
                            jnp.asarray(segment_ids), cache, prefix, fill)

    def __call__(self, batch: Batch, latents: Float[AnyArray, "B Q D"] | None = None
                 ) -> Float[Array, "B L D"]:
        """Hidden states of a batch; latents default to its overlays' pooled features."""
        features = self.encode(batch.vision)
        if latents is None:
            latents = self.pool(features, batch.overlays)
        embeds = self.embed(batch.tokens, batch.vision_index, features, batch.latent_index,
                            latents)
        return self.decode(embeds, batch.positions, batch.segment_ids)[0]

    def head(self) -> Float[Array, "D V"]:
        """The vocabulary head."""
        return self.embedding[...].T if self.config.decoder.tied else self.output[...]

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Vocabulary scores in float32."""
        return jnp.matmul(hidden, self.head().astype(hidden.dtype),
                          preferred_element_type=jnp.float32)

    def imagine(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The latent a hidden state stands for."""
        return self.imagery(hidden)

    def empty_cache(self, rows: int, slots: int, dtype: Any = None) -> KVCache:
        """A cache for ``slots`` tokens of each row, in compute dtype unless said otherwise."""
        d = self.config.decoder
        return KVCache.empty(d.layers, rows, slots, d.kv_heads, d.head_dim,
                             jnp.dtype(dtype or self.config.dtype))


def widened(x: Float[Array, "... _"], width: int) -> Float[Array, "... _"]:
    """Zeros behind the last axis up to ``width``: nothing for DeepStack to add."""
    more = width - x.shape[-1]
    return x if not more else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])


def _replace(x: Array, index: Array, source: Array) -> Array:
    if not source.shape[1]:
        return x
    taken = jnp.take_along_axis(source, jnp.maximum(index, 0)[..., None], axis=1)
    return jnp.where((index >= 0)[..., None], taken.astype(x.dtype), x)
