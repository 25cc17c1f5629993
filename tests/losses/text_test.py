"""Chunked log-probabilities against the plain formula, in value and in gradient."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fourd4d.bench.common import roofline
from fourd4d.losses import text_loss, token_log_probs_and_entropy
from fourd4d.parallel import make_mesh, use

B, L, D, V = 4, 11, 6, 24


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    return (jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (D, V)),
            jax.random.randint(keys[2], (B, L), 0, V))


def plain(hidden, head, targets, temperature=1.0, valid=V):
    logits = jnp.where(jnp.arange(V) < valid, hidden @ head / temperature, -jnp.inf)
    table = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(table, targets[..., None], -1)[..., 0]
    p = jnp.exp(table)
    return picked, -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, table, 0.0), 0.0), -1)


def test_by_hand():
    # Logits (0, ln 3): probabilities 1/4 and 3/4.
    logp, entropy = token_log_probs_and_entropy(
        jnp.ones((1, 1, 1)), jnp.array([[0.0, np.log(3.0)]]), jnp.array([[0]]))
    assert float(logp[0, 0]) == pytest.approx(np.log(0.25))
    assert float(entropy[0, 0]) == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))


@pytest.mark.parametrize("chunk", [None, 1, 4, 64])
def test_chunks_change_nothing(arrays, chunk):
    hidden, head, targets = arrays
    targets = targets % 20

    def ours(hidden, head):
        logp, entropy = token_log_probs_and_entropy(
            hidden, head, targets, temperature=0.7, chunk=chunk, valid_vocab=20)
        return jnp.sum(logp * jnp.arange(L)) + 0.3 * jnp.sum(entropy), (logp, entropy)

    def theirs(hidden, head):
        logp, entropy = plain(hidden, head, targets, 0.7, 20)
        return jnp.sum(logp * jnp.arange(L)) + 0.3 * jnp.sum(entropy), (logp, entropy)

    ours_grad, ours_out = jax.jit(jax.grad(ours, (0, 1), has_aux=True))(hidden, head)
    grad, out = jax.jit(jax.grad(theirs, (0, 1), has_aux=True))(hidden, head)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours_out, out)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours_grad, grad)
    assert not np.any(ours_grad[1][:, 20:])


def test_all_logits_never_exist():
    """No array of the compiled gradient is as large as the logits."""
    rows, length, width, vocab = 2, 512, 4, 8192
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, length, width), (width, vocab))]
    targets = jnp.zeros((rows, length), jnp.int32)

    def temporary(chunk):
        f = jax.grad(lambda h, w: jnp.sum(
            token_log_probs_and_entropy(h, w, targets, chunk=chunk)[0]), (0, 1))
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    logits = rows * length * vocab * 4
    assert temporary(16) < logits / 4
    assert temporary(length) > logits  # What the comparison would look like without chunks.


def test_head_gradient_adds_up_in_float32():
    """Many chunks of bfloat16: each adds less than a bfloat16 rounding step to the sum."""
    hidden = jnp.full((1, 512, 1), 1.0, jnp.bfloat16)
    head, targets = jnp.zeros((1, 2), jnp.bfloat16), jnp.zeros((1, 512), jnp.int32)
    grad = jax.grad(lambda w: jnp.sum(
        token_log_probs_and_entropy(hidden, w, targets, chunk=1)[0]))(head)
    np.testing.assert_allclose(np.asarray(grad, np.float32), [[256.0, -256.0]], rtol=1e-2)


def test_text_loss_shifts_weighs_and_respects_segments(arrays):
    hidden, head, tokens = arrays
    weights = jnp.ones((B, L)).at[:, 5:].set(0.5).at[:, 3].set(0.0)
    segments = jnp.where(jnp.arange(L) < 4, 1, 2) * jnp.ones((B, 1), jnp.int32)
    mean = text_loss(hidden, head, tokens, weights, segment_ids=segments)
    logp, _ = plain(hidden[:, :-1], head, tokens[:, 1:])
    w = np.array([1, 1, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])  # Position 4 starts a segment.
    assert float(mean.weight) == pytest.approx(B * w.sum())
    assert float(mean.total) == pytest.approx(float(-(logp * w).sum()), rel=1e-5)
    # The first token of a row is never predicted, whatever its weight.
    assert float(text_loss(hidden, head, tokens, jnp.ones((B, L))).weight) == B * (L - 1)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("inside", [False, True])
def test_sharded_equals_unsharded(devices, arrays, chunk, inside):
    """Rows over data and fsdp, vocabulary over tensor; inside a mesh's context or not."""
    hidden, head, tokens = arrays
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)
    weights = jnp.ones((B, L))

    def f(hidden, head, tokens):
        return text_loss(hidden, head, tokens, weights, chunk=chunk, valid_vocab=20).value()

    step = jax.jit(jax.value_and_grad(f, (0, 1)))
    value, grads = step(hidden, head, tokens % 20)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    columns = NamedSharding(mesh, P(None, "tensor"))
    placed = jax.device_put((hidden, head, tokens % 20), (rows, columns, rows))
    with use(mesh) if inside else contextlib.nullcontext():
        value_s, grads_s = step(*placed)
    np.testing.assert_allclose(value_s, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads_s, grads)


def test_the_head_is_exchanged_once_for_all_chunks(devices):
    """Its parts are gathered before the first chunk, and its gradients added up after the last."""
    mesh, vocab = make_mesh({"fsdp": 4, "tensor": 2}, devices), 96
    hidden, head = jnp.ones((4, 65, 8), jnp.bfloat16), jnp.ones((8, vocab))

    def step(hidden, head):
        return jax.value_and_grad(lambda w: token_log_probs_and_entropy(
            hidden, w, jnp.zeros((4, 65), jnp.int32), chunk=5)[0].sum())(head)

    rows, parts = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P("fsdp", "tensor"))
    with use(mesh):
        text = jax.jit(step, out_shardings=(NamedSharding(mesh, P()), parts)).lower(
            *jax.device_put((hidden, head), (rows, parts))).compile().as_text()
    sent = sum(roofline.cost(text).sent_bytes.values())
    assert 0 < sent < 6 * 4 * head.size  # 13 chunks.


def test_rows_that_a_mesh_does_not_divide_are_scored_all_the_same(devices, arrays):
    hidden, head, tokens = arrays
    want = token_log_probs_and_entropy(hidden[:3], head, tokens[:3] % 20, chunk=4)
    with use(make_mesh("data=4", devices[:4])):
        got = jax.jit(lambda *args: token_log_probs_and_entropy(*args, chunk=4))(
            hidden[:3], head, tokens[:3] % 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
