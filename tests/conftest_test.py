"""The test process itself: programs that no test needs any more are let go."""

import gc

import jax
import jax.numpy as jnp
import pytest
from conftest import memory_maps


@pytest.mark.slow
def test_programs_hold_memory_maps_until_their_caches_are_cleared():
    x = jnp.ones(4)
    functions = [jax.jit(lambda x, i=i: jnp.sort(x * 3 + i)) for i in range(40)]
    before = memory_maps()
    for function in functions:
        function(x)
    held = memory_maps()
    jax.clear_caches()
    gc.collect()
    assert held - before >= 40 and memory_maps() - before < (held - before) / 2
