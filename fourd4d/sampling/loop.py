"""Decoding with imagery: one prefill, then one jitted loop with a text or imagery state per row.

Prompts are read once each; all responses to a prompt attend to its one copy of keys and values.

A row is in text mode or inside a block. In text mode it draws a token. Once that token is
``<|latent_start|>``, the next ``latent_size`` inputs of the row are the decoder's own last hidden
states (after the final norm, through the imagery head), recorded as ``<|latent_pad|>``; then
``<|latent_end|>`` is forced and text mode resumes. Whatever the vocabulary head would have drawn
inside a block is ignored, and no row's state touches another row.

Where the prompt has a reader (``core.batch.ReaderInput``), a second stream of the same weights is
fed the same tokens and latents, without the prompt's frames; from a row's first block on, its
tokens are drawn from that stream, and its latents still come from the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from fourd4d.core.batch import Batch
from fourd4d.core.kv_cache import KVCache, SlotCache
from fourd4d.core.rollout import Rollout
from fourd4d.core.struct import AnyArray, pytree
from fourd4d.sampling.distribution import RowDraws, draw
from fourd4d.sampling.spec import SamplingSpec


@pytree
class Imagined:
    """What an intervention sees of the latent about to be fed to each row.

    Attributes:
      latent: what the model imagined.
      number: its number in the row, from 0.
      place: its number in the block, from 0.
      fed: latents fed to the row so far, zero from ``number`` on.
      keys: one random key per row and token.
    """

    latent: Float[Array, "B D"]
    number: Int[Array, "B"]
    place: Int[Array, "B"]
    fed: Float[Array, "B Q D"]
    keys: Key[Array, "B"]


Intervention = Callable[[Imagined, Any], Float[Array, "B D"]]


@pytree
class Reader:
    """The reader's part of the carry; see ``State``.

    Attributes:
      rows: rows that have a reader.
    """

    hidden: Float[Array, "B D"]
    cache: KVCache | SlotCache
    rows: Bool[Array, "B"]


@pytree
class State:
    """The loop's carry. Columns of the (B, T) buffers from ``step`` on are not written yet.

    The cache holds the response's tokens, and of the prompt's only those behind a ``head``; the
    others stay outside, shared by its group.

    Attributes:
      step: tokens chosen so far.
      hidden: last hidden state of the token fed last, after the final norm.
      block: what is left of the row's block: latents to feed plus the end token; 0 in text mode.
      count: latents fed to the row so far.
      live: rows that have not ended.
      reader: None where no row has one.
    """

    step: Int[Array, ""]
    hidden: Float[Array, "B D"]
    cache: KVCache
    block: Int[Array, "B"]
    count: Int[Array, "B"]
    live: Bool[Array, "B"]
    rollout: Rollout
    reader: Reader | None = None


def row_keys(rng: Key[Array, ""] | Key[Array, "B"], rows: int) -> Key[Array, "B"]:
    """One key per row: ``rng`` folded with the row's number, or the keys given."""
    if rng.shape:
        return rng
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(jnp.arange(rows))


def next_positions(batch: Batch) -> Int[Array, "B"]:
    """M-RoPE id, on all three axes, of the first token after each prompt."""
    real = jnp.asarray(batch.segment_ids) != 0
    return jnp.max(jnp.where(real[None], batch.positions, -1), axis=(0, 2)) + 1


def last_hidden(hidden: Float[Array, "B L D"], segment_ids: Int[Array, "B L"]
                ) -> Float[Array, "B D"]:
    """Hidden state of each row's last real token, wherever the row is padded."""
    slots = jnp.arange(hidden.shape[1])
    last = jnp.max(jnp.where(segment_ids != 0, slots, 0), axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def prompt_embeddings(model: Any, batch: Batch, features: Float[Array, "B F U E"] | None = None
                      ) -> Float[Array, "B L E"]:
    """Embeds prompts. ``features``: what ``model.encode`` gave for them, if it ran already."""
    if features is None and batch.vision.patches.shape[1]:
        features = model.encode(batch.vision)
    return model.embed(batch.tokens, batch.vision_index, features, batch.latent_index, None)


def prefill(model: Any, batch: Batch, features: Float[Array, "B F U E"] | None = None
            ) -> tuple[Float[Array, "B D"], KVCache]:
    """Reads each prompt once: the hidden state of its last token, and its keys and values."""
    embeds = prompt_embeddings(model, batch, features)
    hidden, prefix = model.decode(embeds, batch.positions, batch.segment_ids, fill=True)
    return last_hidden(hidden, jnp.asarray(batch.segment_ids)), prefix


@functools.partial(jax.jit, static_argnames="graphdef")
def read_head(graphdef: Any, states: tuple[Any, ...], batch: Batch,
              features: Float[Array, "R F U E"] | None = None) -> KVCache:
    """Reads what several prompts begin with: keys and values, for ``generate``."""
    return prefill(nnx.merge(graphdef, *states), batch, features)[1]


def with_room(cache: KVCache, group: int, slots: int) -> KVCache:
    """Each row ``group`` times, one after the other, with room for ``slots`` more tokens."""
    def more(x: Array, axis: int) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis + 1] = (0, slots)
        return jnp.pad(jnp.repeat(x, group, axis=axis), widths)

    return KVCache(more(cache.keys, 1), more(cache.values, 1), more(cache.segment_ids, 0),
                   cache.used)


