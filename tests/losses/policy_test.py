"""Policy terms by hand-computed numbers, and the gradients that matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.losses import (
    PolicySpec,
    clipped_surrogate,
    group_advantages,
    informative_groups,
    k3,
    latent_log_probs,
    policy_loss,
    response_mean,
)
from fourd4d.losses.policy import (
    overlong_penalty,
    sequence_ratio,
    vmf_log_probs,
)


def test_k3_by_hand():
    out = k3(jnp.log(jnp.array([0.5, 0.2, 0.3])), jnp.log(jnp.array([0.25, 0.4, 0.3])))
    want = [0.5 - np.log(0.5) - 1, 2 - np.log(2) - 1, 0.0]
    np.testing.assert_allclose(out, want, atol=1e-6)


def test_k3_expected_gradient_points_at_the_reference_where_k1_has_none():
    """Exact expectation over a policy of four tokens: sum of p times the gradient."""
    theta, ref = jnp.array([0.3, -0.2, 0.8, 0.1]), jnp.array([0.0, 0.5, -0.5, 0.2])
    p, q = jax.nn.softmax(theta), jax.nn.softmax(ref)

    def expected(estimator):
        def f(theta):
            logp = jax.nn.log_softmax(theta)
            return jnp.sum(jax.lax.stop_gradient(p) * estimator(logp, jnp.log(q)))
        return jax.grad(f)(theta)

    np.testing.assert_allclose(expected(lambda a, b: a - b), jnp.zeros(4), atol=1e-6)
    # The gradient of KL(reference, policy) with respect to the logits.
    np.testing.assert_allclose(expected(k3), p - q, atol=1e-6)
    np.testing.assert_allclose(
        jnp.sum(p * k3(jnp.log(p), jnp.log(q))), jnp.sum(p * jnp.log(p / q)), atol=1e-6)


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), [
    (1.0, 2.0, 2.0, 2.0),       # Inside: the plain policy gradient.
    (1.5, 2.0, 2.56, 0.0),      # Too likely and good: cut at 1.28.
    (1.5, -2.0, -3.0, -3.0),    # Too likely and bad: keeps pushing down.
    (0.5, 2.0, 1.0, 1.0),       # Too unlikely and good: keeps pushing up.
    (0.5, -2.0, -1.6, 0.0),     # Too unlikely and bad: cut at 0.8.
])
def test_clip_edges(ratio, advantage, value, slope):
    f = lambda x: clipped_surrogate(x, jnp.zeros(()), jnp.float32(advantage), 0.2, 0.28)
    out, grad = jax.value_and_grad(f)(jnp.log(jnp.float32(ratio)))
    assert float(out) == pytest.approx(value, rel=1e-5)
    assert float(grad) == pytest.approx(slope, rel=1e-5)  # With respect to the log-probability.


def test_advantages_by_hand():
    rewards = jnp.array([[1.0, 0.0, 0.0, 1.2], [0.2, 0.2, 0.2, 0.2]])
    row = np.array([1.0, 0.0, 0.0, 1.2])
    want = (row - 0.55) / (np.sqrt(((row - 0.55) ** 2).sum() / 3) + 1e-4)
    out = group_advantages(rewards)
    np.testing.assert_allclose(out[0], want, rtol=1e-5)
    np.testing.assert_allclose(out[1], 0, atol=1e-4)
    np.testing.assert_allclose(
        group_advantages(rewards, divide_by_std=False)[0], row - 0.55, rtol=1e-5)
    np.testing.assert_array_equal(informative_groups(rewards), [True, False])
    np.testing.assert_array_equal(group_advantages(jnp.array([[0.7]])), [[0.0]])


VALUES = jnp.array([[1.0, 2.0, 3.0, 9.0], [4.0, 9.0, 9.0, 9.0], [5.0, 7.0, 9.0, 9.0],
                    [jnp.nan, 9.0, 9.0, 9.0]])
MASK = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


@pytest.mark.parametrize(("normalisation", "total", "weight"), [
    ("response", 2.0 + 4.0 + 6.0, 3.0), ("token", 6.0 + 4.0 + 12.0, 6.0),
    ("constant", (6.0 + 4.0 + 12.0) / 4, 3.0),
])
def test_response_means_by_hand(normalisation, total, weight):
    mean = response_mean(VALUES, MASK, None, normalisation, 4)
    assert (float(mean.total), float(mean.weight)) == pytest.approx((total, weight))


def test_dropped_responses_leave_sum_and_weight():
    mean = response_mean(VALUES, MASK, jnp.array([True, False, True, True]))
    assert (float(mean.total), float(mean.weight)) == pytest.approx((2.0 + 6.0, 2.0))


def test_shares_of_microbatches_add_up():
    for kind in ("response", "token", "constant"):
        whole = response_mean(VALUES, MASK, None, kind, 4)
        parts = response_mean(VALUES[:2], MASK[:2], None, kind, 4) + response_mean(
            VALUES[2:], MASK[2:], None, kind, 4)
        np.testing.assert_allclose(parts.value(), whole.value(), rtol=1e-6)


def test_latent_likelihood_by_hand():
    predicted = jnp.array([[3.0, 4.0]])
    f = lambda h: latent_log_probs(jnp.zeros((1, 2)), h).sum()
    assert float(f(predicted)) == pytest.approx(-25 / 200)
    np.testing.assert_allclose(jax.grad(f)(predicted), -predicted / 100)


def _loss(spec, logp, **changes):
    kwargs = dict(logp_old=jnp.full((2, 3), -1.0), advantages=jnp.array([1.0, -1.0]),
                  mask=jnp.array([[1, 1, 0], [1, 0, 0]], bool), logp_ref=jnp.full((2, 3), -1.5))
    return policy_loss(logp, spec=spec, **{**kwargs, **changes})


def test_policy_loss_by_hand():
    logp = jnp.full((2, 3), -1.0)
    mean, metrics = _loss(PolicySpec(beta=0.1), logp)
    kl = np.exp(-0.5) + 0.5 - 1
    assert float(mean.total) == pytest.approx(-(1 - 0.1 * kl) - (-1 - 0.1 * kl), rel=1e-5)
    assert float(mean.weight) == 2
    assert float(metrics["kl_ref"].value()) == pytest.approx(kl, rel=1e-5)
    assert float(metrics["ratio"].value()) == 1.0


def test_what_is_logged_of_the_clip_by_hand():
    """Cut are good tokens grown too likely and bad ones grown too unlikely."""
    ratio = np.array([[0.5, 0.5, 1.5], [0.5, 1.5, 1.5]])
    _, metrics = _loss(PolicySpec(), jnp.log(ratio), logp_old=jnp.zeros((2, 3)),
                       mask=jnp.ones((2, 3), bool))
    wanted = {"clipped_high": 1 / 6, "clipped_low": 1 / 6, "ratio": 1.0,
              "kl_old": (1 / ratio - np.log(1 / ratio) - 1).mean()}
    for name, value in wanted.items():
        assert float(metrics[name].value()) == pytest.approx(value, rel=1e-5), name


def test_gradient_is_text_only_and_length_normalised():
    logp = jnp.full((2, 3), -1.0)
    grad = jax.grad(lambda x: _loss(PolicySpec(beta=0.0), x)[0].value())(logp)
    np.testing.assert_allclose(grad, [[-0.25, -0.25, 0], [0.5, 0, 0]], atol=1e-6)


def test_values_outside_the_mask_do_no_harm():
    bad = jnp.array([[-1.0, -1.0, jnp.nan], [-1.0, 500.0, -jnp.inf]])
    grad = jax.grad(lambda x: _loss(PolicySpec(), x, logp_old=bad, logp_ref=bad)[0].value())(bad)
    assert np.isfinite(grad).all() and grad[1, 0] > 0


def test_variants():
    dr, dapo = PolicySpec.dr_grpo(3), PolicySpec.dapo()
    assert (dr.normalisation, dr.divide_by_std) == ("constant", False)
    assert (dapo.clip_high, dapo.normalisation, dapo.drop_equal_groups) == (0.28, "token", True)
    mean, metrics = _loss(dapo, jnp.full((2, 3), -1.0), logp_ref=None)
    assert (float(mean.total), float(mean.weight)) == pytest.approx((-2.0 + 1.0, 3.0))
    assert "kl_ref" not in metrics
    mean, _ = _loss(PolicySpec.dr_grpo(3, beta=0.0), jnp.full((2, 3), -1.0))
    assert float(mean.total) == pytest.approx((-2.0 + 1.0) / 3)
    with pytest.raises(InputError, match="budget"):
        PolicySpec(normalisation="constant")
    with pytest.raises(InputError, match="reference"):
        _loss(PolicySpec(), jnp.zeros((2, 3)), logp_ref=None)


def test_sequence_ratio_by_hand():
    """Two of three tokens count: the mean log-ratio is (0.2 - 0.6) / 2, at every token."""
    log_ratio = jnp.array([[0.2, -0.6, 9.0], [0.1, 0.1, 0.1]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(sequence_ratio(log_ratio, mask)[0], [-0.2] * 3, atol=1e-6)
    assert not sequence_ratio(log_ratio, mask)[1].any()


def test_gspo_by_hand():
    """ρ = exp(0.1) within 1 ± 0.2 counts with its gradient, spread evenly; outside it has none."""
    mask, old = jnp.ones((1, 2), bool), jnp.array([[-1.0, -2.0]])
    spec = PolicySpec.gspo(clip_low=0.2, clip_high=0.2)

    def loss(logp, advantage):
        return policy_loss(logp, old, jnp.array([advantage]), mask, spec)[0].value()

    near = old + jnp.array([[0.5, -0.3]])
    np.testing.assert_allclose(loss(near, 2.0), -2 * np.exp(0.1), rtol=1e-6)
    slope = jax.grad(loss)(near, 2.0)
    np.testing.assert_allclose(slope, [[-np.exp(0.1)] * 2], rtol=1e-5)
    far = old + jnp.array([[0.5, 0.3]])  # Mean 0.4: a ratio of 1.49.
    np.testing.assert_allclose(loss(far, 2.0), -2 * 1.2, rtol=1e-6)
    assert not jax.grad(loss)(far, 2.0).any()
    assert jax.grad(loss)(far, -2.0).all()


def test_latents_have_a_clip_of_their_own_by_hand():
    """Both ratios are 1.5: of the token 1.2 counts, without a gradient; the latent's is whole."""
    mask, old = jnp.ones((1, 2), bool), jnp.zeros((1, 2))
    latents = jnp.array([[False, True]])
    spec = PolicySpec(beta=0.0, latent_clip_low=0.6, latent_clip_high=0.9)

    def loss(logp, advantage, spec=spec):
        return policy_loss(logp, old, jnp.array([advantage]), mask, spec,
                           latents=latents)[0].value()

    high, low = jnp.log(jnp.full((1, 2), 1.5)), jnp.log(jnp.full((1, 2), 0.5))
    np.testing.assert_allclose(loss(high, 2.0), -2 * (1.2 + 1.5) / 2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(high, 2.0), [[0.0, -1.5]], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(low, -2.0), [[0.0, 0.5]], rtol=1e-6)
    as_tokens = dataclasses.replace(spec, latent_clip_low=0.0, latent_clip_high=0.0)
    np.testing.assert_allclose(loss(high, 2.0, as_tokens), -2 * 1.2, rtol=1e-6)
    metrics = policy_loss(high, old, jnp.array([2.0]), mask, spec, latents=latents)[1]
    assert metrics["clipped_high"].value() == 0.5
    with pytest.raises(InputError, match="none are given"):
        policy_loss(high, old, jnp.array([2.0]), mask, spec)
    with pytest.raises(InputError, match="ratio of each token"):
        PolicySpec.gspo(latent_clip_low=0.1)


