"""Interventions feed exactly what they say; the planted controls see what is there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.sampling import CONFIG, END, LATENT, SPEC, TABLE_CONFIG, prompts, thinker

from fourd4d.eval.items import read_items
from fourd4d.eval.probes import controls, forced, quick, run
from fourd4d.eval.probes.recordings import join, of_rollout
from fourd4d.eval.probes.run import ProbeSpec, probe
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.probes.tables import ARMS, marker_of, tiled
from fourd4d.processing.tokenizer import tiny_tokenizer
from fourd4d.sampling import replay, sample
from fourd4d.sampling.interventions import replace
from fourd4d.sampling.replay import joined_hidden

RNG = jax.random.key(6)
COUNT = SPEC.max_latents


@pytest.fixture(scope="module", params=[
    (0, CONFIG, None), (0, CONFIG, "blind"), (3, TABLE_CONFIG, None)],
                ids=["windows", "windows blind", "table"])
def played(request):
    """A model, prompts and their plain responses, by the program of the interventions."""
    seed, config, reader = request.param
    model, batch = thinker(seed, config), prompts(reader=reader)
    nothing = np.zeros((4, COUNT, 32), np.float32), np.zeros(4, bool)
    plain = jax.device_get(sample(model, batch, RNG, SPEC, intervene=replace, data=nothing))
    assert (plain.latent_index.max(1) >= 0).sum() >= 2
    return model, batch, plain


def recordings(plain):
    empty = np.zeros((0, 32), np.float32)
    return [of_rollout(plain, row, empty, empty, 0) for row in range(4)]


def test_nothing_replaced_is_plain_decoding(played):
    model, batch, plain = played
    usual = jax.device_get(sample(model, batch, RNG, SPEC))
    np.testing.assert_array_equal(plain.tokens, usual.tokens)


def test_own_latents_fed_again_change_no_bit(played):
    model, batch, plain = played
    own = np.stack([tiled(one.latents, COUNT) for one in recordings(plain)])
    again = jax.device_get(sample(model, batch, RNG, SPEC, intervene=replace,
                                  data=(own, np.ones(4, bool))))
    jax.tree.map(np.testing.assert_array_equal, plain, again)


def test_a_swap_feeds_exactly_the_donors_latents(played):
    model, batch, plain = played
    all_ = recordings(plain)
    giver = max(range(4), key=lambda row: len(all_[row].latents))
    table = np.stack([tiled(all_[giver].latents, COUNT)] * 4)
    changed = np.arange(4) != giver
    swapped = jax.device_get(sample(model, batch, RNG, SPEC, intervene=replace,
                                    data=(table, changed)))
    np.testing.assert_array_equal(swapped.latents[giver], plain.latents[giver])
    moved = 0
    for row in np.flatnonzero(changed):
        fed = swapped.latent_index[row].max() + 1
        np.testing.assert_array_equal(swapped.latents[row, :fed], table[row, :fed])
        starts = np.flatnonzero(plain.latent_index[row] >= 0)
        first = starts[0] if len(starts) else plain.tokens.shape[1]
        np.testing.assert_array_equal(swapped.tokens[row, :first], plain.tokens[row, :first])
        moved += not np.array_equal(swapped.tokens[row], plain.tokens[row])
    assert moved
    # By hand: one pass over prompt and response, fed the table, chooses every token the same way.
    np.testing.assert_allclose(
        jax.jit(replay, static_argnames="spec")(model, batch, swapped, SPEC), swapped.log_probs,
        atol=2e-4)


def test_forced_log_probs_are_those_of_one_plain_pass(played):
    model, batch, plain = played
    all_ = recordings(plain)
    giver = max(range(4), key=lambda row: len(all_[row].latents))
    fed = [dataclasses.replace(one, latents=tiled(all_[giver].latents, len(one.latents)))
           for one in all_]
    rollout = jax.tree.map(jnp.asarray, join(fed, 4, SPEC.max_tokens, COUNT))
    # Beyond a response's end there is only padding.
    at = np.minimum([2, 3, 1, 2], [len(one.tokens) - 1 for one in all_]).astype(np.int32)
    letters = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int32)
    graphdef, state = nnx.split(model)
    features = model.encode(batch.vision)
    spoken, tried, states = forced.forced(graphdef, (state,), batch, rollout, SPEC, features, at,
                                          letters, at[:, None])
    hidden = joined_hidden(model, batch, jax.tree.map(jnp.asarray, rollout))
    here = np.asarray(hidden)[np.arange(4), at]
    np.testing.assert_allclose(states[:, 0], here, atol=1e-4)
    logits = np.array(model.logits(jnp.asarray(here)))
    logits[:, [*SPEC.forbidden, *range(SPEC.vocab, logits.shape[1])]] = -np.inf
    count = np.cumsum(rollout.tokens == SPEC.latent_start, 1)
    for row in range(4):
        if at[row] and count[row, at[row] - 1] >= SPEC.max_blocks:
            logits[row, SPEC.latent_start] = -np.inf
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(tried, np.take_along_axis(wanted, letters, 1), atol=1e-4)
    np.testing.assert_allclose(spoken, replay(model, batch, rollout, SPEC), atol=1e-4)
    own = jax.tree.map(jnp.asarray, join(all_, 4, SPEC.max_tokens, COUNT))
    assert np.abs(np.asarray(replay(model, batch, own, SPEC)) - spoken).max() > 1e-3


def test_block_places(played):
    _, _, plain = played
    for one in recordings(plain):
        for start in forced.block_starts(one, SPEC.latent_size):
            assert one.tokens[start] == SPEC.latent_start
            assert (one.tokens[start + 1 : start + 1 + SPEC.latent_size] == LATENT).all()
        after = forced.text_after_images(one, SPEC)
        if len(one.latents):
            first = np.flatnonzero(one.latent_index >= 0)[0]
            assert not after[:first].any()
            assert set(one.tokens[after]) <= {*range(END + 1)}


@pytest.mark.parametrize("text, letter, said", [
    ("<think>Up.</think>\n<answer>A. Up</answer>", "C", "<think>Up.</think>\n<answer>C"),
    ("<answer>B</answer> no, <answer> D. Left</answer>", "A", "<answer>B</answer> no, <answer> A"),
    ("<answer>(B) Up</answer>", "D", "<answer>(D"),
])
def test_the_letters_token_is_found(text, letter, said):
    words = tiny_tokenizer()
    ids = words.encode(text)
    place, token = forced.letter_place(ids, words, letter)
    assert words.decode([*ids[:place], token]) == said
    own = next(c for c in words.decode(ids[: place + 1])[::-1] if c in "ABCD")
    assert forced.letter_place(ids, words, own) == (place, ids[place])


@pytest.mark.parametrize("text", ["no answer", "<answer>Left</answer>", "<answer>", ""])
def test_no_letter_no_place(text):
    words = tiny_tokenizer()
    assert forced.letter_place(words.encode(text), words, "A") is None


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The controls' thinker, and a folder for its tasks."""
    root = tmp_path_factory.mktemp("controls")
    return controls.fit(root), root