def reader_embeddings(model: Any, batch: Batch) -> Float[Array, "B L D"]:
    """Embeds prompts for the reader, who does not see what is fed at vision tokens."""
    return model.embed(batch.tokens, None, None, batch.latent_index, None)


def prefill_reader(model: Any, batch: Batch) -> KVCache | None:
    """The reader's keys and values of each prompt; None where no prompt has a reader."""
    if batch.reader is None:
        return None
    embeds = reader_embeddings(model, batch)
    return model.decode(embeds, batch.positions, batch.reader.segment_ids, fill=True)[1]


def reader_rows(batch: Batch, group: int) -> Bool[Array, "B"]:
    """Which responses have a reader, by their prompts."""
    assert batch.reader is not None
    return jnp.repeat(jnp.any(jnp.asarray(batch.reader.segment_ids) != 0, axis=1), group)


def choose(state: Any, logits: Float[Array, "B V"], keys: Key[Array, "B"], spec: SamplingSpec,
           own: RowDraws | None = None
           ) -> tuple[Int[Array, "B"], Bool[Array, "B"], Bool[Array, "B"], Float[Array, "B"]]:
    """The next token of each row; ``own``: how each draws, where that is not the spec's.

    Returns:
      tokens: 0 on ended rows.
      sampled: rows that drew their token.
      imagined: rows whose token is a latent.
      log_probs: of drawn tokens, else 0.
    """
    full = state.count + spec.latent_size > spec.max_blocks * spec.latent_size
    drawn, log_probs = draw(logits, keys, full, spec, own)
    sampled = state.live & (state.block == 0)
    imagined = state.live & (state.block > 1)
    forced = jnp.where(state.block > 1, spec.latent_pad, spec.latent_end)
    tokens = jnp.where(sampled, drawn, jnp.where(state.live, forced, 0))
    return tokens, sampled, imagined, jnp.where(sampled, log_probs, 0.0)


def decide(model: Any, state: Any, keys: Key[Array, "B"], fed: Float[Array, "_ Q D"],
           spec: SamplingSpec, intervene: Intervention | None, data: Any, *,
           own: RowDraws | None = None
           ) -> tuple[Int[Array, "B"], Bool[Array, "B"], Bool[Array, "B"], Float[Array, "B"],
                      Float[Array, "B D"]]:
    """What ``choose`` gives, and the latent that a row imagines now, if it does.

    Args:
      state: a ``State``, or its fields ``hidden``, ``block``, ``count``, ``live`` and ``reader``.
      keys: of this token.
      fed: see ``Imagined``; without ``intervene`` only its type counts.
      own: as in ``choose``.
    """
    spoken, reader = state.hidden, state.reader
    if reader is not None:
        speaks = reader.rows & (state.count > 0)  # Inside a block nothing is drawn.
        spoken = jnp.where(speaks[:, None], reader.hidden, spoken)
    tokens, sampled, imagined, log_probs = choose(state, model.logits(spoken), keys, spec, own)
    latent = model.imagine(state.hidden).astype(fed.dtype)
    if intervene is not None:
        place = spec.latent_size + 1 - state.block
        seen = Imagined(latent, state.count, place, fed, keys)
        latent = intervene(seen, data).astype(latent.dtype)
    return tokens, sampled, imagined, log_probs, latent