def test_cispo_by_hand():
    """The weight is cut, its token keeps a gradient: -min(ρ, 1.5) A."""
    mask, old = jnp.ones((1, 2), bool), jnp.log(jnp.array([[0.25, 0.5]]))
    spec = PolicySpec.cispo(clip_high=0.5)

    def loss(logp):
        return policy_loss(logp, old, jnp.array([2.0]), mask, spec)[0].value()

    logp = jnp.log(jnp.array([[0.5, 0.6]]))  # Ratios 2 and 1.2.
    want = -(1.5 * 2 * np.log(0.5) + 1.2 * 2 * np.log(0.6)) / 2
    np.testing.assert_allclose(loss(logp), want, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(logp), [[-1.5, -1.2]], rtol=1e-5)


def test_truncated_importance_sampling_by_hand():
    """Old over sampled: 1.1 as it is, 3 cut to 2; both constant."""
    old, mask = jnp.log(jnp.array([[0.55, 0.6]])), jnp.ones((1, 2), bool)
    sampled = jnp.log(jnp.array([[0.5, 0.2]]))
    spec = PolicySpec(beta=0.0, sampled_cap=2.0)

    def loss(logp, sampled):
        return policy_loss(logp, old, jnp.array([1.0]), mask, spec,
                           logp_sampled=sampled)[0].value()

    np.testing.assert_allclose(loss(old, sampled), -(1.1 + 2.0) / 2, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(old, sampled), [[-0.55, -1.0]], rtol=1e-5)
    assert not jax.grad(loss, 1)(old, sampled).any()
    with pytest.raises(InputError, match="sampled_cap"):
        policy_loss(old, old, jnp.array([1.0]), mask, spec)


