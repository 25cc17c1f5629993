"""Cosine and norm terms by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.losses import cosine_loss, norm_loss, norm_ratio

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
