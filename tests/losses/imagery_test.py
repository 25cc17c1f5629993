"""Cosine and norm terms by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.losses import cosine_loss, imagery, norm_loss, norm_ratio

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


def diagnosed(predicted, target, weights, image=2):
    found = imagery.batch_diagnostics(jnp.asarray(predicted), jnp.asarray(target),
                                      jnp.asarray(weights), image)
    return {name: float(mean.total / mean.weight) for name, mean in found.items()}


def test_a_constant_does_not_pass_for_imagining():
    rng = np.random.default_rng(0)
    base = 5 * rng.standard_normal(16)
    target = (base + 0.5 * rng.standard_normal((6, 4, 16))).astype(np.float32)
    weights = np.ones((6, 4), np.float32)
    weights[2, 2:] = 0  # An image that is not there may hold anything.
    target[2, 2:] = 1e3
    constant = np.broadcast_to(base, target.shape).astype(np.float32)
    told, truth = diagnosed(constant, target, weights), diagnosed(3 * target, target, weights)
    cosine = float(1 - (cosine_loss(jnp.asarray(constant), jnp.asarray(target),
                                    jnp.asarray(weights)).total / weights.sum()))
    assert cosine > 0.98 and told["constant_cosine"] == pytest.approx(cosine, abs=0.01)
    assert abs(told["centred_cosine"]) < 0.35 and told["retrieval"] <= 2 / 11
    assert truth["retrieval"] == 1 and truth["centred_cosine"] > 0.9


def test_diagnostics_by_hand():
    target = np.array([[[4.0, 0.0], [3.0, 1.0]], [[2.0, 0.0], [3.0, -1.0]]], np.float32)
    weights = np.ones((2, 2), np.float32)
    found = diagnosed(target, target, weights, image=1)
    # The mean is (3, 0), the mean length 3.08. At this length (4, 0) and (2, 0) are one vector,
    # nearest to the first.
    assert found["retrieval"] == 0.75
    assert found["constant_cosine"] == pytest.approx((1 + 3 / 10**0.5) / 2, rel=1e-5)
    assert diagnosed(target[::-1], target, weights, image=2)["retrieval"] == 0.0


def test_diagnostics_have_no_gradient():
    target = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 8)), jnp.float32)

    def total(x):
        found = imagery.batch_diagnostics(x, target, jnp.ones((2, 4)), 2)
        return sum(mean.total for mean in found.values())

    assert not np.asarray(jax.grad(total)(target + 1.0)).any()
