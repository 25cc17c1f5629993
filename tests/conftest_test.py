"""The test process itself: XLA's flags; programs that no test needs any more are let go."""

import gc
import os

import jax
import jax.numpy as jnp
import pytest
from conftest import has_flag, memory_maps


def test_flags_that_this_xla_has_not_are_told_apart():
    assert has_flag("xla_force_host_platform_device_count")
    assert not has_flag("xla_cpu_use_fusion") and not has_flag("xla_no_such_flag")
    assert "xla_force_host_platform_device_count=8" in os.environ["XLA_FLAGS"]


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
