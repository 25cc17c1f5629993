"""Every implementation of attention gives what plain NumPy gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.models import attention
from fourd4d.models.attention import attend
from fourd4d.models.flash import attend_flash
from fourd4d.models.splash import attend_splash
from fourd4d.parallel import make_mesh, use

pytestmark = pytest.mark.usefixtures("highest_precision")


def inputs(b=3, t=128, s=128, n=4, k=2, h=16, seed=0, segments=3):
    rng = np.random.default_rng(seed)
    q, key, v = (rng.standard_normal(shape).astype(np.float32)
                 for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, h)))
    ids = np.sort(rng.integers(0, segments + 1, (b, s)), 1).astype(np.int32)
    return tuple(map(jnp.asarray, (q, key, v, ids[:, s - t :], ids)))


def reference(q, k, v, query_ids, key_ids, first):
    """One query at a time, in float64."""
    q, k, v, query_ids, key_ids = map(np.asarray, (q, k, v, query_ids, key_ids))
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = (key_ids[b] == query_ids[b, t]) & (key_ids[b] != 0)
        if first is not None:
            seen &= np.arange(k.shape[1]) <= first + t
        if seen.any():
            scores = k[b, seen, n // group].astype(float) @ q[b, t, n] / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights / weights.sum() @ v[b, seen, n // group]
    return out


@pytest.mark.parametrize("first", [None, 0, 6])
@pytest.mark.parametrize("implementation", ["xla", "rows"])
def test_plain(implementation, first, monkeypatch):
    monkeypatch.setattr(attention, "_ROWS_BUDGET", 1)
    q, k, v, query_ids, key_ids = inputs(t=12 if first else 18, s=18)
    out = jax.jit(attend, static_argnums=(5, 6))(q, k, v, query_ids, key_ids, first,
                                                 implementation)
    real = query_ids > 0
    np.testing.assert_allclose(np.asarray(out)[real],
                               reference(q, k, v, query_ids, key_ids, first)[real], atol=1e-5)
    assert np.isfinite(out).all()


def test_long_rows_are_taken_in_parts(monkeypatch):
    """Values, gradients, and memory that grows as queries do."""
    q, k, v, ids, _ = inputs(b=2, t=75, s=75)
    real = (ids > 0)[..., None, None]

    def run(implementation):
        return jax.jit(jax.value_and_grad(lambda q, k, v: (jnp.where(real, attend(
            q, k, v, ids, ids, 0, implementation), 0) ** 2).sum(), (0, 1, 2)))

    want = run("xla")(q, k, v)
    monkeypatch.setattr(attention, "_LONG", 1)
    monkeypatch.setattr(attention, "_ROWS_BUDGET", 4 * 75 * 8)  # Eight queries at a time.
    program = run("rows").lower(q, k, v)
    assert "75x75xf32" not in program.as_text() and "75x75xf32" in run("xla").lower(
        q, k, v).as_text()
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(program.compile()(q, k, v)),
                    strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_splash_and_its_gradient(causal):
    q, k, v, query_ids, key_ids = inputs(b=2)
    real = (query_ids > 0)[..., None, None]
    first = 0 if causal else None

    def total(function):
        return jax.value_and_grad(
            lambda q, k, v: (jnp.where(real, function(q, k, v), 0) ** 2).sum(), (0, 1, 2))

    want = total(lambda *a: attend(*a, query_ids, key_ids, first, "xla"))(q, k, v)
    got = total(lambda *a: attend_splash(*a, query_ids, key_ids, causal=causal, interpret=True))(
        q, k, v)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["splash", "flash"])
def test_kernels_on_a_mesh(kernel, devices, monkeypatch):
    """Rows, heads and, of splash, queries are split; keys are whole on every device."""
    q, k, v, segments, _ = inputs(b=2, t=256, s=256)
    real, seen = (segments > 0)[..., None, None], []

    def total(q, k, v):
        own = (dict(query_segments=segments, key_segments=segments) if kernel == "splash" else
               dict(segments=segments))
        out = {"splash": attend_splash, "flash": attend_flash}[kernel](
            q, k, v, **own, causal=True, interpret=True)
        return (jnp.where(real, out, 0) ** 2).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    want = run(q, k, v)
    plain = jax.shard_map
    monkeypatch.setattr(jax, "shard_map", lambda *a, **kw: (seen.append(kw), plain(*a, **kw))[1])
    with use(make_mesh("data=2,tensor=2,context=2", devices)):
        got = run(q, k, v)
    assert seen[0]["out_specs"] == jax.P(
        "data", "context" if kernel == "splash" else None, "tensor", None)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("causal", "length"), [(True, 200), (False, 40)])
def test_flash_and_its_gradient(causal, length):
    """At lengths that its blocks do not divide."""
    q, k, v, segments, _ = inputs(b=2, t=length, s=length)
    real = (segments > 0)[..., None, None]

    def total(function):
        return jax.jit(jax.value_and_grad(
            lambda q, k, v: (jnp.where(real, function(q, k, v), 0) ** 2).sum(), (0, 1, 2)))

    want = total(lambda *a: attend(*a, segments, segments, 0 if causal else None, "xla"))(q, k, v)
    got = total(lambda *a: attend_flash(*a, segments, causal=causal, interpret=True))(q, k, v)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("implementation", "dense"), [("flash", False), ("xla", True)])
def test_a_gpus_program_has_no_mask_of_queries_by_keys(implementation, dense):
    q, k, v, segments, _ = inputs(b=2, t=384, s=384)

    def loss(q, k, v):
        return attend(q, k, v, segments, segments, 0, implementation).astype(jnp.float32).sum()

    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    text = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*half).lower(
        lowering_platforms=("cuda",)).as_text()
    assert ("384x384x" in text) == dense
    assert ("triton" in text) != dense


@pytest.mark.parametrize("first", [None, 0])
def test_cudnn_gets_no_query_that_sees_nothing(first, monkeypatch):
    """On a GPU the gradient of such a query is NaN."""
    masks, plain = [], jax.nn.dot_product_attention

    def kernel(q, k, v, mask, implementation):
        masks.append(mask)
        return plain(q, k, v, mask=mask)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    q, k, v, query_ids, key_ids = inputs()
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = attend(*half, query_ids, key_ids.at[0].set(0), first, "cudnn")
    assert len(masks) == 1 and masks[0].any(-1).all()
    real = np.array(query_ids > 0)
    real[0] = False
    np.testing.assert_allclose(np.asarray(out, np.float32)[real], reference(
        *half, query_ids, key_ids, first)[real], atol=0.03)


def test_an_implementation_asked_for_by_name_never_falls_back():
    q, k, v, query_ids, key_ids = inputs(t=100, s=100)
    with pytest.raises(InputError, match="multiples of 128"):
        attend(q, k, v, query_ids, key_ids, 0, "splash")
    with pytest.raises(InputError, match="float32"):
        attend(q, k, v, query_ids, key_ids, 0, "cudnn")
