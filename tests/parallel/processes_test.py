"""Processes of one run end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.workers import coordinated

from fourd4d.core.errors import InputError
from fourd4d.parallel import ending_together

ROOT = Path(__file__).parents[2]
WORK = """
import time
import numpy as np
from fourd4d.core.errors import InputError
from fourd4d.parallel import ending_together, start
with ending_together():
    start()
    import jax
    from jax.experimental import multihost_utils
    for i in range(10**6):
        multihost_utils.process_allgather(np.array(i))
        if i == 3:
            print("together", flush=True)
        if i > 3 and {fails} and jax.process_index() == 1:
            raise InputError("row 7", "it is bad", "Fix it")
        time.sleep(0.2)
"""


def test_alone_an_error_goes_its_way():
    with pytest.raises(InputError, match="as it was"), ending_together():
        raise InputError("x", "as it was")


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["killed", "failed"])
def test_when_one_is_gone_the_other_ends_within_a_minute_and_says_so(tmp_path, gone):
    script = tmp_path / "work.py"
    script.write_text(WORK.format(fails=gone == "failed"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                   "JAX_ENABLE_COMPILATION_CACHE": "false"}  # A kill leaves half an entry.
    first, second = (subprocess.Popen(
        [sys.executable, str(script)], env={**environment, **own}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True) for own in coordinated(2))
    try:
        for worker in (first, second):
            assert worker.stdout is not None
            assert any("together" in line for line in worker.stdout)
        if gone == "killed":
            second.send_signal(signal.SIGKILL)
        began = time.monotonic()
        said, _ = first.communicate(timeout=60)
        assert time.monotonic() - began < 60 and first.returncode == 1
        assert "another process of this run has ended" in said and "Traceback" not in said
        told, _ = second.communicate(timeout=60)
        assert gone == "killed" or "row 7: it is bad. Fix it." in told
    finally:
        for worker in (first, second):
            worker.kill()
            worker.wait()
