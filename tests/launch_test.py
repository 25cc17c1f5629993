"""The TPU launcher against a stand-in for ``gcloud`` that notes what it is told."""

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
