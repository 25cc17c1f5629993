"""What a model eats: fixed shapes, masks and positions as data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.struct import AnyArray, pytree


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Static budget of a batch. ``windows`` is per frame slot."""

    rows: int
    length: int
    slots: int
    windows: int
    overlays: int


@pytree
class VisionInput:
    """Frame slots of every row; see ``example.VisionSlots`` for the order inside a slot."""

    patches: Float[AnyArray, "B F W M C"]
    coords: Int[AnyArray, "B F W M 2"]
    mask: Bool[AnyArray, "B F W M"]


@pytree
class VisionFeatures:
    """Frame slots that are encoded already: what ``Thinker.encode`` makes of a VisionInput."""

    features: Float[AnyArray, "B F U E"]


if TYPE_CHECKING:
    AnyVision = Any
else:
    AnyVision = VisionInput | VisionFeatures


@pytree
class OverlayInput:
    """Where the imagery targets come from.

    ``slot`` is -1 for absent overlays, whose ``pool`` rows are zero. ``plain``: slots of the frames
    that the overlays were painted on, where their features are taken off.
    """

    slot: Int[AnyArray, "B O"]
    pool: Float[AnyArray, "B O R U"]
    plain: Int[AnyArray, "B O"] | None = None

    def present(self) -> Float[jax.Array, "B O"]:
        """Return 1 where a row has a mental image."""
        return (jnp.asarray(self.slot) >= 0).astype(jnp.float32)


@pytree
class ReaderInput:
    """A second reading of the rows, by the same weights, of text and latents without frames.

    The *imaginer* sees everything and makes the latents. The *reader* sees text and the latents
    that are fed; what it says depends on frames only through these.

    Attributes:
      segment_ids: as in ``Batch``, 0 on what the reader does not see, and throughout an example
        that has no reader.
      speaks: tokens chosen by the reader's hidden state: text from the first mental image on. All
        others, and every latent, come from the imaginer's.
      given: tokens where the reader is fed the true target in place of the model's own latent.
    """

    segment_ids: Int[AnyArray, "B L"]
    speaks: Bool[AnyArray, "B L"]
    given: Bool[AnyArray, "B L"]


@pytree
class Batch:
    """Rows of one or more examples, apart by ``segment_ids`` (0 is padding).

    Attributes:
      tokens, positions, text_weights: as in ``Example``.
      vision_index: row of the flattened (F * U) merged tokens fed here, else -1.
      latent_index: row of the Q latents fed here, else -1.
      reader: None where the imaginer says everything.
    """

    tokens: Int[AnyArray, "B L"]
    positions: Int[AnyArray, "3 B L"]
    segment_ids: Int[AnyArray, "B L"]
    text_weights: Float[AnyArray, "B L"]
    vision_index: Int[AnyArray, "B L"]
    latent_index: Int[AnyArray, "B L"]
    vision: AnyVision
    overlays: OverlayInput
    reader: ReaderInput | None = None

    @staticmethod
    def spec(shape: BatchShape, protocol: ProtocolSpec) -> Batch:
        """The same tree with ``jax.ShapeDtypeStruct`` leaves."""
        b, l, f, w, o = shape.rows, shape.length, shape.slots, shape.windows, shape.overlays
        m, c = protocol.window_patches, protocol.patch_dim
        u, r = w * m // protocol.merge**2, protocol.latent_size

        def s(dims: tuple[int, ...], dtype: Any = np.int32) -> Any:
            return jax.ShapeDtypeStruct(dims, dtype)

        leaves = [
            s((b, l)), s((3, b, l)), s((b, l)), s((b, l), np.float32), s((b, l)), s((b, l)),
            s((b, f, w, m, c), np.float32), s((b, f, w, m, 2)), s((b, f, w, m), np.bool_),
            s((b, o)), s((b, o, r, u), np.float32),
        ]
        batch = jax.tree.unflatten(jax.tree.structure(_SKELETON), leaves)
        if protocol.target is not None:
            object.__setattr__(batch.overlays, "plain", s((b, o)))
        if protocol.reader is not None:
            reader = _hollow(ReaderInput)
            for name, dtype in (("segment_ids", np.int32), ("speaks", np.bool_),
                                ("given", np.bool_)):
                object.__setattr__(reader, name, s((b, l), dtype))
            object.__setattr__(batch, "reader", reader)
        return batch

    @staticmethod
    def fake(shape: BatchShape, protocol: ProtocolSpec, vocab: int = 64, seed: int = 0) -> Batch:
        """Random rows with every part in use: one frame slot, one overlay, text after them.

        Row b has b % 3 tokens of padding at its end. Token ids stay below ``vocab``.
        """
        rng = np.random.default_rng(seed)
        spec = Batch.spec(shape, protocol)
        b, l, r = shape.rows, shape.length, protocol.latent_size
        u = spec.overlays.pool.shape[-1]
        ends = l - np.arange(b) % 3
        used = np.arange(l)[None] < ends[:, None]
        vision = np.full((b, l), -1, np.int32)
        latent = np.full((b, l), -1, np.int32)
        n_vision = min(u, l // 4)
        vision[:, 1 : 1 + n_vision] = np.arange(n_vision)
        overlays = min(shape.overlays, max(shape.slots - 1, 0), 1)
        start = l // 2
        if overlays:
            latent[:, start : start + r] = np.arange(r)
        pool = np.zeros(spec.overlays.pool.shape, np.float32)
        slot = np.full((b, shape.overlays), -1, np.int32)
        if overlays:
            pool[:, 0], slot[:, 0] = 1.0 / u, shape.slots - 1
        side = int(protocol.window_patches**0.5)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1)
        text = used & (vision < 0) & (latent < 0) & (np.arange(l) > start)
        reader = None
        if protocol.reader is not None:
            spoken = text & (np.arange(l) >= start + r) & bool(overlays)
            reader = ReaderInput(segment_ids=(used & (vision < 0)).astype(np.int32),
                                 speaks=spoken, given=np.zeros_like(spoken))
        return Batch(
            tokens=np.where(used, rng.integers(0, vocab, (b, l)), 0).astype(np.int32),
            positions=np.broadcast_to(np.arange(l, dtype=np.int32), (3, b, l)).copy(),
            segment_ids=used.astype(np.int32),
            text_weights=text.astype(np.float32),
            vision_index=vision,
            latent_index=latent,
            vision=VisionInput(
                patches=rng.standard_normal(spec.vision.patches.shape).astype(np.float32),
                coords=np.broadcast_to(
                    grid.reshape(-1, 2), spec.vision.coords.shape).astype(np.int32),
                mask=np.ones(spec.vision.mask.shape, np.bool_),
            ),
            overlays=OverlayInput(slot=slot, pool=pool, plain=(
                None if protocol.target is None else np.minimum(slot, 0))),
            reader=reader,
        )


def _hollow(cls: Any) -> Any:
    value = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(value, field.name, 0)
    return value


def _skeleton() -> Any:
    vision, overlays, batch = (_hollow(cls) for cls in (VisionInput, OverlayInput, Batch))
    object.__setattr__(overlays, "plain", None)
    object.__setattr__(batch, "reader", None)
    object.__setattr__(batch, "vision", vision)
    object.__setattr__(batch, "overlays", overlays)
    return batch


_SKELETON = _skeleton()