@pytest.mark.slow
def test_the_controls_are_sound(planted):
    subject, root = planted
    found = controls.run_controls(root, subject=subject)
    assert found["sound"] and found["positive"] >= 0.9 and found["negative"] < 0.01


@pytest.mark.slow
def test_a_probe_that_feeds_nothing_is_found_out(planted, tmp_path, monkeypatch):
    subject, _ = planted
    monkeypatch.setattr(run, "replace", _keep)
    found = controls.run_controls(tmp_path, subject=subject)
    assert not found["sound"] and found["positive"] < 0.5


def _keep(imagined, data):
    del data
    return imagined.latent


@pytest.mark.slow
def test_every_arm_of_a_planted_task_resumes_and_one_bad_item_fails_alone(planted, tmp_path):
    subject, _ = planted
    source = controls.write_task(tmp_path, "positive", 10, seed=5)
    (tmp_path / "positive3" / "1.png").unlink()
    (tmp_path / "positive4" / "overlay.png").unlink()
    items, spec, probing = read_items(source), controls._SPEC, ProbeSpec()
    outcome = probe(subject, source, items, spec, probing, tmp_path / "out")
    told = summarise(outcome, probing)
    assert [f["key"] for f in told["failed"]] == ["positive3"]
    assert sorted(outcome.untold) == ["positive3", "positive4"]
    arms = told["arms"]
    assert set(arms) == set(ARMS) and arms["repeat"]["items"] == 9
    assert arms["repeat"]["flip_rate"] == 0 == arms["repeat"]["text_logp_delta_high"]
    assert arms["freeze"]["flip_rate"] == 0  # One latent: the first is all.
    assert arms["oracle"]["items"] == 8 and arms["oracle_time"]["items"] == 0
    assert arms["swap_other"]["follow_after"] == 1 and arms["swap_same"]["flip_rate"] == 0
    assert arms["swap_other"]["letter_logp_delta"] < -1 and told["metrics"]["plain_accuracy"] == 0.9
    lines = {path.name: path.read_text() for path in (tmp_path / "out").glob("items-*.jsonl")}
    assert set(lines) == {f"items-{name}.jsonl" for name in ("plain", *ARMS)}

    # Killed in the middle of an arm, it goes on to the same end.
    (tmp_path / "out" / "items-oracle.jsonl").unlink()
    cut = lines["items-swap_other.jsonl"].splitlines(keepends=True)
    (tmp_path / "out" / "items-swap_other.jsonl").write_text("".join(cut[:4]) + cut[4][:20])
    again = probe(subject, source, items, spec, probing, tmp_path / "out")
    assert summarise(again, probing) == told


@pytest.mark.slow
def test_quick_gives_the_named_metrics(planted, tmp_path):
    subject, _ = planted
    source = controls.write_task(tmp_path, "positive", 8, seed=6)
    found = quick(subject, source, read_items(source), controls._SPEC, text_only=subject)
    for name in ("text_only_accuracy", "probe_swap_delta", "probe_zero_delta",
                 "donor_follow_rate", "retrieval_top1", "cosine", "constant_cosine"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name
    assert found["donor_follow_rate"] == 1 and found["probe_swap_delta"] == -1


@pytest.mark.slow
def test_the_marker_is_the_pads_embedding(planted):
    subject, _ = planted
    model = nnx.merge(subject.graphdef, *subject.states)
    pad = subject.processor.tokenizer.id("<|latent_pad|>")
    np.testing.assert_array_equal(marker_of(subject), model.embedding[...][pad])
