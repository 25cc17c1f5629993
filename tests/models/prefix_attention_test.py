"""Attention over several parts is attention over their keys side by side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.models import prefix_attention
from fourd4d.models.attention import attend_xla, visible
from fourd4d.models.prefix_attention import Part, attend_parts
from fourd4d.parallel import make_mesh, use

P, G, T, S, N, K, H = 3, 2, 8, 5, 4, 2, 8
B = P * G


def inputs(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    segments = np.ones((B, T), np.int32)
    segments[1, -3:] = 0
    shared = np.ones((P, S), np.int32)
    shared[0, :2] = shared[2, 4:] = 0  # Padding on either side.
    cached = np.ones((B, S), np.int32)
    cached[:, 3:] = 0  # Slots not written yet.
    return dict(
        q=normal(B, T, N, H), k=normal(B, T, K, H), v=normal(B, T, K, H),
        segments=jnp.asarray(segments),
        past=(Part(normal(P, S, K, H), normal(P, S, K, H), jnp.asarray(shared)),
              Part(normal(B, S, K, H), normal(B, S, K, H), jnp.asarray(cached))),
    )


def plain(q: Any, k: Any, v: Any, segments: Any, past: Any) -> Any:
    """All keys copied side by side."""
    wide = [Part(*(jnp.repeat(x, B // x.shape[0], axis=0) for x in
                   (part.keys, part.values, part.segment_ids))) for part in past]
    masks = [visible(segments, part.segment_ids, None) for part in wide]
    return attend_xla(q, jnp.concatenate([*(part.keys for part in wide), k], 1),
                      jnp.concatenate([*(part.values for part in wide), v], 1),
                      jnp.concatenate([*masks, visible(segments, segments, 0)], 2))


@pytest.fixture(params=["whole", "rows", "queries"])
def way(request: Any, monkeypatch: Any) -> str:
    if request.param == "rows":
        monkeypatch.setattr(prefix_attention, "_SCORES", 1)
    if request.param == "queries":
        monkeypatch.setattr(prefix_attention, "platform", lambda: "gpu")
        monkeypatch.setattr(prefix_attention, "_QUERIES", (1, 3))  # Of 8: the last step is padded.
    return request.param


def test_parts_are_side_by_side(way: str) -> None:
    made = inputs()
    real = np.asarray(made["segments"]) > 0
    out = attend_parts(made["q"], made["k"], made["v"], made["segments"], made["past"])
    np.testing.assert_allclose(np.asarray(out)[real], np.asarray(plain(**made))[real], atol=1e-5)
    assert np.isfinite(out).all()


def test_steps_are_as_long_as_a_device_has_room_for(devices: Any) -> None:
    def size(rows: int, keys: int) -> int:
        return prefix_attention._queries_at_once(jnp.zeros((rows, 512, 4, 8)), keys)

    keys = prefix_attention._GPU_SCORES // (8 * 4 * 32)  # 8 rows of 4 heads: 32 queries fill it.
    assert size(8, keys) == 32 and size(8, keys + 1) == 16 and size(8, 8) == 256
    assert size(8, 16 * keys) == 8
    with use(make_mesh({"fsdp": 2, "tensor": 2}, devices)):
        assert size(8, keys) == 128  # A quarter of them is here.


def test_gradients_too(way: str) -> None:
    made = inputs(1)
    weights = np.random.default_rng(2).standard_normal((B, T, N, H)) * (
        np.asarray(made["segments"]) > 0)[:, :, None, None]

    def loss(function: Any, arrays: Any) -> Any:
        q, k, v, past = arrays
        past = tuple(Part(*pair, old.segment_ids)
                     for pair, old in zip(past, made["past"], strict=True))
        return jnp.sum(weights * function(q, k, v, made["segments"], past))

    arrays = made["q"], made["k"], made["v"], tuple(
        (part.keys, part.values) for part in made["past"])
    found = [jax.jit(jax.grad(loss, argnums=1), static_argnums=0)(function, arrays)
             for function in (attend_parts, plain)]
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_one_query_decodes_against_parts() -> None:
    made = inputs(3)
    one = {name: made[name][:, :1] for name in ("q", "k", "v", "segments")}
    out = attend_parts(one["q"], one["k"], one["v"], one["segments"], made["past"])
    np.testing.assert_allclose(out, plain(**one, past=made["past"]), atol=1e-5)
