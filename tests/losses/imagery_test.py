"""Cosine and norm terms by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.losses import (
    Bank,
    centred_cosine_loss,
    constant_cosine,
    cosine_loss,
    info_nce,
    norm_loss,
    norm_ratio,
    retrieval,
)

P = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
T = jnp.array([[6.0, 8.0], [0.0, 5.0], [0.0, -1.0], [0.0, 0.0]])
W = jnp.array([1.0, 1.0, 1.0, 0.0])


def test_cosine_by_hand():
    mean = cosine_loss(P, T, W)
    assert float(mean.total) == pytest.approx(0 + 1 + 2, abs=1e-6)
    assert float(mean.weight) == 3


def test_norms_by_hand():
    ratios = np.array([0.5, 0.2, 2.0])
    assert float(norm_loss(P, T, W).total) == pytest.approx((np.log(ratios) ** 2).sum(), rel=1e-5)
    assert float(norm_ratio(P, T, W).value()) == pytest.approx(ratios.mean(), rel=1e-5)


def test_scale_moves_the_norm_term_only():
    assert float(cosine_loss(7 * P, T, W).total) == pytest.approx(3, abs=1e-5)
    assert float(norm_loss(2 * T, T, W).value()) == pytest.approx(np.log(2) ** 2, rel=1e-5)


@pytest.mark.parametrize("loss", [cosine_loss, norm_loss])
def test_gradients_reach_predictions_only_and_stay_finite(loss):
    grad_p, grad_t = jax.grad(lambda p, t: loss(p, t, W).value(), (0, 1))(P, T)
    assert np.isfinite(grad_p).all() and np.any(grad_p[:3]) and not np.any(grad_p[3])
    assert not np.any(grad_t)


def test_cosine_pulls_towards_the_target():
    grad = jax.grad(lambda p: cosine_loss(p, T[1:2], W[:1]).value())(P[1:2])
    np.testing.assert_allclose(grad, [[0.0, -1.0]], atol=1e-6)


def test_bfloat16_inputs_are_compared_in_float32():
    x = jax.random.normal(jax.random.key(0), (5, 4096)).astype(jnp.bfloat16)
    mean = cosine_loss(x, x, jnp.ones(5))
    assert mean.total.dtype == jnp.float32
    assert float(mean.value()) == pytest.approx(0, abs=1e-6)


# Four mental images of one latent, around the direction (0, 0, 1), and one that is absent.
AROUND = np.array([[1.0, 0, 1], [-1, 0, 1], [0, 2, 2], [0, -1, 1], [9, 9, 0]])
THERE = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
BANK = Bank.of(jnp.asarray(AROUND, jnp.float32), THERE, 1)
OWN = jnp.arange(5)
PREDICTED = jnp.asarray(5.0 * AROUND[[0, 1, 3, 3, 4]], jnp.float32)[:, None]  # The third is wrong.


def test_bank_by_hand():
    np.testing.assert_allclose(BANK.direction(), [[0, 0, np.sqrt(0.5)]], atol=1e-6)
    np.testing.assert_allclose(BANK.deviations(BANK.targets)[:4, 0], np.sqrt(0.5) * np.array(
        [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]), atol=1e-6)


def test_info_nce_by_hand():
    """Cosines with the four targets: 1 for the one meant, -1 for its opposite, 0 for the others."""
    found = info_nce(PREDICTED, OWN, BANK, THERE, temperature=0.5)
    right = np.log(np.exp(2) + np.exp(-2) + 2) - 2
    assert float(found.total) == pytest.approx(3 * right + (right + 4), rel=1e-4)
    assert float(found.weight) == 4
    assert float(retrieval(PREDICTED, OWN, BANK, THERE).value()) == pytest.approx(0.75)
    centred = centred_cosine_loss(PREDICTED, OWN, BANK, THERE)
    assert float(centred.total) == pytest.approx(0 + 0 + 2 + 0, abs=1e-4)
    assert float(centred.weight) == 4


@pytest.mark.parametrize("constant", ["mean", "other"])
def test_a_constant_tells_nothing_apart(constant):
    targets = 4.0 + jax.random.normal(jax.random.key(0), (12, 4, 16))
    bank = Bank.of(targets.reshape(-1, 16), jnp.ones(12), 4)
    value = bank.direction() if constant == "mean" else 4.0 + jax.random.normal(jax.random.key(1),
                                                                           (4, 16))
    same, own, there = jnp.broadcast_to(value, targets.shape), jnp.arange(12), jnp.ones(12)
    assert float(retrieval(same, own, bank, there).value()) == pytest.approx(1 / 12)
    nce = float(info_nce(same, own, bank, there).value())
    cosine = 1 - float(centred_cosine_loss(same, own, bank, there).value())
    raw = 1 - float(cosine_loss(same, targets, jnp.ones((12, 4))).value())
    if constant == "mean":  # The raw cosine is the one of a good prediction.
        assert nce == pytest.approx(np.log(12), abs=1e-3) and cosine == pytest.approx(0, abs=1e-3)
        assert raw > 0.95
        assert float(constant_cosine(bank, there).value()) == pytest.approx(raw, abs=1e-5)
    else:
        assert nce >= np.log(12) and abs(cosine) < 0.1
    assert float(retrieval(targets, own, bank, there).value()) == 1


def test_equal_targets_share_the_hit():
    targets = jnp.array([[3.0, 1, 1], [3.0, 1, 1], [1.0, 3, 1], [0.0, 1, 5]])[:, None]
    bank = Bank.of(targets[:, 0], jnp.ones(4), 1)
    found = retrieval(targets, jnp.arange(4), bank, jnp.ones(4))
    assert float(found.total) == pytest.approx(0.5 + 0.5 + 1 + 1)


@pytest.mark.parametrize("options", [{}, {"centred": False}, {"whole": False}])
def test_told_apart_whatever_the_units(options):
    """Images in another order, with gaps: each still has its own target; absent ones nothing."""
    targets = 4.0 + jax.random.normal(jax.random.key(0), (6, 2, 8))
    there = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    bank = Bank.of(targets.reshape(-1, 8), there, 2)
    own = jnp.array([4, 1, 0])
    right = info_nce(2.0 * targets[own], own, bank, there[own], 0.05, **options)
    wrong = info_nce(2.0 * targets[own], own[::-1], bank, there[own], 0.05, **options)
    assert float(right.weight) == (4 if "whole" in options else 2)
    assert float(right.value()) < 0.6 * float(wrong.value())
    grad = jax.grad(lambda p: info_nce(p, own, bank, there[own], **options).value())(targets[own])
    assert np.isfinite(grad).all() and np.any(grad[0]) and not np.any(grad[1])
