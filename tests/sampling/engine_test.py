"""Slots refilled as rows end: every response is the static loop's, whatever its company."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.sampling import PROTOCOL, SPEC, START, TABLE_CONFIG, prompts, take_rows, thinker

from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.parallel import host_to_global, make_mesh, to_host, use
from fourd4d.sampling import (
    Engine,
    EngineShape,
    RowDraws,
    SamplingSpec,
    engine,
    generate,
    rollout,
    row_keys,
)
from fourd4d.sampling.engine import read_at_once, shape_for
from fourd4d.sampling.interventions import FROZEN, NATURAL, TABLE, RowProbe, by_row, freeze, swap
from fourd4d.sampling.refill import segment

RNG = jax.random.key(6)
GRAPHDEF, STATE = nnx.split(thinker())
MODEL = GRAPHDEF, (STATE,)


def check_same(got: Rollout, want: Rollout, rows: Any = slice(None)) -> None:
    for name in ("tokens", "mask", "sampled", "latent_index", "truncated"):
        np.testing.assert_array_equal(getattr(got, name), np.asarray(getattr(want, name))[rows],
                                      err_msg=name)
    for name in ("latents", "log_probs"):
        np.testing.assert_allclose(getattr(got, name), np.asarray(getattr(want, name))[rows],
                                   atol=1e-4, err_msg=name)


def padded(**kwargs: Any) -> Any:
    """Six prompts, the third of padding only."""
    batch = prompts(6, **kwargs)
    segments = batch.segment_ids.copy()
    segments[2] = 0
    batch = dataclasses.replace(batch, segment_ids=segments)
    if batch.reader is not None:
        read = batch.reader.segment_ids.copy()
        read[1:3] = 0  # The second prompt's imaginer says everything.
        batch = dataclasses.replace(
            batch, reader=dataclasses.replace(batch.reader, segment_ids=read))
    return batch


@pytest.mark.parametrize("changes", [
    {}, {"temperature": 0.0}, {"imagery": False}, {"max_latents": 3}, {"top_p": 0.8},
], ids=["plain", "greedy", "text_only", "full_buffer", "top_p"])
def test_every_response_is_the_static_loops(changes: dict[str, Any]) -> None:
    spec, batch = dataclasses.replace(SPEC, **changes), padded()
    want = generate(*MODEL, batch, RNG, spec, 4)
    got = rollout(*MODEL, batch, RNG, spec, 4, slots=5, lanes=3)
    check_same(got, want)
    if not changes:
        check_varied(want)


def check_varied(want: Rollout, most: int = 3) -> None:
    starts = np.sum(np.asarray(want.tokens) == START, axis=1)
    assert {0, 1, most} <= set(starts.tolist()) and want.truncated.any()
    assert len(set(np.asarray(want.mask).sum(1).tolist())) > 4


def test_with_what_an_encoder_adds_to_layers() -> None:
    """DeepStack: prompts are read with it, responses without."""
    graphdef, state = nnx.split(thinker(config=TABLE_CONFIG))
    batch = padded(reader="blind")
    want = generate(graphdef, (state,), batch, RNG, SPEC, 4)
    check_same(rollout(graphdef, (state,), batch, RNG, SPEC, 4, slots=5, lanes=3), want)
    check_varied(want, 2)


@pytest.mark.parametrize(("slots", "lanes", "group"), [
    pytest.param(1, 1, 4, marks=pytest.mark.slow), (3, 6, 4),
    pytest.param(24, 6, 4, marks=pytest.mark.slow), pytest.param(4, 2, 1, marks=pytest.mark.slow)])
def test_slots_lanes_and_groups_do_not_matter(slots: int, lanes: int, group: int) -> None:
    batch = padded(left=True)
    check_same(rollout(*MODEL, batch, RNG, SPEC, group, slots=slots, lanes=lanes),
               generate(*MODEL, batch, RNG, SPEC, group))


def test_with_readers() -> None:
    batch = padded(reader="blind")
    want = generate(*MODEL, batch, RNG, SPEC, 4)
    check_same(rollout(*MODEL, batch, RNG, SPEC, 4, slots=5, lanes=3), want)
    plain = generate(*MODEL, padded(), RNG, SPEC, 4)
    assert (np.asarray(plain.tokens) != np.asarray(want.tokens)).any()


def test_interventions_see_their_own_rows() -> None:
    """Each response is fed the latents recorded for it, and sees what it was fed."""
    batch, natural = padded(), generate(*MODEL, padded(), RNG, SPEC, 4)
    other = jnp.asarray(natural.latents)[::-1] + 0.1

    def both(imagined: Any, data: Any) -> Any:
        return swap(imagined, data) + 0.5 * imagined.fed.sum(1)

    want = generate(*MODEL, batch, RNG, SPEC, 4, both, other)
    got = rollout(*MODEL, batch, RNG, SPEC, 4, slots=5, lanes=3, intervene=both, data=other)
    check_same(got, want)
    assert np.abs(np.asarray(want.latents - natural.latents)).max() > 0.1


def test_on_four_devices(devices: Any) -> None:
    """Rows, lanes and responses stay on their devices; nothing else changes."""
    batch = prompts(8)
    want = generate(*MODEL, batch, RNG, SPEC, 4)
    mesh = make_mesh("data=2,fsdp=2", devices[:4])
    with use(mesh):
        got = rollout(*MODEL, host_to_global(batch, mesh), RNG, SPEC, 4, slots=8, lanes=8,
                      shards=4)
    assert len(got.tokens.sharding.device_set) == 4 and not got.tokens.is_fully_replicated
    check_same(to_host(got), want)


def test_a_mesh_that_splits_prompts_along_their_length(devices: Any) -> None:
    """A decoding step has one token, which is on all of those devices."""
    batch = prompts(4)
    want = generate(*MODEL, batch, RNG, SPEC, 2)
    with use(mesh := make_mesh("fsdp=2,context=2", devices[:4])):
        got = generate(*MODEL, host_to_global(batch, mesh), RNG, SPEC, 2)
    check_same(to_host(got), want)


def test_a_few_prompts_of_each_shard_are_read_at_once() -> None:
    batch = prompts(18, reader="blind")
    want = generate(*MODEL, batch, RNG, SPEC, 2)
    assert read_at_once(shape_for(batch, 2, slots=6, lanes=16, shards=2)) == 2
    check_same(rollout(*MODEL, batch, RNG, SPEC, 2, slots=6, lanes=16, shards=2), want)


@pytest.mark.parametrize(("length", "lanes", "shards", "count"), [
    (160, 16, 1, 4), (400, 16, 1, 2), (400, 16, 4, 1), (9000, 16, 1, 1), (160, 3, 1, 1)])
def test_no_more_is_read_at_once_than_fills_a_device(length: int, lanes: int, shards: int,
                                                     count: int) -> None:
    shape = EngineShape(slots=8, lanes=lanes - lanes % shards, group=2, tickets=64, length=length,
                        shards=shards)
    assert read_at_once(shape) == count


@pytest.mark.parametrize(("streams", "engines"), [(2, 2), (4, 3), (9, 6)])
def test_streams_side_by_side(streams: int, engines: int, devices: Any) -> None:
    """Each answers a part of the prompts, with what belongs to them, on the mesh of the caller."""
    batch, natural = padded(reader="blind"), generate(*MODEL, padded(), RNG, SPEC, 4)
    other, limits = jnp.asarray(natural.latents)[::-1] + 0.1, 3 + np.arange(24) % 9
    want = generate(*MODEL, batch, RNG, SPEC, 4, swap, other)
    seen: set[int] = set()

    def look(engine: Engine) -> None:
        assert jax.sharding.get_mesh() == mesh
        seen.add(id(engine))

    with use(mesh := make_mesh("single", devices[:1])):
        got = to_host(rollout(*MODEL, batch, RNG, SPEC, 4, slots=10, streams=streams,
                              limits=limits, intervene=swap, data=other, on_segment=look))
    assert len(seen) == engines
    kept = np.asarray(want.mask) & (np.arange(SPEC.max_tokens) < limits[:, None])
    np.testing.assert_array_equal(got.mask, kept)
    np.testing.assert_array_equal(got.tokens, np.where(kept, want.tokens, 0))
    np.testing.assert_allclose(got.log_probs, np.where(kept, want.log_probs, 0), atol=1e-4)


def test_what_fails_in_a_stream_is_raised() -> None:
    def fail(engine: Engine) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        rollout(*MODEL, prompts(), RNG, SPEC, 4, slots=10, streams=2, on_segment=fail)


def test_as_many_streams_as_there_are_cores(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 3)
    small, large = np.zeros(10, np.float32), np.broadcast_to(np.float32(0), (1 << 24,))
    assert engine.streams_for((small,), prompts=8, group=4, slots=32) == 3
    assert engine.streams_for((small,), prompts=8, group=4, slots=8) == 2  # Each has a group.
    assert engine.streams_for((small,), prompts=1, group=4, slots=32) == 1
    assert engine.streams_for((small, large), prompts=8, group=4, slots=32) == 1
    with use(make_mesh("data=4", devices[:4])):
        assert engine.streams_for((small,), prompts=8, group=4, slots=32) == 1


def test_limits_end_a_response_alone() -> None:
    batch, limits = prompts(), np.arange(16) % 9
    want = generate(*MODEL, batch, RNG, SPEC, 4)
    got = to_host(rollout(*MODEL, batch, RNG, SPEC, 4, slots=3, lanes=2, limits=limits))
    kept = np.asarray(want.mask) & (np.arange(SPEC.max_tokens) < limits[:, None])
    np.testing.assert_array_equal(got.mask, kept)
    np.testing.assert_array_equal(got.tokens, np.where(kept, want.tokens, 0))
    np.testing.assert_array_equal(
        got.truncated, (limits > 0) & ((want.mask.sum(1) > limits) | want.truncated))


def test_slots_never_wait() -> None:
    """Turns are what the longest schedule of full slots needs, far from the static loop's."""
    batch, seen = prompts(6), []
    limits = np.tile([2, 3, 4, SPEC.max_tokens], 6)
    got = rollout(*MODEL, batch, RNG, dataclasses.replace(SPEC, ends=(99,)), 4, slots=4, lanes=6,
                  limits=limits, on_segment=lambda engine: seen.append(engine.state))
    turns, busy, total = int(seen[-1].turns), int(seen[-1].busy), int(limits.sum())
    assert int(got.mask.sum()) == total == busy
    assert total / 4 <= turns < total / 4 + SPEC.max_tokens < 0.6 * 6 * SPEC.max_tokens


