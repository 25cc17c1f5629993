#!/usr/bin/env bash
# JAX 0.10.2 on a CPU: two programs that share nothing, each of which keeps one core busy, called one
# after the other without waiting for the first (dispatch is asynchronous).
# Expected: on two idle cores both run at the same time, and take little longer than one.
# Seen: the call returns at once, and yet what one Python thread calls runs one after the other.
#       Called from two threads the same programs on the same device run side by side; so they do from
#       one thread on two devices.
# Hurt: who overlaps small CPU programs, such as two decoding loops, by dispatching both: half of the
#       machine stays idle, and no profile says why.
# Exits 0 while that is so, 1 when it changed; 2 where fewer than two cores are there to tell.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/overlap.py" <<'PY'
import os
import sys
import threading
import time

import jax
import jax.numpy as jnp

if len(os.sched_getaffinity(0)) < 2:
    print("fewer than two cores")
    sys.exit(2)


@jax.jit
def steps(x):  # Small operations one after the other: a core each.
    return jax.lax.fori_loop(0, 20_000, lambda _, x: jnp.tanh(x @ x), x)


def inputs(devices):
    return [jax.device_put(jnp.eye(32), device) for device in devices]


def least(call):
    def once():
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    return min(once() for _ in range(7))


def back(x):
    """The share of the program's time after which a call is back."""
    began = time.perf_counter()
    result = steps(x)
    waited = time.perf_counter() - began
    result.block_until_ready()
    return waited / (time.perf_counter() - began)


def threads(parts):
    running = [threading.Thread(target=lambda x=x: steps(x).block_until_ready()) for x in parts]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


first, second = jax.devices()
same, apart = inputs((first, first)), inputs((first, second))
jax.block_until_ready([steps(x) for x in same + apart])
one = least(lambda: steps(same[0]).block_until_ready())
dispatched = least(lambda: jax.block_until_ready([steps(x) for x in same])) / one
devices = least(lambda: jax.block_until_ready([steps(x) for x in apart])) / one
threaded = least(lambda: threads(same)) / one
print("JAX", jax.__version__, "| expected: two programs take about as long as one")
returned = min(back(same[0]) for _ in range(7))
print(f"seen: a call is back after {returned:.3f} of its program's time; two programs take "
      f"{dispatched:.2f} times as long as one, from two threads {threaded:.2f}, on two devices "
      f"{devices:.2f}")
sys.exit(not (returned < 0.2 and dispatched > 1.7 and threaded < 1.5 and devices < 1.5))
PY
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 \
  "$folder/venv/bin/python" "$folder/overlap.py"
