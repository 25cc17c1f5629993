"""Rows that look into prompts: what a CPU reads, a few prompts at once, is what all read."""

import jax.numpy as jnp
import numpy as np
import pytest

from fourd4d.models import prefix_attention
from fourd4d.models.prefix_attention import SlotPart, attend_parts

LAYERS, PROMPTS, KV, HEADS, HEAD, LENGTH = 2, 11, 2, 4, 8, 300


def part(each, used, width, rng):
    """Prompts of many lengths, ``used`` of them with up to ``width`` rows each, in no order."""
    rows = len(each)
    keys = rng.normal(size=(LAYERS, PROMPTS, KV, HEAD, LENGTH)).astype(np.float32)
    values = rng.normal(size=(LAYERS, PROMPTS, KV, LENGTH, HEAD)).astype(np.float32)
    segments = np.zeros((PROMPTS, LENGTH), np.int32)
    for number, length in enumerate(rng.permutation([1, 63, 64, 65, 96, 97, 160, 255, 256, 299,
                                                     300])):
        segments[number, :length] = 1
    looks = np.full((1, PROMPTS, width), rows, np.int32)
    place = np.full((1, rows), PROMPTS * width, np.int32)
    for row, prompt in enumerate(each):
        if prompt >= 0:
            free = int(np.flatnonzero(looks[0, prompt] == rows)[0])
            looks[0, prompt, free] = row
            place[0, row] = prompt * width + free
    return SlotPart(jnp.asarray(1), *map(jnp.asarray, (keys, values, segments, looks, place)))


@pytest.mark.parametrize("used, width", [
    (6, 2), (11, 3),
    *(pytest.param(used, 1, marks=pytest.mark.slow) for used in (1, 3, 4, 11))])
def test_a_few_prompts_at_once_give_what_all_together_give(used, width, monkeypatch):
    rng = np.random.default_rng(used + width)
    each = np.repeat(rng.permutation(PROMPTS)[:used], width)
    each = rng.permutation(np.append(each[: len(each) - (width > 1)], -1))  # One row has ended.
    live = jnp.asarray(each >= 0, jnp.int32)[:, None]
    q, k, v = (jnp.asarray(rng.normal(size=(len(each), 1, n, HEAD)), jnp.float32)
               for n in (HEADS, KV, KV))
    held = part(each, used, width, rng)
    monkeypatch.setattr(prefix_attention, "one_cpu", lambda: True)
    got = attend_parts(q, k, v, live, [held])
    monkeypatch.setattr(prefix_attention, "one_cpu", lambda: False)
    want = attend_parts(q, k, v, live, [held])
    np.testing.assert_allclose(got[each >= 0], want[each >= 0], atol=2e-6)


def test_little_more_than_its_length_is_read_of_a_prompt():
    for length in (1, 64, 65, 300, 384, 1024, 16_384, 5000):
        sizes = prefix_attention._sizes(length)
        assert sizes == sorted(set(sizes)) and sizes[-1] == length and len(sizes) < 36
        for one in range(65, length, 7):
            assert next(size for size in sizes if size >= one) <= 1.5 * one