def shape_of(batch: Any, **changes: Any) -> EngineShape:
    return EngineShape(**{"slots": 2, "lanes": 2, "group": 4, "tickets": 8,
                          "length": batch.tokens.shape[1] + 3, **changes})


def test_requests_come_and_go_between_segments() -> None:
    """As a server would: prompts of two lengths, one at a time, some of them cancelled."""
    batch, short = prompts(6), prompts(2, length=9, seed=3)
    keys = row_keys(RNG, 32).reshape(8, 1, 4)
    want = generate(*MODEL, batch, keys[:6].reshape(-1), SPEC, 4)
    small = generate(*MODEL, short, keys[6:].reshape(-1), SPEC, 4)
    requests = [(take_rows(batch, slice(i, i + 1)), keys[i]) for i in range(6)] + [
        (take_rows(short, slice(i, i + 1)), keys[6 + i]) for i in range(2)]
    engine = Engine(*MODEL, shape_of(batch), SPEC)
    origin: dict[int, tuple[int, int]] = {}
    answers: dict[tuple[int, int], Rollout] = {}
    number, compiled = 0, None
    while number < len(requests) or origin:
        while number < len(requests) and engine.room():
            (tickets,) = engine.add(*requests[number])
            origin |= {ticket: (number, i) for i, ticket in enumerate(tickets)}
            if number == 1:  # One of its responses runs, another one still waits.
                engine.run(turns=3)
                engine.cancel([t for t, (n, i) in origin.items() if n == 0 and i == 0])
                engine.cancel(tickets[-1:])
            number += 1
        engine.run(turns=5, waiting=number < len(requests))
        compiled = compiled or segment._cache_size()  # type: ignore[attr-defined]
        for ticket, answer in engine.collect():
            answers[origin.pop(ticket)] = answer
    assert segment._cache_size() == compiled  # type: ignore[attr-defined]
    assert len(answers) == 32
    for (n, i), answer in answers.items():
        if (n, i) == (1, 3):
            assert not answer.mask.any() and not answer.truncated.any()
        elif (n, i) == (0, 0):
            length = answer.mask.sum()
            assert 0 < length <= 3
            np.testing.assert_array_equal(answer.tokens[0, :length], want.tokens[0, :length])
        else:
            whole, row = (want, 4 * n + i) if n < 6 else (small, 4 * (n - 6) + i)
            check_same(answer, whole, slice(row, row + 1))


