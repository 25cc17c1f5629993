"""The launchers against stand-ins for ``gcloud``, ``ssh``, ``srun`` and Python that note calls."""

import json
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "gs://a bucket/it's"  # Both must be quoted for the far shell.
STAND_IN = f"""#!{sys.executable}
import json, os, shutil, sys
with open(os.environ["SEEN"], "a") as out:
    out.write(json.dumps(sys.argv[1:]) + "\\n")
if "scp" in sys.argv:
    shutil.copy(sys.argv[5], os.environ["SEEN"] + ".tar.gz")
sys.exit(int(os.environ.get("FAIL", 0)))
"""

bundles = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="bundles a git checkout")


@pytest.fixture
def launch(tmp_path):
    stand_in = tmp_path / "bin" / "gcloud"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    seen = tmp_path / "seen"

    def call(*args, **environment):
        done = subprocess.run(
            [ROOT / "launch" / "tpu_train.sh", *args], capture_output=True, text=True,
            env=os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}",
                              "SEEN": str(seen)} | environment)
        noted = seen.read_text().splitlines() if seen.is_file() else []
        return done, [json.loads(line) for line in noted]

    return call


@bundles
def test_every_worker_gets_the_code_and_the_command(launch, tmp_path):
    done, calls = launch("slice", "zone-a", "dift", "--config=configs/dift_tiny.py",
                         f"--config.workdir={BUCKET}", PROJECT="mine")
    assert done.returncode == 0, done.stderr
    assert [call[3] for call in calls] == ["scp", "ssh", "ssh"]
    for call in calls:
        assert call[call.index("--zone") + 1] == "zone-a"
        assert call[call.index("--worker") + 1] == "all"
        assert call[call.index("--project") + 1] == "mine"
    run = calls[-1][calls[-1].index("--command") + 1]
    assert shlex.split(run)[-4:] == [
        "-m", "fourd4d.dift", "--config=configs/dift_tiny.py", f"--config.workdir={BUCKET}"]
    with tarfile.open(tmp_path / "seen.tar.gz") as bundle:
        names = bundle.getnames()
    assert "setup.py" in names and "fourd4d/dift/__main__.py" in names


@bundles
def test_a_failing_step_stops_the_rest(launch):
    done, calls = launch("slice", "zone-a", "rl", "--config=configs/rl_tiny.py", FAIL="3")
    assert done.returncode == 3 and len(calls) == 1


@pytest.mark.parametrize("args, told", [
    (("slice", "zone-a", "shell", "x"), "unknown command 'shell'"),
    (("slice", "zone-a"), "NAME ZONE COMMAND"),
])
def test_wrong_calls_are_told_and_reach_no_cloud(launch, args, told):
    done, calls = launch(*args)
    assert done.returncode == 2 and told in done.stderr and not calls


NOTE = f"""#!{sys.executable}
import json, os, sys, time
with open(os.environ["SEEN"], "a") as out:
    out.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
stays = os.environ.get("STAYS")
if sys.argv[-2] == stays:
    time.sleep(600)
while stays and not any(json.loads(line)[-2] == stays for line in open(os.environ["SEEN"])):
    time.sleep(0.01)  # It is to be there when this one fails.
sys.exit(int(os.environ.get("FAIL", 0)))
"""


@pytest.fixture
def gpu(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ssh", "srun", "interpreter"):
        (folder / name).write_text(NOTE)
        (folder / name).chmod(0o755)
    seen = tmp_path / "seen"
    outside = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}

    def call(*args, **environment):
        done = subprocess.run(
            [ROOT / "launch" / "gpu_train.sh", *args], capture_output=True, text=True, timeout=60,
            env=outside | {"PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(seen),
                           "PYTHON": str(folder / "interpreter")} | environment)
        noted = seen.read_text().splitlines() if seen.is_file() else []
        return done, [json.loads(line) for line in noted]

    return call


RUN = ["-m", "fourd4d.dift", "--config=configs/dift_3b.py", f"--config.workdir={BUCKET}"]
GIVEN = ("dift", *RUN[2:])


def test_one_node_runs_the_command_itself(gpu):
    done, calls = gpu(*GIVEN)
    assert done.returncode == 0, done.stderr
    assert calls == [["interpreter", *RUN]]
    assert gpu(*GIVEN, FAIL="3")[0].returncode == 3


def test_every_host_runs_one_process_that_knows_the_others(gpu):
    done, calls = gpu(*GIVEN, HOSTS="a,b,c")
    assert done.returncode == 0, done.stderr
    assert sorted(call[-2] for call in calls) == ["a", "b", "c"]
    for call in calls:
        assert call[0] == "ssh"
        words = shlex.split(call[-1])
        assert words[:2] == ["cd", str(ROOT)] and words[3:5] == ["exec", "env"]
        assert words[5:8] == ["JAX_COORDINATOR_ADDRESS=a:8476", "JAX_NUM_PROCESSES=3",
                              f"JAX_PROCESS_ID={'abc'.index(call[-2])}"]
        assert words[9:] == RUN


def test_when_one_host_fails_the_others_are_ended(gpu):
    done, calls = gpu(*GIVEN, HOSTS="a,b", STAYS="b", FAIL="7")
    assert done.returncode == 7 and "one of a,b ended with 7" in done.stderr
    assert len(calls) == 2


def test_slurm_starts_a_process_for_each_gpu(gpu):
    done, calls = gpu(*GIVEN, SLURM_JOB_ID="5", SLURM_NNODES="2", GPUS="4", SRUN="--label -u")
    assert done.returncode == 0, done.stderr
    (call,) = calls
    assert call[:6] == ["srun", "--ntasks-per-node=4", "--ntasks=8", "--kill-on-bad-exit=1",
                        "--label", "-u"]
    assert call[7:] == RUN
    done, calls = gpu(*GIVEN, SLURM_JOB_ID="5", SLURM_PROCID="1")  # Already inside srun.
    assert calls[-1] == ["interpreter", *RUN]


@pytest.mark.parametrize("args, told", [
    (("shell", "x"), "unknown command 'shell'"), (("dift",), "COMMAND --config")])
def test_wrong_calls_start_nothing(gpu, args, told):
    done, calls = gpu(*args, HOSTS="a")
    assert done.returncode == 2 and told in done.stderr and not calls
