"""Dry runs: what they tell is true, and nothing is written."""

import jax
import pytest
from helpers import dift_config, rl_config
from helpers.data import sample, write_dataset

from fourd4d import dry_run
from fourd4d.bench.common.rl_programs import local_bytes, sizes, weights_read
from fourd4d.core.errors import InputError
from fourd4d.dift import __main__ as dift
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.open import described, start_from
from fourd4d.rl import __main__ as rl
from fourd4d.train.state import split


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dry"), [sample(i, frames=2) for i in range(12)])


@pytest.fixture
def plans(monkeypatch):
    """The plans that are shown."""
    seen, show = [], dry_run.show
    monkeypatch.setattr(dry_run, "show", lambda plan: (seen.append(plan), show(plan))[0])
    return seen


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_a_dift_run_is_told_before_it_begins(data, tmp_path, plans, capsys):
    config = dift_config.tiny(data, tmp_path / "run")
    dift.plan(config)
    assert not (tmp_path / "run").exists()
    (plan,) = plans
    mesh = make_mesh(config.mesh)
    with use(mesh):
        bundle = start_from(config, mesh)
    params, frozen = split(bundle.tree, config.trainable)
    assert described(config)[0] == bundle.config
    assert numbers(plan.state.params) == numbers(params)
    assert numbers(plan.state.frozen) == numbers(frozen)
    (program,) = plan.programs
    held = sum(map(local_bytes, jax.tree.leaves(plan.state)))
    assert held < program.used < 200 * held
    # Each trained weight is used for each token: forwards, and twice backwards.
    tokens = plan.batch.tokens.size
    decoder = sum(size for name, (size, _) in sizes(plan.state.params).items()
                  if name == "decoder")
    assert plan.flops > 6 * decoder * tokens
    told = capsys.readouterr().out
    assert f"{numbers(params):,}" in told and "time of 4 steps" in told
    assert "Which way, " in told and "frame tokens]" in told and "<output_image>" in told


def test_a_4drl_run_is_told_before_it_begins(data, tmp_path, plans, capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(dry_run, "_compiled", lambda name, compile_it, beside: (
        compiled.append(beside), dry_run.Program(name, 10**15))[1])
    config = rl_config.tiny(data, tmp_path / "run")
    rl.plan(config)
    assert not (tmp_path / "run").exists()
    (plan,) = plans
    assert [program.name for program in plan.programs] == ["rollout", "score", "update"]
    told = capsys.readouterr().out
    assert "DOES NOT FIT" in told and "whole budget" in told
    # Decoding needs neither the optimizer's state nor the frozen reference; both stay there.
    held = [sum(map(local_bytes, jax.tree.leaves(part)))
            for part in (plan.state.opt_state, plan.state.params)]
    assert compiled[0] == sum(held) and compiled[1] == held[0] and compiled[2] > held[1]
    decoder = weights_read(plan.state)
    responses = config.prompts * config.rl.group * config.sampling.max_tokens
    assert plan.flops > (2 + 6 * config.rl.epochs) * decoder * responses


def test_what_is_wrong_is_told_as_by_the_run(data, tmp_path):
    with pytest.raises(InputError, match="config.init: init '' and preset ''"):
        dift.plan(dift_config.tiny(data, tmp_path / "run", preset=""))
    with pytest.raises(InputError, match="unknown chip in 'v9:2x2'"):
        dift.plan(dift_config.tiny(data, tmp_path / "run"), "v9:2x2")
    assert not (tmp_path / "run").exists()