def test_each_response_draws_in_its_own_way() -> None:
    """Beside others of other temperatures, nuclei and imagery: the tokens of its own spec."""
    settings = [(1.0, 1.0, True), (0.0, 1.0, True), (0.7, 0.8, True), (1.3, 1.0, False)]
    batch = prompts(4, length=9, seed=3)
    keys = row_keys(RNG, 16).reshape(4, 1, 4)
    draws = RowDraws(*(np.array([column], kind) for column, kind in zip(
        zip(*settings, strict=True), (np.float32, np.float32, bool), strict=True)))
    engine = Engine(*MODEL, shape_of(batch, slots=3, lanes=4, tickets=16, mixed=True), SPEC)
    tickets = [engine.add(take_rows(batch, slice(i, i + 1)), keys[i], draws=draws)[0]
               for i in range(4)]
    engine.run()
    answers = dict(engine.collect())
    differ = set()
    for number, (temperature, top_p, imagery) in enumerate(settings):
        spec = dataclasses.replace(SPEC, temperature=temperature, top_p=top_p, imagery=imagery)
        want = generate(*MODEL, batch, keys[:, 0, number], spec)
        differ.add(np.asarray(want.tokens).tobytes())
        for prompt in range(4):
            got = answers[tickets[prompt][number]]
            if not imagery:  # Its spec has no buffer of latents.
                got = dataclasses.replace(got, latents=got.latents[:, :SPEC.latent_size])
            check_same(got, want, slice(prompt, prompt + 1))
    assert len(differ) == 4
    with pytest.raises(InputError, match="draws missing where EngineShape.mixed is True"):
        engine.add(take_rows(batch, slice(0, 1)), keys[0])


