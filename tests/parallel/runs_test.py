"""Runs on several processes: the numbers of one, and the same command goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.data import sample, write_dataset
from helpers.workers import coordinated

ROOT = Path(__file__).parents[2]
REWARD = """
def by_length(sample, text):
    \"\"\"Random models are never right; something has to differ inside a group.\"\"\"
    return len(text) % 5 / 5
"""
ARGUMENTS = {
    "dift": ["--config=configs/dift_tiny.py", "--config.batch=4", "--config.data.held_out="],
    "rl": ["--config=configs/rl_tiny.py", "--config.prompts=4", "--config.rl.group=2",
           "--config.sampling.max_tokens=12", "--config.sampling.max_latents=4",
           "--config.policy.mask_truncated=False",
           "--config.rewards.functions=('by_length:by_length=1.0',)"],
}
LEARNT = {"dift": ("loss", "text_loss", "imagery_loss", "grad_norm"),
          "rl": ("loss", "reward", "grad_norm")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "by_length.py").write_text(REWARD)
    return write_dataset(folder, [sample(i, frames=2) for i in range(12)])


def started(command, data, workdir, processes, devices=4):
    """The processes of a run over ``devices`` devices in all."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
             "PYTHONPATH": os.pathsep.join([str(ROOT), str(data.parent)]),
             "JAX_ENABLE_COMPILATION_CACHE": "false"}  # A kill leaves half an entry.
    line = [sys.executable, "-m", f"fourd4d.{command}", *ARGUMENTS[command], "--config.init=",
            "--config.preset=tiny", f"--config.data.path={data}", f"--config.workdir={workdir}",
            f"--config.mesh=data={devices}", "--config.steps=6", "--config.save_every=2",
            "--config.log_every=1", "--config.optimizer.schedule=constant",
            "--config.optimizer.warmup_steps=0"]
    return [subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **flags, **own})
        for own in (coordinated(processes) if processes > 1 else [{}])]


def ended(workers):
    """Waits for all, which must end well."""
    for worker in workers:
        said, _ = worker.communicate(timeout=600)
        assert worker.returncode == 0, said


def metrics(workdir, command):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: {name: row[name] for name in LEARNT[command]} for row in rows
            if "loss" in row}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dift", "rl"])
def test_several_processes_have_the_numbers_of_one(command, data, tmp_path):
    found = {}
    for processes in (1, 2, 4):
        ended(started(command, data, tmp_path / str(processes), processes))
        found[processes] = metrics(tmp_path / str(processes), command)
    norms = [row["grad_norm"] for _, row in sorted(found[1].items())]
    assert len(norms) == len({*norms, 0.0}) - 1 == 6
    for processes in (2, 4):
        assert found[processes].keys() == found[1].keys()
        for step, row in found[1].items():
            assert found[processes][step] == pytest.approx(row, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dift", "rl"])
def test_one_killed_ends_the_others_and_the_same_command_goes_on(command, data, tmp_path):
    ended(started(command, data, tmp_path / "whole", 2))
    first, second = started(command, data, tmp_path / "killed", 2)
    try:
        until = time.monotonic() + 600
        while not (tmp_path / "killed" / "metrics.jsonl").exists() or max(
                metrics(tmp_path / "killed", command), default=0) < 3:
            assert first.poll() is None and second.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        said, _ = first.communicate(timeout=60)
        # Whichever sees it first: the exchange, or JAX's service, which aborts the process.
        assert (first.returncode == 1 and "another process of this run has ended" in said) or (
            first.returncode == -signal.SIGABRT and "another task died" in said), said
        assert "Traceback" not in said
    finally:
        for worker in (first, second):
            worker.kill()
            worker.wait()
    ended(started(command, data, tmp_path / "killed", 2))
    assert metrics(tmp_path / "killed", command) == metrics(tmp_path / "whole", command)