def step(model: Any, state: State, prefix: KVCache, reader_prefix: KVCache | None,
         start: Int[Array, "B"], keys: Key[Array, "B"], spec: SamplingSpec,
         intervene: Intervention | None, data: Any) -> State:
    """Chooses a token for every row, records it and feeds it (a latent instead, in imagery)."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.step)
    reader, out = state.reader, state.rollout
    tokens, sampled, imagined, log_probs, latent = decide(
        model, state, keys, out.latents, spec, intervene, data)
    slot = jnp.where(imagined, state.count, out.latents.shape[1])
    rows = jnp.arange(len(tokens))

    def put(buffer: Array, column: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, column[:, None], state.step, axis=1)

    ended = sampled & jnp.isin(tokens, jnp.asarray(spec.ends))
    rollout = Rollout(
        tokens=put(out.tokens, tokens),
        mask=put(out.mask, state.live),
        sampled=put(out.sampled, sampled),
        log_probs=put(out.log_probs, log_probs),
        latents=out.latents.at[rows, slot].set(latent, mode="drop"),
        latent_index=put(out.latent_index, jnp.where(imagined, state.count, -1)),
        truncated=out.truncated & ~ended,
    )
    embeds = model.embed(tokens[:, None], None, None, jnp.where(imagined, 0, -1)[:, None],
                         latent[:, None])
    positions = jnp.broadcast_to((start + state.step)[None, :, None], (3, len(tokens), 1))
    segments = state.live.astype(jnp.int32)[:, None]
    hidden, cache = model.decode(embeds, positions, segments, state.cache, prefix)
    if reader is not None:
        read, own = model.decode(embeds, positions, segments, reader.cache, reader_prefix)
        reader = Reader(read[:, 0], own, reader.rows)
    starts = sampled & (tokens == spec.latent_start)
    return State(
        step=state.step + 1,
        hidden=hidden[:, 0],
        cache=cache,
        block=jnp.where(starts, spec.latent_size + 1, jnp.maximum(state.block - 1, 0)),
        count=state.count + imagined,
        live=state.live & ~ended,
        rollout=rollout,
        reader=reader,
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "spec", "group", "intervene"))
def generate(graphdef: Any, states: tuple[Any, ...], batch: Batch, rng: Any, spec: SamplingSpec,
             group: int = 1, intervene: Intervention | None = None, data: Any = None,
             features: Float[Array, "P F U E"] | None = None,
             limit: Int[AnyArray, ""] | None = None, head: KVCache | None = None) -> Rollout:
    """``sample`` for callers that hold a split model: ``graphdef, *states = nnx.split(…)``.

    Args:
      features: what ``model.encode`` gave for the prompts, if it ran already.
      limit: most tokens of a response, where that is less than ``spec.max_tokens``; another limit
        compiles nothing anew.
      head: what ``read_head`` gave for the first tokens of the prompts, R rows, each shared by
        P / R consecutive prompts; ``batch`` has the rest of the prompts, at their own positions,
        and no prompt has a reader.
    """
    limit = jnp.asarray(spec.max_tokens if limit is None else limit)
    rows = batch.tokens.shape[0] * group
    model = nnx.merge(graphdef, *states)
    if head is None:
        hidden, prefix = prefill(model, batch, features)
        cache = model.empty_cache(rows, spec.max_tokens)
    else:
        prefix = head
        hidden, own = model.decode(prompt_embeddings(model, batch, features), batch.positions,
                                   batch.segment_ids, None, head, fill=True)
        hidden = last_hidden(hidden, jnp.asarray(batch.segment_ids))
        cache = with_room(own, group, spec.max_tokens)
    hidden = jnp.repeat(hidden, group, axis=0)
    reader_prefix = prefill_reader(model, batch) if spec.max_blocks else None
    reader = None if reader_prefix is None else Reader(
        hidden, model.empty_cache(rows, spec.max_tokens), reader_rows(batch, group))
    live = jnp.repeat(jnp.any(jnp.asarray(batch.segment_ids) != 0, axis=1), group)
    keys = row_keys(rng, rows)
    start = jnp.repeat(next_positions(batch), group)
    shape = (rows, spec.max_tokens)
    latents = max(spec.max_blocks, 1) * spec.latent_size
    state = State(
        step=jnp.zeros((), jnp.int32),
        hidden=hidden,
        cache=cache,
        block=jnp.zeros(rows, jnp.int32),
        count=jnp.zeros(rows, jnp.int32),
        live=live,
        rollout=Rollout(
            tokens=jnp.zeros(shape, jnp.int32), mask=jnp.zeros(shape, bool),
            sampled=jnp.zeros(shape, bool), log_probs=jnp.zeros(shape),
            latents=jnp.zeros((rows, latents, hidden.shape[-1]), hidden.dtype),
            latent_index=jnp.full(shape, -1, jnp.int32), truncated=live,
        ),
        reader=reader,
    )
    return jax.lax.while_loop(
        lambda s: (s.step < jnp.minimum(limit, spec.max_tokens)) & jnp.any(s.live),
        # Merged inside: a module belongs to the trace that made it.
        lambda s: step(nnx.merge(graphdef, *states), s, prefix, reader_prefix, start, keys, spec,
                       intervene, data),
        state,
    ).rollout


def sample(model: nnx.Module, batch: Batch, rng: Key[Array, ""] | Key[Array, "B"],
           spec: SamplingSpec, group: int = 1, intervene: Intervention | None = None,
           data: Any = None) -> Rollout:
    """Responses to prompts, ``group`` to each: rows p * group … p * group + group - 1 of prompt p.

    Prompts may be padded on either side, one prompt a row (segment id 1); a row of padding only
    yields an empty response. Generated token i stands at M-RoPE id (largest id of the prompt) + 1
    + i on all three axes. Token i of a row is drawn with the row's key folded with i, so a row's
    response does not depend on its neighbours.

    Args:
      model: a thinker; see ``fourd4d.models``.
      rng: one key, folded with the row numbers, or one key per response row.
      intervene: maps the latent about to be fed to the one fed instead (probes); a module-level
        pure function, since it is a static argument.
      data: arrays handed to ``intervene``.
    """
    graphdef, state = nnx.split(model)
    return generate(graphdef, (state,), batch, rng, spec, group, intervene, data)