def test_each_response_is_probed_in_its_own_way() -> None:
    batch = prompts(4, length=9, seed=3)
    keys = row_keys(RNG, 16).reshape(4, 1, 4)
    natural = generate(*MODEL, batch, keys.reshape(-1), SPEC, 4)
    other = np.asarray(natural.latents)[::-1] + 0.1
    shape = shape_of(batch, slots=3, lanes=4, tickets=16)
    data = RowProbe(jnp.zeros(16, jnp.int32), jnp.zeros((16, *other.shape[1:])))
    engine = Engine(*MODEL, shape, SPEC, intervene=by_row, data=data)
    kinds = np.array([[NATURAL, TABLE, FROZEN, TABLE]], np.int32)
    tickets = [engine.add(take_rows(batch, slice(i, i + 1)), keys[i], data=RowProbe(
        kinds, other[None, 4 * i : 4 * i + 4]))[0] for i in range(4)]
    engine.run()
    answers = dict(engine.collect())
    wants = {NATURAL: natural,
             TABLE: generate(*MODEL, batch, keys.reshape(-1), SPEC, 4, swap, jnp.asarray(other)),
             FROZEN: generate(*MODEL, batch, keys.reshape(-1), SPEC, 4, freeze)}
    for prompt in range(4):
        for number, kind in enumerate(kinds[0]):
            row = 4 * prompt + number
            check_same(answers[tickets[prompt][number]], wants[int(kind)], slice(row, row + 1))
    assert (np.asarray(wants[FROZEN].latents) != np.asarray(natural.latents)).any()