def test_entropy_bonus_by_hand():
    old, mask = jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[True, False]])
    spec = PolicySpec(beta=0.0, entropy=0.1)
    entropy = jnp.array([[0.7, 99.0]])
    loss = policy_loss(old, old, jnp.array([3.0]), mask, spec, entropy=entropy)[0].value()
    np.testing.assert_allclose(loss, -(3.0 + 0.07), rtol=1e-6)
    with pytest.raises(InputError, match="entrop"):
        policy_loss(old, old, jnp.array([3.0]), mask, spec)


def test_overlong_penalty_by_hand():
    """A budget of 100 with a margin of 20."""
    lengths = jnp.array([0.0, 80.0, 85.0, 90.0, 100.0])
    np.testing.assert_allclose(overlong_penalty(lengths, 100, 20), [0, 0, -0.25, -0.5, -1])


def test_direction_likelihood_by_hand():
    """Cosines 1, 0 and -1 at κ = 3; no gradient along the prediction or into the latent."""
    latents = jnp.array([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    predicted = jnp.array([[3.0, 0.0]] * 3)
    np.testing.assert_allclose(vmf_log_probs(latents, predicted, 3.0), [0, -3, -6], atol=1e-6)
    total = lambda a, b: vmf_log_probs(a, b, 3.0).sum()
    slope = jax.grad(total, 1)(latents, predicted)
    np.testing.assert_allclose(slope, [[0, 0], [0, 1.0], [0, 0]], atol=1e-6)
    assert not jax.grad(total)(latents, predicted).any()


def test_a_bad_cap_names_its_field():
    with pytest.raises(InputError, match="sampled_cap"):
        PolicySpec(sampled_cap=-1.0)