def test_progress_tells_what_was_said_so_far() -> None:
    batch, keys = prompts(1, length=9, seed=3), row_keys(RNG, 4).reshape(1, 4)
    engine = Engine(*MODEL, shape_of(batch, lanes=1), SPEC)
    (tickets,) = engine.add(batch, keys)
    assert {len(said) for said in engine.progress().values()} == {0}
    seen: dict[int, list[int]] = {ticket: [] for ticket in tickets}
    while engine.run(turns=2):
        for ticket, said in engine.progress().items():
            assert said[: len(seen[ticket])].tolist() == seen[ticket]
            seen[ticket] = said.tolist()
    done = dict(engine.collect())
    assert engine.progress() == {}
    for ticket in tickets:
        whole = done[ticket].tokens[0][done[ticket].mask[0]].tolist()
        assert whole[: len(seen[ticket])] == seen[ticket] and len(seen[ticket]) > 0


def test_what_has_no_room_is_refused() -> None:
    batch = prompts(2)
    one, keys = take_rows(batch, slice(0, 1)), row_keys(RNG, 4).reshape(1, 4)
    engine = Engine(*MODEL, shape_of(batch, tickets=4, lanes=1), SPEC)
    with pytest.raises(InputError, match="responses"):
        engine.add(one, row_keys(RNG, 5).reshape(1, 5))
    with pytest.raises(InputError, match="16 tokens"):
        engine.add(prompts(1, length=16), keys)
    with pytest.raises(InputError, match="no lane is free"):
        engine.add(batch, row_keys(RNG, 8).reshape(2, 4))
    engine.add(one, keys)
    assert not engine.room()
    with pytest.raises(InputError, match="no lane is free"):
        engine.add(one, keys)
    engine.run()
    assert not engine.room(), "finished tickets are not handed out before they are collected"
    assert len(engine.collect()) == 4 and engine.room()


def test_prompts_divide_over_the_shards() -> None:
    engine = Engine(*MODEL, shape_of(prompts(1), slots=2, lanes=2, tickets=8, shards=2), SPEC)
    with pytest.raises(InputError, match="3 prompts for 2 shards"):
        engine.add(prompts(3), row_keys(RNG, 12).reshape(3, 4))


@pytest.mark.parametrize("changes", [
    dict(slots=0), dict(lanes=0), dict(tickets=6, slots=4, lanes=4, shards=4)])
def test_bad_shape_names_its_field(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        shape_of(prompts(1), **changes)


def test_spec_of_protocol_keeps_codes_apart() -> None:
    """Token ids share an integer with four flags."""
    from fourd4d.sampling import refill

    assert isinstance(SPEC, SamplingSpec) and PROTOCOL.latent_size
    flags = refill._ENDED, refill._SAMPLED, refill._IMAGINED, refill._RECORDED
    assert len({flag.bit_length() for flag in flags}) == 4 and max(flags) < 2**31
    assert all(flag > refill.TOKEN for flag in flags) and refill.TOKEN > 2**24
